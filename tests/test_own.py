"""Your own images: from a folder and a spreadsheet to a dataset, crops and a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from deepgps_core.cli import app
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.sources.own import ImportConfig, import_images, read_spreadsheet

SEQUENCES = {
    "mine1": "MKRPAATKKAGQAKKKKLDKSGNWEDRTVPLQKHE" * 2,
    "mine2": "MSLLTEVETPIRNEWGCRCNDSSDPLVVAASIIGI" * 2,
}
OWN = ImportConfig(0.206)


def field(location: str, seed: int, size: int = 300) -> np.ndarray:
    """Draw two cells whose protein is in the nucleus or around it; uint16 (2, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    planes = np.zeros((2, size, size))
    for cy, cx in ((120, 120), (190, 190)):
        near = np.hypot(y - cy, x - cx)
        nucleus = near < 34
        planes[0] += 1500 * nucleus
        planes[1] += 1200 * (nucleus if location == "Nucleus" else (near < 60) & ~nucleus)
    return rng.poisson(planes + 400).astype(np.uint16)


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Write two fields of each of two proteins, and the table that names them."""
    images = folder / "images"
    images.mkdir()
    rows = []
    for number, (protein_id, location) in enumerate(
        [("mine1", "Nucleus"), ("mine2", "Cytoplasm")] * 2
    ):
        name = f"plate1_{number}.tif"
        tifffile.imwrite(images / name, field(location, number))
        rows.append((name, protein_id, SEQUENCES[protein_id], location))
    table = folder / "table.csv"
    columns = ["image", "protein_id", "sequence", "locations"]
    pd.DataFrame(rows, columns=columns).to_csv(table, index=False)
    return images, table


def test_folder_and_table_become_a_dataset(tmp_path: Path) -> None:
    """Fields are the images, bit for bit where the scale is OpenCell's; labels are the table's."""
    images, table = write_inputs(tmp_path)
    dataset, failed = import_images(images, table, tmp_path / "d", OWN)
    assert failed == []
    assert dict(zip(dataset.proteins.protein_id, dataset.proteins.label, strict=True)) == {
        "mine1": "Nucleus", "mine2": "Cytoplasm",
    }  # fmt: skip
    assert dataset.info.labels == ("Cytoplasm", "Nucleus")
    assert list(dataset.fields["field_id"]) == ["mine1_000", "mine2_000", "mine1_001", "mine2_001"]
    np.testing.assert_array_equal(dataset.read_field("mine1_001"), field("Nucleus", 2))
    assert set(dataset.proteins["cluster_30"]) == {"mine1", "mine2"}


def test_scale_channels_and_two_files(tmp_path: Path) -> None:
    """Half the pixel size gives half the pixels; channels are chosen; two files are one field."""
    stack = np.stack([np.full((40, 60), c, dtype=np.uint16) for c in (5, 6, 7)])
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack")
    Image.fromarray(np.full((40, 60), 3, dtype=np.uint8)).save(tmp_path / "n.png")
    rgb = np.zeros((40, 60, 3), dtype=np.uint8)
    rgb[..., 1] = 9
    Image.fromarray(rgb).save(tmp_path / "p.png")
    (tmp_path / "t.csv").write_text("image;protein_id;sequence\ns.tif;x;MKV\n")
    config = ImportConfig(0.103, 2, 0)
    dataset, _ = import_images(tmp_path, tmp_path / "t.csv", tmp_path / "a", config)
    read = dataset.read_field("x_000")
    assert read.shape == (2, 20, 30) and (read[0] == 7).all() and (read[1] == 5).all()
    assert dataset.info.pixel_size_um == 0.206
    (tmp_path / "t.tsv").write_text(
        "nucleus\tprotein\tprotein_id\tsequence\nn.png\tp.png\tx\tMKV\n"
    )
    config = ImportConfig(0.103, target_pixel_size_um=None)
    dataset, _ = import_images(tmp_path, tmp_path / "t.tsv", tmp_path / "b", config)
    read = dataset.read_field("x_000")
    assert read.shape == (2, 40, 60) and (read[0] == 3 * 257).all() and (read[1] == 9 * 257).all()
    assert dataset.info.pixel_size_um == 0.103


def test_sequences_from_fasta(tmp_path: Path) -> None:
    """A FASTA file gives what the table lacks; a protein missing there is named."""
    images, table = write_inputs(tmp_path)
    pd.read_csv(table).drop(columns="sequence").to_csv(table, index=False)
    fasta = tmp_path / "s.fasta"
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in SEQUENCES.items()))
    dataset, _ = import_images(images, table, tmp_path / "d", OWN, fasta=fasta)
    assert dataset.sequences() == SEQUENCES
    fasta.write_text(">mine1\nMKV\n")
    with pytest.raises(InputError, match="no sequence of protein 'mine2'"):
        import_images(images, table, tmp_path / "e", OWN, fasta=fasta)
    with pytest.raises(InputError, match="'mine1' has an empty sequence"):
        import_images(images, table, tmp_path / "e", OWN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("protein_id,sequence\nx,MKV\n", "column nucleus is missing"),
        ("image,sequence\na.tif,MKV\n", "column protein_id is missing"),
        ("image,protein_id\na.tif,\n", "line 2 has no protein_id"),
        ("image,protein_id\na.tif,../x\n", "unfit for a file name"),
        ("image,protein_id,sequence\n../../etc/a.tif,x,MKV\n", "leaves"),
        ("image,protein_id,sequence\n/etc/a.tif,x,MKV\n", "leaves"),
        ("image,protein_id,sequence\na.tif,x,MKV\nb.tif,x,MKA\n", "in another; make them the same"),
        ("image,protein_id,sequence\na.tif,x,MK1\n", "no amino acids: 1"),
        ("", "no CSV table"),
    ],
)
def test_unusable_tables(tmp_path: Path, text: str, message: str) -> None:
    """Each mistake in a table is one line that names it, and nothing is written."""
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        import_images(tmp_path, tmp_path / "t.csv", tmp_path / "d", OWN)
    assert "\n" not in str(caught.value) and not (tmp_path / "d").exists()


def test_other_mistakes(tmp_path: Path) -> None:
    """A spreadsheet program's file, a missing table and an odd pixel size have a remedy."""
    with pytest.raises(InputError, match="save it as CSV"):
        read_spreadsheet(tmp_path / "t.xlsx")
    with pytest.raises(InputError, match="table not found"):
        read_spreadsheet(tmp_path / "t.csv")
    with pytest.raises(InputError, match="give micrometers a pixel"):
        ImportConfig(0.0)


def test_bad_images_are_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A web page as TIFF, a single channel, floats and a missing file are each named."""
    images, table = write_inputs(tmp_path)
    (images / "plate1_0.tif").write_bytes(b"<html>proxy</html>")
    tifffile.imwrite(images / "plate1_1.tif", np.zeros((20, 20), dtype=np.uint16))
    tifffile.imwrite(images / "plate1_2.tif", np.zeros((2, 20, 20), dtype=np.float32))
    dataset, failed = import_images(images, table, tmp_path / "d", OWN)
    assert list(dataset.fields["field_id"]) == ["mine2_001"]
    assert list(dataset.proteins["protein_id"]) == ["mine2"]
    for cause, words in zip(failed, ("a web page", "has no channels 0 and 1", "8 or 16 bits"),
                            strict=True):  # fmt: skip
        assert words in cause and "\n" not in cause
    (images / "plate1_3.tif").unlink()
    with pytest.raises(InputError, match="none of 4 images can be used; the first:"):
        import_images(images, table, tmp_path / "e", OWN)


@pytest.mark.slow
def test_command_line_from_images_to_a_prediction(tmp_path: Path, data_root: Path) -> None:
    """The page's example: import, prepare, embed, split; crops and vectors of both proteins."""
    images, table = write_inputs(tmp_path)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    out = run(
        "import-images", str(images), str(table), "--name", "mine", "--pixel-size-um", "0.206"
    )
    assert "2 proteins, 4 fields of 0.206 µm a pixel; labels: Cytoplasm, Nucleus" in out
    assert "8 nuclei" in run("prepare", "mine", "--border-rule", "shift", "--workers", "1")
    run("embed", "mine")
    dataset = Dataset(data_root / "mine")
    assert len(dataset.crops) == 8 and len(dataset.features("embedded")) == 2
    crops, masks = dataset.crop_images[:], dataset.nuclear_masks[:]
    inside = (crops[:, 1] * masks).sum((1, 2)) / crops[:, 1].sum((1, 2))
    of_nucleus = dataset.crops["protein_id"] == "mine1"
    assert inside[of_nucleus].min() > 2 * inside[~of_nucleus].max()
    (images / "plate1_0.tif").write_bytes(b"<html>proxy</html>")
    result = CliRunner().invoke(
        app, ["import-images", str(images), str(table), "--name", "m2", "--pixel-size-um", "0.206"]
    )
    assert result.exit_code == 1 and "failed:" in result.output
