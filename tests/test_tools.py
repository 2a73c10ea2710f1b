"""Outputs of other tools: real formats are read, broken ones are refused by file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepgps_core.dataset import InputError
from deepgps_core.tools import MAPPINGS, TOOLS, read_tool, read_tools_folder, two_classes

#: As multiloc2_prediction.py writes it with -origin=animal -predictor=LowRes -output=simple.
MULTILOC2 = """MultiLoc2 Prediction Result

predictor = MultiLoc2-LowRes
origin = animal

sp|P63104|1433Z_HUMAN\tcytoplasmic: 0.91\tnuclear: 0.06\tmitochondrial: 0.02\t\
secretory pathway: 0.01
Q16630\tnuclear: 0.83\tcytoplasmic: 0.15\tsecretory pathway: 0.01\tmitochondrial: 0.01
P10809\tmitochondrial: 0.97\tnuclear: 0.02\tcytoplasmic: 0.01\tsecretory pathway: 0.0
"""
#: DeepLoc 1.0's table: place, P(membrane-bound), then ten probabilities.
DEEPLOC = """ID\tLocation\tMembrane\tNucleus\tCytoplasm\tExtracellular\tMitochondrion\t\
Cell_membrane\tEndoplasmic_reticulum\tPlastid\tGolgi_apparatus\t\
Lysosome/Vacuole\tPeroxisome
P63104\tCytoplasm\t0.0008\t0.1000\t0.8000\t0.0100\t0.0400\t\
0.0100\t0.0100\t0.0100\t0.0100\t0.0050\t0.0050
Q16630\tNucleus\t0.0001\t0.9500\t0.0400\t0.0010\t0.0040\t\
0.0010\t0.0010\t0.0010\t0.0010\t0.0005\t0.0005
P10809\tMitochondrion\t0.2101\t0.3000\t0.2000\t0.0000\t0.4500\t\
0.0100\t0.0100\t0.0100\t0.0100\t0.0050\t0.0050
"""
#: BUSCA's table: accession, GO term, its name, score.
BUSCA = """Accession,GO-id,GO-term,Score
P63104,GO:0005737,C:cytoplasm,0.7
Q16630,GO:0005634,C:nucleus,0.9
P10809,GO:0005739,C:mitochondrion,0.99
"""
#: MULocDeep's sub_cellular_prediction.txt.
MULOCDEEP = (
    ">P63104:\tNucleus:0.42\tCytoplasm:0.81\tSecreted:0.05\tMitochondrion:0.04\tMembrane:0.1\t"
    "Endoplasmic:0.01\tPlastid:0.0\tGolgi_apparatus:0.01\tLysosome:0.01\tPeroxisome:1e-05\t"
    "prediction:Cytoplasm|\n"
    ">Q16630:\tNucleus:0.97\tCytoplasm:0.13\tSecreted:0.0\tMitochondrion:0.0\tMembrane:0.0\t"
    "Endoplasmic:0.0\tPlastid:0.0\tGolgi_apparatus:0.0\tLysosome:0.0\tPeroxisome:0.0\t"
    "prediction:Nucleus|Cytoplasm|\n"
    ">P10809:\tNucleus:0.0\tCytoplasm:0.2\tSecreted:0.0\tMitochondrion:0.9\tMembrane:0.0\t"
    "Endoplasmic:0.0\tPlastid:0.0\tGolgi_apparatus:0.0\tLysosome:0.0\tPeroxisome:0.0\t"
    "prediction:Mitochondrion|\n"
)
OUTPUTS = {
    "MultiLoc2": MULTILOC2, "DeepLoc v1.0": DEEPLOC, "BUSCA": BUSCA, "MULocDeep": MULOCDEEP
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_format_is_recognized_and_read(name: str, tmp_path: Path) -> None:
    """Content tells the tool; accessions come out of headers; CRLF and blank lines do not hurt."""
    for i, text in enumerate((OUTPUTS[name], "\n" + OUTPUTS[name].replace("\n", "\r\n") + "\r\n")):
        path = tmp_path / f"{i}.out"
        path.write_bytes(text.encode())
        tool, scores = read_tool(path)
        assert tool is TOOLS[name]
        assert list(scores.index) == ["P63104", "Q16630", "P10809"]
        assert list(scores.columns) == list(tool.places)
        assert scores.idxmax(axis=1).tolist()[:2] == [tool.cytoplasm, tool.nucleus]


def test_paper_mapping_gives_other_places_to_the_cytoplasm(tmp_path: Path) -> None:
    """A mitochondrial protein counts as cytoplasmic, even where P(nucleus) > P(cytoplasm)."""
    for name, text in OUTPUTS.items():
        (tmp_path / "out").write_text(text)
        calls = two_classes(*read_tool(tmp_path / "out"), "paper")
        assert calls["called"].tolist() == ["Cytoplasm", "Nucleus", "Cytoplasm"], name
        assert calls["p_Cytoplasm"].is_monotonic_increasing is False
        assert calls.loc["P63104", "p_Cytoplasm"] > 0.5 > calls.loc["Q16630", "p_Cytoplasm"]


def test_fair_mapping_weighs_nucleus_against_cytoplasm(tmp_path: Path) -> None:
    """By hand: .2 / (.2 + .3); a protein that is sent to neither is left out."""
    found = {}
    for name, text in OUTPUTS.items():
        (tmp_path / "out").write_text(text)
        found[name] = two_classes(*read_tool(tmp_path / "out"), "fair")
    assert found["DeepLoc v1.0"].loc["P10809", "p_Cytoplasm"] == pytest.approx(0.4)
    assert found["DeepLoc v1.0"].loc["P10809", "called"] == "Nucleus"
    assert found["MULocDeep"].loc["P10809", "p_Cytoplasm"] == 1.0
    assert found["MultiLoc2"].loc["P10809", "p_Cytoplasm"] == pytest.approx(1 / 3)
    assert list(found["BUSCA"].index) == ["P63104", "Q16630"]
    assert found["BUSCA"]["p_Cytoplasm"].tolist() == pytest.approx([0.7, 0.1])


def test_mulocdeep_shares_of_paper_mapping(tmp_path: Path) -> None:
    """Multi-label scores do not add to one: P(nucleus) is taken as a share of their sum."""
    (tmp_path / "out").write_text(MULOCDEEP)
    p = two_classes(*read_tool(tmp_path / "out"), "paper")["p_Cytoplasm"]
    assert p["P63104"] == pytest.approx(1 - 0.42 / 1.45001)
    with pytest.raises(ValueError, match="unknown"):
        two_classes(*read_tool(tmp_path / "out"), "generous")


BROKEN = {
    "score is text": ("MultiLoc2", "nuclear: 0.83", "nuclear: high", 7, "not a number"),
    "place is unknown": ("MultiLoc2", "nuclear: 0.83", "nucleus: 0.83", 7, "no place"),
    "place is missing": ("MultiLoc2", "nuclear: 0.83\t", "", 7, "no score for nuclear"),
    "place twice": ("MultiLoc2", "nuclear: 0.83", "nuclear: 0.8\tnuclear: 0.1", 7, "twice"),
    "HighRes": ("MultiLoc2", "LowRes", "HighRes", 3, "-predictor=LowRes"),
    "protein twice": ("MultiLoc2", "P10809", "Q16630", 8, "occurs twice"),
    "columns swapped": ("DeepLoc v1.0", "Nucleus\tCytoplasm\tExtra", "Cytoplasm\tNucleus\tExtra",
                        1, "out of place"),
    "cut short": ("DeepLoc v1.0", "\t0.0005\t0.0005\n", "\n", 3, "columns, not 13"),
    "above one": ("DeepLoc v1.0", "0.9500", "9.5", 3, "no probability"),
    "not a number": ("DeepLoc v1.0", "0.9500", "nan", 3, "no probability"),
    "plant place": ("BUSCA", "GO:0005739", "GO:0009507", 4, "animal compartments"),
    "no accession": ("BUSCA", "Accession", "Name", 1, "no column for accession"),
    "score cut off": ("BUSCA", "C:nucleus,0.9", "C:nucleus", 3, "fewer than in the head"),
    "no prediction": ("MULocDeep", "\tprediction:Mitochondrion|", "", 3, "prediction:"),
    "no colon": ("MULocDeep", ">Q16630:", ">Q16630", 2, "'>name:'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_name_file_and_line(case: str, tmp_path: Path) -> None:
    """Each message names the file, the line an editor shows, and what is wrong there."""
    name, good, bad, line, problem = BROKEN[case]
    assert good in OUTPUTS[name]
    path = tmp_path / "broken.out"
    path.write_text(OUTPUTS[name].replace(good, bad, 1))
    with pytest.raises(InputError) as caught:
        read_tool(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ") and problem in message, message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x89PNG\r\n\x1a\n\xff\xfe"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    """An empty file, a text and a picture are no outputs; nor is a head without proteins."""
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(InputError, match="other"):
        read_tool(path)
    path.write_text(DEEPLOC.split("\n")[0] + "\n")
    with pytest.raises(InputError, match="holds no protein"):
        read_tool(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_tool(tmp_path / "absent")


def test_folder_joins_files_of_a_tool(tmp_path: Path) -> None:
    """Four tools, one of them in two files: each protein once a tool and mapping."""
    for name, text in OUTPUTS.items():
        (tmp_path / f"{name}.txt").write_text(text)
    rows = BUSCA.replace("P63104", "A1").replace("Q16630", "A2").replace("P10809", "A3")
    (tmp_path / "BUSCA-2.csv").write_text(rows)
    (tmp_path / ".hidden").write_text("not an output")
    calls = read_tools_folder(tmp_path)
    assert not calls.duplicated(["tool", "mapping", "protein_id"]).any()
    counts = calls.groupby(["tool", "mapping"]).size().unstack()[list(MAPPINGS)]
    assert counts.loc["BUSCA"].tolist() == [6, 4] and counts.loc["MULocDeep"].tolist() == [3, 3]
    assert np.isfinite(calls["p_Cytoplasm"]).all()
    (tmp_path / "again.csv").write_text(BUSCA)
    with pytest.raises(InputError, match=r"'P63104' already in"):
        read_tools_folder(tmp_path)
    with pytest.raises(InputError, match="holds no tool outputs"):
        read_tools_folder(tmp_path / "nowhere")
