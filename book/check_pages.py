"""
Open built pages in a browser, as a reader would, and say what is wrong with them.

Each page is opened over loopback at desktop and phone width, light and dark. Complaints: a request
that would leave the machine, a message on the console, a page wider than the screen, an image
that did not load or has no alt text, a figure without a light card in the dark, a violation
found by axe-core, a page of more than two megabytes. ``make check-pages`` opens all of them, a
test some.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
EDITION = ROOT / "_build" / "edition" / "_build" / "html"
#: Desktop and phone.
VIEWPORTS = {"desktop": (1280, 900), "phone": (390, 844)}
MAX_BYTES = 2_000_000
WAYS = tuple((device, scheme) for device in VIEWPORTS for scheme in ("light", "dark"))
#: True once no formula is left to be set.
FORMULAS_SET = (
    "!window.MathJax?.startup?.promise || window.MathJax.startup.promise.then(() => true)"
)
LOOK = """
() => {
  const said = [];
  const scrolled = (e) => e && e !== document.body && (
    /auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolled(e.parentElement));
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 1) {
    const guilty = [...document.querySelectorAll('main *')].filter(
      (e) => e.getBoundingClientRect().right > window.innerWidth + 1 && !scrolled(e));
    const name = guilty.length ? guilty.at(-1).outerHTML.slice(0, 90) : '';
    said.push(`wider than the screen by ${wide} px: ${name}`);
  }
  for (const image of document.images) {
    const name = image.src.slice(0, 80);
    if (!(image.complete && image.naturalWidth > 0)) said.push(`image did not load: ${name}`);
    if (!image.hasAttribute('alt')) said.push(`image without alt text: ${name}`);
    if (image.closest('figure') && !image.alt.trim()) said.push(`figure without alt text: ${name}`);
  }
  return said;
}
"""
#: A figure is drawn for white paper: in the dark it stands on a white card.
CARDS = """
() => [...document.querySelectorAll('figure.deepgps-figure img')].filter((image) => {
  const [r, g, b, a] = getComputedStyle(image).backgroundColor.match(/[\\d.]+/g).map(Number);
  return Math.min(r, g, b) < 230 || a === 0;
}).map((image) => `figure without a light card in the dark: ${image.alt.slice(0, 60)}`)
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve files and keep the log to itself."""

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server(http.server.ThreadingHTTPServer):
    """A server that keeps a browser's many first connections waiting instead of refusing them."""

    request_queue_size = 128


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over loopback, on a port that is free; yield its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a headless browser: the one of the system, else Playwright's own."""
    places = (os.environ.get("CHROMIUM"), "/usr/bin/chromium", "/usr/bin/google-chrome")
    system = next((place for place in places if place and Path(place).exists()), None)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=system,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            yield opened
        finally:
            opened.close()


def _watch(page: Page, address: str, said: list[str]) -> None:
    """Write down what a page asks of the network and says on the console."""

    def request(route: Any) -> None:
        url = route.request.url
        if url.startswith((address, "data:", "blob:", "file:")):
            route.continue_()
        else:
            said.append(f"request that leaves the machine: {url[:120]}")
            route.abort()

    page.route("**/*", request)
    page.on("console", lambda m: said.append(f"console {m.type}: {m.text[:160]}")
            if m.type in ("error", "warning") else None)  # fmt: skip
    page.on("pageerror", lambda error: said.append(f"script error: {str(error)[:160]}"))
    page.on("response", lambda r: said.append(f"{r.status}: {r.url[:120]}")
            if r.status >= 400 else None)  # fmt: skip


def violations(page: Page) -> list[str]:
    """Return what axe-core finds, one line a rule, with the first element it is about."""
    # without preload: axe would fetch style sheets again, and look for their imports elsewhere
    results = Axe().run(page, options={"preload": False}).response["violations"]
    return [
        f"axe {v['id']} ({v['impact']}): {len(v['nodes'])} x {v['nodes'][0]['html'][:140]}"
        for v in results
    ]


def complaints(
    opened: Browser,
    folder: Path,
    name: str,
    address: str,
    *,
    ways: Sequence[tuple[str, str]] = WAYS,
) -> list[str]:
    """Open one page in the given ways and return everything that is wrong with it."""
    said: list[str] = []
    size = (folder / name).stat().st_size
    if size > MAX_BYTES:
        said.append(f"{size / 1e6:.1f} MB")
    for device, scheme in ways:
        found: list[str] = []
        width, height = VIEWPORTS[device]
        context = opened.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",
        )
        # a busy machine is slow, not wrong
        context.set_default_timeout(120_000)
        page = context.new_page()
        _watch(page, address, found)
        page.goto(f"{address}/{name}", wait_until="load")
        page.wait_for_function(FORMULAS_SET)
        page.wait_for_timeout(150)
        found += page.evaluate(LOOK)
        if scheme == "dark":
            found += page.evaluate(CARDS)
        found += violations(page)
        context.close()
        said += [f"{device}, {scheme}: {line}" for line in found]
    return said


def pages_of(folder: Path) -> list[str]:
    """Return the names of all pages of a built book."""
    skipped = {"_static", "_sources"}
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.html")
        if path.relative_to(folder).parts[0] not in skipped
    )  # fmt: skip


def main() -> None:
    """Open the pages named, by default all, and stop with the list of what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=EDITION)
    parser.add_argument("pages", nargs="*", help="by default all")
    arguments = parser.parse_args()
    if not (arguments.folder / "index.html").exists():
        sys.exit(f"{arguments.folder}: no built book; run `make edition`")
    bad = 0
    with served(arguments.folder) as address, browser() as opened:
        names = arguments.pages or pages_of(arguments.folder)
        for name in names:
            said = complaints(opened, arguments.folder, name, address)
            bad += bool(said)
            print(f"{name}: {'well' if not said else ''}", *said, sep="\n  ", flush=True)
    sys.exit(f"{bad} of {len(names)} pages have something wrong" if bad else 0)


if __name__ == "__main__":
    main()
