"""The report holds what was predicted, runs nothing, and lets no name become markup."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepgps_core.dataset import InputError
from deepgps_core.nucleus_images import NetworkScale
from deepgps_core.outputs import file_stem, mutations_of, write_results
from deepgps_core.predict import Predicted
from deepgps_core.predictor import ModelInfo, label_table
from deepgps_core.report import overlay, render_report

LABELS = ("Cytoplasm", "Nucleus")
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def predicted(names: list[str], n_nuclei: int = 2) -> Predicted:
    """Make a prediction of two members with images that tell protein and nucleus."""
    p = np.linspace(0.1, 0.9, len(names))
    members = np.stack([np.stack([1 - p, p], axis=1)] * 2)
    images = np.empty((len(names), n_nuclei, 20, 20), np.float32)
    for row in range(len(names)):
        for k in range(n_nuclei):
            images[row, k] = (row + 1) / 10 + k / 100
    nuclei = np.full((n_nuclei, 20, 20), 0.5, np.float32)
    table = label_table({name: "MK" for name in names}, members, LABELS)
    return Predicted(table, images[:, 0], nuclei[0], 0.4, nuclei, images, n_nuclei, "drawn nuclei")


def info(title: str = "a model") -> ModelInfo:
    """Describe a model that has not been calibrated."""
    return ModelInfo(
        "m", title, LABELS, "simulated", 2, "Learned from simulated cells.", False, False,
        NetworkScale(0.2, 0.4, 104), {},
    )  # fmt: skip


class Elements(HTMLParser):
    """Collect elements and their attributes, and check that they nest."""

    VOID = {"meta", "img", "br", "link", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Elements:
    """Parse a page and check that every element is closed."""
    elements = Elements()
    elements.feed(page)
    assert not elements.open
    return elements


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=3, unique=True))
def test_names_stay_text(names: list[str]) -> None:
    """Whatever a protein is called, the page has the same elements and says the name."""
    page = parsed(render_report(predicted(names), info()))
    plain = parsed(render_report(predicted([f"P{i}" for i in range(len(names))]), info()))
    assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]


def test_a_hostile_name_runs_nothing() -> None:
    """Script in a name, a mutation or a title is shown, not run; nothing is loaded."""
    mutations = pd.DataFrame({"mutation": [EVIL], "n_residues": [3], "change": [0.2]})
    page = render_report(predicted([EVIL]), info(EVIL), mutations=mutations)
    elements = parsed(page)
    assert EVIL in elements.text
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "iframe", "object", "link", "form"}
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            value = attributes.get(name) or "data:image/png;"
            assert value.startswith("data:image/png;"), (tag, value)
    assert "default-src 'none'" in page and "http://" not in page and "https://" not in page


def test_the_page_says_what_was_predicted() -> None:
    """Label, probability, flag, notice, nuclei and threshold are on the page."""
    elements = parsed(render_report(predicted(["A", "B", "C"]), info()))
    for text in ("Learned from simulated cells.", "drawn nuclei", "1 of 3 marked unsure",
                 "0.90", "not been calibrated", "Where 3 proteins go"):  # fmt: skip
        assert text in elements.text, text
    pictures = [a for tag, a in elements.found if tag == "img"]
    assert len(pictures) == 3 * 2 * 3 and all(a["alt"] for a in pictures)


def test_pictures_are_the_images() -> None:
    """The picture of a protein on the page has its pixels."""
    page = render_report(predicted(["A", "B"]), info())
    coded = re.findall(r'alt="predicted image of B, nucleus 2" src="data:image/png;base64,([^"]+)"',
                       page)  # fmt: skip
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded[0]))))
    assert (pixels == round(255 * 0.21)).all()


def test_overlay_keeps_channels_apart() -> None:
    """Only nucleus is blue, only protein orange, both saturate."""
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    assert overlay(one, zero)[0, 0].argmax() == 2
    assert overlay(zero, one)[0, 0].argmax() == 0
    assert overlay(one, one).max() == 1


def test_folder_holds_every_image(tmp_path: Path) -> None:
    """TIFFs are 16 bit with a page a nucleus and the pixel size; the table names them."""
    write_results(predicted(["A", "B|x/..", "=1+1"]), info(), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table["files"]) == ["0000_A", "0001_B_x", "0002_1_1"]
    assert table["protein_id"][2] == "'=1+1", "a spreadsheet would run this"
    assert set(table["notice"]) == {"Learned from simulated cells."}
    for row, stem in enumerate(table["files"]):
        path = tmp_path / "out" / "images" / stem
        with tifffile.TiffFile(path.with_name(f"{stem}.tif")) as tiff:
            pages = tiff.asarray()
            numerator, denominator = tiff.pages[0].tags["XResolution"].value
        assert pages.shape == (2, 20, 20) and pages.dtype == np.uint16
        assert pages[1] == pytest.approx(65535 * ((row + 1) / 10 + 0.01), abs=1)
        assert denominator / numerator == pytest.approx(0.4, rel=1e-4)
        assert np.asarray(Image.open(path.with_name(f"{stem}.png"))).dtype == np.uint8
    with pytest.raises(InputError, match="exists already"):
        write_results(predicted(["A"]), info(), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@given(st.text(max_size=100), st.integers(0, 9999))
def test_file_names_are_harmless(name: str, number: int) -> None:
    """No name leaves the folder, hides, or collides with that of another row."""
    stem = file_stem(number, name)
    assert re.fullmatch(r"[A-Za-z0-9_-]{4,80}", stem) and stem.startswith(f"{number:04d}")


def test_mutations_find_their_protein() -> None:
    """Without a name a mutation is of all proteins, with one of that; a strange name is refused."""
    sequences = {"A": "MK", "B": "MR"}
    assert mutations_of(sequences, ["del1", "B=R2A"]) == {"A": ["del1"], "B": ["del1", "R2A"]}
    with pytest.raises(InputError, match="'C'"):
        mutations_of(sequences, ["C=R2A"])
