"""The lines that the book offers for other projects run, on files of the kind each names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from deepgps_core.point_clouds import shipped_path, shipped_structures
from deepgps_core.sources.embedded import demo_proteins
from deepgps_core.sources.simulated import SimulationConfig, simulate_field
from tests.tiny import make_tiny

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "book" / "lift.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^#{2,3} (.*?)\n(.*?)(?=^#{2,3} |\Z)", re.MULTILINE | re.DOTALL)
BLOCKS = {
    title: re.findall(r"```python\n(.*?)```", body, re.DOTALL)[0]
    for title, body in SECTION.findall(PAGE)
}
#: What the blocks leave behind must hold; their answers are known from how the files were made.
EXPECTED = {
    "01": lambda v: v["table"]["locations"].nunique() == 2 and 0 < v["share"].low < 0.5,
    "02": lambda v: v["crops"].shape[1:] == (2, 208, 208) and len(v["crops"]) > 3,
    "03": lambda v: v["table"].assign(part=v["split"][v["table"]["protein_id"]].to_numpy())
    .groupby("cluster_30")["part"].nunique().max() == 1,
    "04": lambda v: {len(x) for x in v["vectors"].values()} == {v["encoder"].dim}
    and v["residues"]["Q00000"].shape == (40, v["encoder"].dim),
    "05": lambda v: v["cloud"].shape == (512, 6),
    "06": lambda v: len(v["run"].history) == 2 and {"low", "high"} <= set(v["scores"].labels),
    "The cross-assay": lambda v: v["images"].shape[1] == 8 and np.isclose(sum(v["shares"]), 1),
    "07": lambda v: v["idle"] > 0
    and all(learns for name, learns in v["learns"].items() if name.startswith("decoder")),
    "09": lambda v: v["matrix"].sum() == 105,
    "10": lambda v: list(v["psnr_db"]) == ["first", "second"]
    and not v["psnr_db"].isna().to_numpy().any(),
    "11": lambda v: v["moved"].to_dict() == {"stays": False, "moves": True},
    "16": lambda v: v["numbers"]["y"].tolist() == [0, 1, 4],
    "17": lambda v: len(v["table"]) == 25 and v["answer"].images.ndim == 3,
    "18": lambda v: True,
    "19": lambda v: 0.75 < v["covered"] < 0.85,
    "08": lambda v: v["right"]["first"].mean() > v["right"]["second"].mean(),
    "12": lambda v: set(v["predictions"]["baseline"]) == {"zero rule", "composition"},
    "13": lambda v: v["scores"]["model"].mean() > v["scores"]["one gray"].mean(),
    "14": lambda v: any((t.tp, t.tn) == (17, 15) for t in v["tables"]),
    "15": lambda v: True,
    "A1": lambda v: len(v["held_out"]) == 5 and v["tokens"].shape[1] == 512,
    "A2": lambda v: v["drawn"].field.shape == (2, 300, 300) and v["drawn"].nucleus_labels.max() > 0,
    "A3": lambda v: True,
    "A4": lambda v: v["n_residues"] == 400,
}  # fmt: skip
#: What a block prints has to contain (a pattern; how long something takes is never asserted).
PRINTED = {
    "09": r"exact 0\.629, one-vs-rest 0\.814",
    "18": "single-4",
    "15": r"estimate=1\.0",
    "A3": r"'f1': 1\.0",
    "A4": r"(?m)^400 \d+\.\d{3} s$",
    "08": "PairedTest",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every file that the page's blocks need."""
    folder = tmp_path_factory.mktemp("lift")
    rng = np.random.default_rng(0)
    proteins = demo_proteins({"Cytoplasm": 12, "Nucleus": 12}, seed=0)
    proteins["sequence"] = proteins["sequence"].str[:60]
    proteins.to_csv(folder / "proteins.csv", index=False)
    records = [
        f">{p}\n{s}\n" for p, s in zip(proteins["protein_id"], proteins["sequence"], strict=True)
    ]
    records.append(">Q00000\n" + "MKTAYIAKQR" * 4 + "\n")
    (folder / "proteins.fasta").write_text("".join(records))
    field = simulate_field(["Nucleus"], "P1", config=SimulationConfig()).field
    tifffile.imwrite(folder / "field.tif", field)
    shutil.copy(shipped_path(next(iter(shipped_structures()))), folder / "structure.cif.gz")
    make_tiny(folder / "mine")
    truth = np.arange(80) % 2 == 0
    first = np.where(truth, 0.7, 0.3) + rng.normal(0, 0.15, 80)
    second = np.where(truth, 0.55, 0.45) + rng.normal(0, 0.15, 80)
    table = {"is_positive": truth, "first": first.clip(0, 1), "second": second.clip(0, 1)}
    pd.DataFrame(table).to_csv(folder / "two_models.csv", index=False)
    cells = [
        {"protein_id": name, "line": line, "log_ratio": shift + rng.normal(0, 0.3)}
        for name, by in (("stays", 0.0), ("moves", 2.0))
        for line, shift in (("HEK293T", 0.0), ("U-2 OS", by))
        for _ in range(20)
    ]
    pd.DataFrame(cells).to_csv(folder / "ratios.csv", index=False)
    measured = rng.random((6, 32, 32))
    np.save(folder / "measured.npy", measured)
    np.save(folder / "generated.npy", (measured + rng.normal(0, 0.05, measured.shape)).clip(0, 1))
    np.save(folder / "protein_of_image.npy", np.array(list("AABBCC")))
    labels = np.kron(np.arange(4).reshape(2, 2), np.ones((8, 8), int))
    np.save(folder / "true_labels.npy", labels)
    np.save(folder / "found_labels.npy", labels[::1])
    return folder


def test_every_chapter_with_a_notebook_has_lines_to_lift() -> None:
    """Each executed chapter is on the page, and each block has at most a dozen lines of work."""
    numbers = {title.split(" ")[0] for title in BLOCKS}
    chapters = {path.stem.split("_")[0] for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert numbers - {"The"} == chapters, "the page and the chapters differ"
    for title, block in BLOCKS.items():
        work = [x for x in block.splitlines() if x.strip() and not x.startswith(("import", "from"))]
        assert len(work) <= 10, title


@pytest.mark.parametrize("title", BLOCKS)
def test_lines_run(
    title: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block runs by itself beside the files it names, and leaves the right answer."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("DEEPGPS_DATA", str(files))
    if 'load_run("my_run")' in BLOCKS[title] and not (files / "my_run").exists():
        trains = next(block for name, block in BLOCKS.items() if name.startswith("06"))
        exec(compile(trains, "06", "exec"), {})
    values: dict[str, object] = {}
    exec(compile(BLOCKS[title], title, "exec"), values)
    key = title if title == "The cross-assay" else title.split(" ")[0]
    assert EXPECTED[key](values)
    assert re.search(PRINTED.get(key, ""), capsys.readouterr().out)
