"""
Check the links inside a built book: every page, picture, style and anchor that is named exists.

Sphinx checks what it writes itself; this reads the finished pages, so that links in figures,
boxes, slides and pages of our own are checked too. Addresses elsewhere are not followed.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that hold an address.
ADDRESSES = {"href", "src", "poster", "data"}


class _Page(HTMLParser):
    """Collect the anchors and the addresses of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name in ADDRESSES and value:
                self.addresses.add(value)


def read_page(path: Path) -> _Page:
    """Return anchors and addresses of a page."""
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def broken_links(folder: Path) -> list[str]:
    """Return one line for each link of a built book that leads nowhere."""
    skipped = folder / "_static"
    pages = {
        path.resolve(): read_page(path)
        for path in sorted(folder.rglob("*.html")) if not path.is_relative_to(skipped)
    }  # fmt: skip
    problems = []
    for path, page in pages.items():
        for address in sorted(page.addresses):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or "${" in address:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = path.relative_to(folder.resolve())
            if not target.is_relative_to(folder.resolve()) or not target.is_file():
                problems.append(f"{where}: {address} leads nowhere")
            elif parts.fragment and target in pages:
                anchor = unquote(parts.fragment)
                is_slide = re.fullmatch(r"\d+", anchor)
                if anchor not in pages[target].anchors and not is_slide:
                    problems.append(f"{where}: {address}: no such place on that page")
    return problems


def main() -> None:
    """Stop with the list of broken links of the book in the folder given."""
    folder = Path(sys.argv[1])
    if not (folder / "index.html").exists():
        sys.exit(f"{folder}: no built book; run `make edition`")
    problems = broken_links(folder)
    if problems:
        sys.exit("\n".join([*problems, f"{len(problems)} links lead nowhere"]))
    print(f"{len(list(folder.rglob('*.html')))} pages: every link inside the book leads somewhere")


if __name__ == "__main__":
    main()
