"""The built pages, as a reader opens them: offline, accessible, fit for a phone and the dark.

They need the edition (`make edition`) and a browser, and are skipped without. One page of each
kind is opened here; `make check-pages` opens all.
"""

from __future__ import annotations

import base64
import filecmp
import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepgps_core.metrics import psnr, ssim

ROOT = Path(__file__).resolve().parent.parent
EDITION = ROOT / "_build" / "edition"
HTML = EDITION / "_build" / "html"
#: One page of each kind: front, chapter, toys, reference, tables, formulas, search, slides.
KINDS = (
    "book/intro.html",
    "book/executed/06_single2_and_the_cross_assay.html",
    "book/play.html",
    "book/reference_commands.html",
    "book/map.html",
    "book/notation.html",
    "search.html",
    "slides/02_from_fields_to_crops.html",
    "book/references.html",
)
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stale() -> str:
    """Say which source of a page is newer than the edition, if any."""
    for source in (ROOT / "book").rglob("*"):
        inside = source.relative_to(ROOT / "book")
        if source.is_file() and source.suffix in (".md", ".css", ".js", ".svg", ".webp", ".html"):
            staged = EDITION / "book" / inside
            if not staged.exists() or not filecmp.cmp(source, staged, shallow=False):
                return str(inside)
    return ""


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[ModuleType, Any, str]]:
    """Return the page checker, a browser, and the edition's address."""
    if not (HTML / "index.html").exists():
        pytest.skip("no edition; `make edition` builds it")
    if changed := stale():
        pytest.skip(f"the edition is older than book/{changed}; `make edition` builds it")
    pages = load("check_pages")
    try:
        with pages.browser() as browser, pages.served(HTML) as address:
            yield pages, browser, address
    except Exception as error:
        if "Executable doesn't exist" not in str(error):
            raise
        pytest.skip("no browser: install Chromium, or `playwright install chromium`")


@pytest.mark.parametrize("name", KINDS)
def test_page_is_offline_accessible_and_fits(
    opened: tuple[ModuleType, Any, str], name: str
) -> None:
    """No request leaves the machine; console, images, widths and axe-core have nothing to say."""
    pages, browser, address = opened
    assert pages.complaints(browser, HTML, name, address, ways=pages.WAYS[::3]) == []


def test_the_checker_complains(tmp_path: Path, opened: tuple[ModuleType, Any, str]) -> None:
    """A page with each fault the checker looks for is reported for each of them."""
    pages, browser, _ = opened
    (tmp_path / "bad.html").write_text(
        '<!doctype html><html><title>x</title><body><main><img src="gone.png">'
        '<script src="https://example.org/x.js"></script><script>console.error("oh")</script>'
        '<figure class="deepgps-figure"><img alt="" src="gone.gif">'
        '</figure><div style="width:3000px">wide</div></main></body></html>'
    )
    with pages.served(tmp_path) as address:
        said = "\n".join(pages.complaints(browser, tmp_path, "bad.html", address))
    for complaint in (
        "leaves the machine", "console error: oh", "404", "did not load", "without alt text",
        "wider than the screen", "light card", "axe html-has-lang",
    ):  # fmt: skip
        assert complaint in said, complaint


def new_page(browser: Any) -> Any:
    """Return a page that waits long: a busy machine is slow, not wrong."""
    page = browser.new_page()
    page.set_default_timeout(120_000)
    return page


def samples() -> np.ndarray:
    """Return the toy's crops, (2, 4, 208, 208) in [0, 1]: nuclei, then proteins."""
    script = (ROOT / "book/_static/play/samples.js").read_text()
    data = re.search(r"base64,([^\"]+)", script)
    assert data
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1]))).convert("RGB"))[..., 0]
    return picture.reshape(2, 208, 4, 208).transpose(0, 2, 1, 3) / 255


def test_the_playground_computes_what_the_library_computes(
    opened: tuple[ModuleType, Any, str],
) -> None:
    """PSNR and SSIM of the nucleus image against the protein image, shown and by the library."""
    _, browser, address = opened
    nuclei, proteins = samples()
    page = new_page(browser)
    page.goto(f"{address}/book/play.html")
    says = "text => document.getElementById('metric-said').textContent.startsWith(text)"
    page.wait_for_function(says, arg="PSNR", polling=100)
    page.select_option("#metric-start", "nucleus")
    page.locator("#metric-blur").fill("0")
    for crop in range(4):
        pair = nuclei[crop : crop + 1], proteins[crop : crop + 1]
        expected = f"PSNR {psnr(*pair, 1.0)[0]:.1f} dB, SSIM {ssim(*pair, 1.0)[0]:.2f}."
        page.select_option("#metric-sample", str(crop))
        page.wait_for_function(says, arg=expected, polling=100)
    page.close()


def test_toys_work_with_keys_and_from_a_disk(opened: tuple[ModuleType, Any, str]) -> None:
    """Opened as a file, without a server: arrow keys move, buttons draw, nothing complains."""
    _, browser, _ = opened
    page, said = new_page(browser), []
    page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((HTML / "book" / "play.html").as_uri())
    page.wait_for_function(
        "document.getElementById('cross-said').textContent.includes('nucleus 1')"
    )
    page.focus("#cross-nucleus")
    page.keyboard.press("ArrowRight")
    assert "nucleus 2" in page.inner_text("#cross-said")
    page.focus("#split-many")
    page.keyboard.press("Enter")
    assert "In 100 draws" in page.inner_text("#split-said")
    first = page.inner_text("#split-said")
    page.click("#split-clear")
    page.click("#split-many")
    assert page.inner_text("#split-said") == first, "the same presses give other draws"
    page.wait_for_function("document.getElementById('metric-said').textContent.includes('PSNR')")
    assert said == []
    page.close()


def test_the_worse_model_wins_as_often_as_arithmetic_says(
    opened: tuple[ModuleType, Any, str],
) -> None:
    """With 63 proteins and true accuracies .74 and .70, B is ahead in about a quarter of draws."""
    _, browser, address = opened
    k = np.arange(64)
    from scipy.stats import binom

    a, b = (binom.pmf(k, 63, p) for p in (0.74, 0.70))
    expected = (a[:, None] * b[None, :])[k[:, None] < k[None, :]].sum()
    page = new_page(browser)
    page.goto(f"{address}/book/play.html")
    for _ in range(20):
        page.click("#split-many")
    wins = re.search(r"In 2000 draws .* ahead (\d+) times", page.inner_text("#split-said"))
    assert wins
    # four standard errors of 2,000 draws
    assert int(wins[1]) / 2000 == pytest.approx(expected, abs=0.04)
    page.close()


def test_slides_move_and_keep_their_place(opened: tuple[ModuleType, Any, str]) -> None:
    """Arrow keys, End and the address choose the slide; one is seen at a time."""
    _, browser, address = opened
    page = new_page(browser)
    page.goto(f"{address}/slides/06_single2_and_the_cross_assay.html")
    n = page.locator(".slide").count()
    assert n > 10
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#place") == f"2 of {n}"
    page.keyboard.press("End")
    assert page.url.endswith(f"#{n}")
    assert page.locator(".slide:visible").count() == 1
    page.close()
