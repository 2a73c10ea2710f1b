"""
Print the whole book as one PDF: Sphinx joins the pages, Chromium prints them.

    .venv/bin/python book/print_book.py _build/edition _build/deepgps-reproduced.pdf

The first argument is a laid-out book (`make edition` makes one). The PDF is tagged, has an outline
and page numbers, and is made without a network.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import check_pages

FOOTER = (
    '<div style="font-size:7pt;width:100%;text-align:center;color:#555">deepGPS, reproduced · '
    '<span class="pageNumber"></span></div>'
)
#: Folded code and solutions stay out of print; what scrolls on a screen is shown whole.
PREPARE = """() => {
  document.documentElement.dataset.theme = 'light';
  document.documentElement.dataset.mode = 'light';
  for (const frame of document.querySelectorAll('.toy')) frame.style.breakInside = 'avoid';
}"""


def join(book: Path, folder: Path) -> Path:
    """Build the book as one HTML page in `folder`; return the page."""
    program = Path(sys.executable).with_name("jupyter-book")
    command = [
        str(program), "build", "-q", "--builder", "custom", "--custom-builder", "singlehtml",
        "--path-output", str(folder), str(book),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pages = sorted((folder / "_build" / "singlehtml").glob("book/intro.html"))
    if done.returncode != 0 or not pages:
        sys.exit(f"the pages could not be joined:\n{(done.stdout + done.stderr)[-3000:]}")
    return pages[0]


def print_page(page_path: Path, root: Path, target: Path) -> None:
    """Print one page, served from `root` over loopback, to `target`."""
    with check_pages.served(root) as address, check_pages.browser() as opened:
        page = opened.new_page(viewport={"width": 900, "height": 1200}, color_scheme="light")
        page.set_default_timeout(300_000)
        page.goto(f"{address}/{page_path.relative_to(root).as_posix()}", wait_until="load")
        page.wait_for_function(check_pages.FORMULAS_SET)
        page.evaluate(PREPARE)
        page.emulate_media(media="print")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".part")
        page.pdf(
            path=partial, format="A4", print_background=True, outline=True, tagged=True,
            display_header_footer=True, header_template="<span></span>", footer_template=FOOTER,
            margin={"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
        )  # fmt: skip
        partial.replace(target)


def main() -> None:
    """Print the book in the first argument to the file in the second."""
    book, target = Path(sys.argv[1]), Path(sys.argv[2])
    if not (book / "_toc.yml").exists():
        sys.exit(f"{book}: no laid-out book; run `make edition`")
    with tempfile.TemporaryDirectory() as folder:
        page = join(book, Path(folder))
        print_page(page, page.parent.parent, target)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
