"""openGPS in a real browser: both modules from upload to download, and accessible everywhere.

They need Chromium on the path, and are skipped without.
"""

from __future__ import annotations

import csv
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import opengps_site as site
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
WAYS = tuple((width, scheme) for width in (1280, 390) for scheme in ("light", "dark"))
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
#: A control that is wider than the screen, or an image that did not come.
LOOK = """
() => {
  const said = [];
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 1) said.push(`wider than the screen by ${wide} px`);
  for (const image of document.images) {
    image.loading = 'eager';
    if (!image.hasAttribute('alt')) said.push(`no alt text: ${image.src}`);
  }
  return said;
}
"""
LOADED = "() => [...document.images].every((i) => i.complete && i.naturalWidth > 0)"


@dataclass
class Opened:
    """A browser, the server's address, and what pages complained about."""

    browser: Any
    address: str
    files: Path

    @contextmanager
    def page(self, width: int = 1280, scheme: str = "light", **options: Any) -> Iterator[Any]:
        """Open a window; at its end nothing must have been said or asked elsewhere."""
        said: list[str] = []
        context = self.browser.new_context(
            viewport={"width": width, "height": 860}, color_scheme=scheme, reduced_motion="reduce",
            **options,
        )  # fmt: skip
        context.set_default_timeout(90_000)
        page = context.new_page()
        page.on("request", lambda r: None if r.url.startswith((self.address, "data:", "blob:"))
                else said.append(f"leaves the machine: {r.url}"))  # fmt: skip
        page.on("console", lambda m: said.append(f"console: {m.text}")
                if m.type in ("error", "warning") and "(BAD REQUEST)" not in m.text
                and "404" not in m.text else None)  # fmt: skip
        page.on("pageerror", lambda error: said.append(f"script: {error}"))
        yield page
        context.close()
        assert said == []


def draw_files(folder: Path) -> None:
    """Write what a visitor would upload."""
    one, two = site.field("Nucleus", 600), site.field("Cytoplasm", 600)
    (folder / "nuclei.tif").write_bytes(site.tiff(one[0]))
    (folder / "field.tif").write_bytes(site.tiff(two))
    (folder / "two.fasta").write_text(site.FASTA)
    (folder / "text.tif").write_text("this is no image")
    table = b"protein_id,nucleus,protein,locations\nQ8IV63,dna.tif,gfp.tif,Nucleus\n"
    table += b"P13639,dna2.tif,gfp2.tif,Cytoplasm\n"
    images = {"dna.tif": one[0], "gfp.tif": one[1], "dna2.tif": two[0], "gfp2.tif": two[1]}
    packed = {name: site.tiff(image) for name, image in images.items()}
    (folder / "batch.zip").write_bytes(site.archive(packed | {"table.csv": table}))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Start the server and the browser once."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no browser: install Chromium")
    folder = tmp_path_factory.mktemp("opengps")
    draw_files(folder)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with (
        site.server(folder / "data") as (_, address),
        api.sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield Opened(browser, address, folder)
        browser.close()


def downloaded(page: Any, name: str, folder: Path) -> Path:
    """Click a download, and return the file."""
    with page.expect_download() as waiting:
        page.click(f"a[href$='/files/{name}']")
    waiting.value.save_as(folder / name)
    return folder / name


def fill_experiment(page: Any) -> None:
    """Fill in what both forms of Submit ask for."""
    page.fill("#cell_line", "HeLa")
    page.fill("#provenance", "Simulated for a test; CC0.")
    page.fill("#pixel_size_um", "0.206")


def violations(page: Any) -> list[str]:
    """Return what axe-core finds, a line a rule."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"preload": False, "runOnly": {"type": "tag", "values": list(RULES)}}
    found = Axe().run(page, options=options).response["violations"]
    return [f"{v['id']} ({v['impact']}): {v['nodes'][0]['html'][:160]}" for v in found]


@pytest.fixture(scope="module")
def addresses(opened: Opened) -> dict[str, str]:
    """Make a page of each template: filled in, finished, failed, refused and missing."""
    found = {"home": "/", "about": "/about", "predict": "/predict?example=three",
             "submit": "/submit", "batch": "/submit/batch", "missing": "/jobs/nowhere"}  # fmt: skip
    body: dict[str, Any] = {"fasta": site.FASTA, "mutations": "one=K2A"}
    body["nucleus_images"] = [site.text64((opened.files / "nuclei.tif").read_bytes())]
    done = site.call(f"{opened.address}/api/predictions", body)
    blank = np.random.default_rng(0).integers(90, 110, (600, 600)).astype(np.uint16)
    bad = body | {"nucleus_images": [site.text64(site.tiff(blank))]}
    failed = site.call(f"{opened.address}/api/predictions", bad)
    image = site.text64((opened.files / "field.tif").read_bytes())
    compared = site.call(
        f"{opened.address}/api/submissions",
        {**site.ABOUT, "pixel_size_um": 0.206, "protein_id": "P13639", "image": image},
    )
    for job, state in ((done, "done"), (failed, "failed"), (compared, "done")):
        site.wait_for(
            lambda job=job, state=state:
            site.call(opened.address + job["links"]["self"])["state"] == state
        )  # fmt: skip
    return found | {"result": done["links"]["page"], "failed": failed["links"]["page"],
                    "comparison": compared["links"]["page"]}  # fmt: skip


def test_predict_by_hand(opened: Opened, tmp_path: Path) -> None:
    """Paste, see the progress, read the result, toggle channels, take the table home."""
    with opened.page() as page:
        page.goto(opened.address)
        page.click("nav >> text=Predict")
        page.fill("#fasta", ">mine\nMKKRKVEDPLSTAAGLWQ")
        page.click("button[type=submit]")
        assert re.search(r"/jobs/[A-Za-z0-9_-]{32}$", page.url)
        page.wait_for_selector("table")
        assert "mine" in page.inner_text("table")
        assert page.input_value("#link") == page.url
        page.wait_for_function(LOADED)
        shots = page.locator("figure[data-channel=nucleus]")
        assert shots.first.is_visible()
        page.focus("input[data-channel=nucleus]")
        page.keyboard.press("Space")
        assert not shots.first.is_visible()
        assert page.locator("figure[data-channel=overlay]").first.is_visible()
        before = page.locator("figure[data-channel=protein] img").first.screenshot()
        page.focus("#contrast")
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        assert page.inner_text("#contrast-told") == "200 %"
        assert page.locator("figure[data-channel=protein] img").first.screenshot() != before
        table = list(csv.DictReader(downloaded(page, "predictions.csv", tmp_path).open()))
        assert [row["protein_id"] for row in table] == ["mine"]
        assert table[0]["predicted_label"] in page.inner_text("table")


def test_predict_many_from_files(opened: Opened, tmp_path: Path) -> None:
    """A FASTA file and a field of nuclei: two proteins beside several nuclei, all in a ZIP."""
    with opened.page() as page:
        page.goto(f"{opened.address}/predict")
        page.set_input_files("#fasta_file", opened.files / "two.fasta")
        page.click("summary")
        page.set_input_files("#nucleus", opened.files / "nuclei.tif")
        page.fill("#pixel_size_um", "0.206")
        page.fill("#mutations", "one=K2A")
        page.click("button[type=submit]")
        page.wait_for_selector("table")
        assert page.locator("article.protein").count() == 3
        page.click("nav.cells >> text=2")
        assert "cell=2" in page.url
        page.wait_for_function(LOADED)
        with zipfile.ZipFile(downloaded(page, "results.zip", tmp_path)) as packed:
            names = packed.namelist()
        assert {"predictions.csv", "mutations.csv", "report.html"} <= set(names)
        assert sum(name.endswith(".png") for name in names) == 3


def test_mistakes_are_told_where_they_are(opened: Opened) -> None:
    """The summary has the focus, its link leads to the field, and what was typed is there."""
    with opened.page() as page:
        page.goto(f"{opened.address}/predict")
        page.fill("#fasta", ">mine\nMK1")
        page.click("summary")
        page.fill("#mutations", "K2A")
        page.set_input_files("#nucleus", opened.files / "text.tif")
        page.click("button[type=submit]")
        page.wait_for_selector("#form-error")
        assert page.evaluate("document.activeElement.id") == "form-error"
        assert page.input_value("#fasta") == ">mine\nMK1"
        assert page.input_value("#mutations") == "K2A"
        assert "TIFF" in page.inner_text("#nucleus-error")
        assert page.get_attribute("#fasta", "aria-invalid") == "true"
        page.click("#form-error a[href='#fasta']")
        assert page.evaluate("document.activeElement.id") == "fasta"
        assert violations(page) == []


def test_submit_one_image(opened: Opened, tmp_path: Path) -> None:
    """An image, its protein and its origin; then the comparison and a dataset folder."""
    with opened.page() as page:
        page.goto(f"{opened.address}/submit")
        page.fill("#protein_id", "P13639")
        page.fill("#locations", "Cytoplasm")
        page.set_input_files("#image", opened.files / "field.tif")
        fill_experiment(page)
        page.click("button[type=submit]")
        page.wait_for_selector("table")
        assert "P13639" in page.inner_text("table")
        assert "field.tif" in page.inner_text("main")
        page.wait_for_function(LOADED)
        with zipfile.ZipFile(downloaded(page, "dataset.zip", tmp_path)) as packed:
            assert {"dataset.yaml", "proteins.csv", "fields.csv"} <= set(packed.namelist())


def test_submit_a_batch(opened: Opened, tmp_path: Path) -> None:
    """A ZIP with its table: a row each, with metrics."""
    with opened.page() as page:
        page.goto(f"{opened.address}/submit")
        page.click("text=Many at once")
        page.set_input_files("#archive", opened.files / "batch.zip")
        fill_experiment(page)
        page.click("button[type=submit]")
        page.wait_for_selector("table")
        rows = list(csv.DictReader(downloaded(page, "comparison.csv", tmp_path).open()))
        assert [row["protein_id"] for row in rows] == ["Q8IV63", "P13639"]
        assert all(float(row["psnr_db"]) > 0 for row in rows)


def test_without_a_script(opened: Opened, addresses: dict[str, str]) -> None:
    """Forms, results and downloads work with scripts switched off; toggles are not offered."""
    with opened.page(java_script_enabled=False) as page:
        page.goto(f"{opened.address}/predict")
        page.fill("#fasta", "MKKRKVEDPL")
        page.click("button[type=submit]")
        assert "/jobs/" in page.url
        page.goto(opened.address + addresses["result"])
        assert page.locator("table").first.is_visible()
        assert not page.locator("#viewer").is_visible()


def test_keyboard_reaches_the_form(opened: Opened) -> None:
    """The first stop is the skip link; it is seen when it has the focus, and works."""
    with opened.page() as page:
        page.goto(f"{opened.address}/predict")
        page.keyboard.press("Tab")
        skip = page.locator("a.skip")
        assert page.evaluate("document.activeElement.className") == "skip"
        box = skip.bounding_box()
        assert box and box["y"] >= 0
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")


@pytest.mark.parametrize(
    "name",
    ["home", "about", "predict", "submit", "batch", "missing", "result", "failed", "comparison"],
)
def test_every_template_is_accessible_and_fits(
    opened: Opened, addresses: dict[str, str], name: str
) -> None:
    """Desktop and phone, light and dark: axe-core silent, nothing too wide, all images there."""
    for width, scheme in WAYS:
        with opened.page(width, scheme) as page:
            page.goto(opened.address + addresses[name])
            assert page.evaluate(LOOK) == [], (width, scheme)
            page.wait_for_function(LOADED)
            assert violations(page) == [], (width, scheme)


def test_the_checks_complain(opened: Opened) -> None:
    """What the tests above look for would be found: contrast, width, missing alt text."""
    with opened.page() as page:
        page.goto(f"{opened.address}/about")
        page.evaluate(
            "document.querySelector('main').insertAdjacentHTML('beforeend', "
            "'<p id=pale>pale</p><img src=\"/static/mark.svg\"><input>');"
            "const pale = document.getElementById('pale');"
            "pale.style.color = '#ddd'; pale.style.background = '#fff'; pale.style.width = '3000px'"
        )
        said = "\n".join([*page.evaluate(LOOK), *violations(page)])
    for complaint in ("wider than", "no alt text", "color-contrast", "image-alt", "label"):
        assert complaint in said, complaint
