# make book, make test; `make help` lists the rest. Everything happens in .venv, made on demand.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: book test edition check-pages pdf bench record lint lock clean help

PY ?= python3
BIN := .venv/bin
PROFILE ?= demo
ONLY ?=
JOBS ?= 2
SOLUTIONS ?= 1
BUILD_BOOK := $(BIN)/jupyter-book build --all -W -n --keep-going -q
# pages without solutions are laid out apart, so that no file of them holds one
ifeq ($(SOLUTIONS),0)
STAGE := --no-solutions
BOOK_AT := _build/no-solutions
EDITION_AT := _build/no-solutions
else
BOOK_AT := .
EDITION_AT := _build/edition
endif

.venv/.installed: pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11 to 3.13 is needed; name one: make book PY=python3.12"; exit 1; }
	$(PY) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[segment,fetch,equivariant,web,book,dev]'
	@touch $@

book: .venv/.installed  ## execute what changed and build the book (ONLY=06, PROFILE=demo, JOBS=1, SOLUTIONS=0)
	$(BIN)/python book/build.py run --profile $(PROFILE) --only "$(ONLY)" --jobs $(JOBS)
ifneq ($(ONLY),)
	$(BIN)/python book/build.py fill
endif
ifeq ($(SOLUTIONS),0)
	$(BIN)/python book/build.py stage --executed $(STAGE)
endif
	$(BUILD_BOOK) $(BOOK_AT)
	$(BIN)/python book/check_links.py $(BOOK_AT)/_build/html
	@echo "The book: file://$(abspath $(BOOK_AT))/_build/html/index.html"

test: .venv/.installed  ## run all tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

edition: .venv/.installed  ## build the book from the committed, executed notebooks; runs nothing
	$(BIN)/python book/build.py stage $(STAGE)
	$(BUILD_BOOK) $(EDITION_AT)
	$(BIN)/python book/check_links.py $(EDITION_AT)/_build/html
	@echo "The edition of record: file://$(CURDIR)/$(EDITION_AT)/_build/html/index.html"

check-pages: edition  ## open every page of the edition in a browser: offline, accessible
	$(BIN)/python book/check_pages.py $(EDITION_AT)/_build/html

pdf: edition  ## print the edition as one PDF; needs Chromium
	$(BIN)/python book/print_book.py $(EDITION_AT) _build/deepgps-reproduced.pdf

bench: .venv/.installed  ## measure speed, ours beside others' (ONLY=serving_load)
	$(BIN)/python -m benchmarks $(ONLY)

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
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14
