# make book, make test; `make help` lists the rest. Everything happens in .venv, made on demand.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: book test edition record lint lock clean help

PY ?= python3
BIN := .venv/bin
PROFILE ?= demo
ONLY ?=
BUILD_BOOK := $(BIN)/jupyter-book build -W -n --keep-going -q

.venv/.installed: pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11 to 3.13 is needed; name one: make book PY=python3.12"; exit 1; }
	$(PY) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[segment,fetch,web,book,dev]'
	@touch $@

book: .venv/.installed  ## execute the notebooks that changed (ONLY=06, PROFILE=demo) and build the book
	$(BIN)/python book/build.py run --profile $(PROFILE) --only "$(ONLY)"
	$(BUILD_BOOK) .
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

test: .venv/.installed  ## run all tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

edition: .venv/.installed  ## build the book from the committed, executed notebooks; runs nothing
	$(BIN)/python book/build.py stage
	$(BUILD_BOOK) _build/edition
	@echo "The edition of record: file://$(CURDIR)/_build/edition/_build/html/index.html"

record: .venv/.installed  ## keep the last executions (of ONLY=...) as the edition of record
	$(BIN)/python book/build.py record --only "$(ONLY)"

lint: .venv/.installed  ## ruff, mypy, docstrings, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --diff .
	$(BIN)/mypy
	$(BIN)/codespell

lock: .venv/.installed  ## write the installed versions into constraints.txt
	@{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | \
	  sed 's/+cpu//' ; grep -E '^(setuptools|tensorflow)==' constraints.txt; } > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove what was built; keeps .venv and data
	rm -rf _build book/executed build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12
