"""
The outputs of the four tools that the paper compares itself with, read as they are written.

MultiLoc2, DeepLoc 1.0, BUSCA and MULocDeep name four to ten places. The paper makes two of them:
the nucleus, and everything else, which it calls cytoplasm (Methods, "Comparison with other
tools"); so a protein sent to a mitochondrion is right when it is cytoplasmic. The fairer mapping
weighs the nucleus against the cytoplasm and leaves the other places out. Both are here. The
formats are those of each tool's own program or server; `read_tool` tells them apart by content.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from deepgps_core.dataset import InputError
from deepgps_core.sources.uniprot import protein_id_of

#: Larger than any output of a tool for a whole proteome.
MAX_OUTPUT_BYTES = 200_000_000
MAPPINGS: Mapping[str, str] = MappingProxyType(
    {
        "paper": "nucleus against all other places, which count as cytoplasm",
        "fair": "nucleus against cytoplasm, other places left out",
    }
)
MULTILOC2_PLACES = ("nuclear", "cytoplasmic", "mitochondrial", "secretory pathway")
DEEPLOC_PLACES = (
    "Nucleus", "Cytoplasm", "Extracellular", "Mitochondrion", "Cell_membrane",
    "Endoplasmic_reticulum", "Plastid", "Golgi_apparatus", "Lysosome/Vacuole", "Peroxisome",
)  # fmt: skip
MULOCDEEP_PLACES = (
    "Nucleus", "Cytoplasm", "Secreted", "Mitochondrion", "Membrane", "Endoplasmic", "Plastid",
    "Golgi_apparatus", "Lysosome", "Peroxisome",
)  # fmt: skip
#: BUSCA's nine animal compartments by GO term; it writes ``C:`` before a cellular component.
BUSCA_PLACES: Mapping[str, str] = MappingProxyType(
    {
        "GO:0005634": "nucleus", "GO:0005737": "cytoplasm", "GO:0005615": "extracellular space",
        "GO:0005739": "mitochondrion", "GO:0005886": "plasma membrane",
        "GO:0031090": "organelle membrane", "GO:0012505": "endomembrane system",
        "GO:0005764": "lysosome", "GO:0005777": "peroxisome",
    }
)  # fmt: skip
Lines = list[tuple[int, str]]


@dataclass(frozen=True)
class Tool:
    """
    How to read a tool's output.

    Parameters
    ----------
    name : str
        As the paper's tables print it.
    recognize : callable
        Given the text, whether this tool wrote it.
    parse : callable
        Given a path (for messages) and numbered lines, yields line number, protein, scores.
    places : tuple of str
        All its words, in the order of its columns.
    nucleus, cytoplasm : str
        Its words for the two places.
    """

    name: str
    recognize: Callable[[str], bool]
    parse: Callable[[Path, Lines], Iterator[tuple[int, str, dict[str, float]]]]
    places: tuple[str, ...]
    nucleus: str
    cytoplasm: str


def _error(path: Path, line: int, problem: str) -> InputError:
    return InputError(f"{path}, line {line}: {problem}; give the file as the tool wrote it.")


def _number(path: Path, line: int, place: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise _error(path, line, f"{word[:30]!r} for {place} is not a number") from None
    if not 0 <= value <= 1:
        raise _error(path, line, f"{value:g} for {place} is no probability")
    return value


def _named_scores(
    path: Path, line: int, fields: list[str], places: tuple[str, ...]
) -> dict[str, float]:
    """Read fields of the form ``place: score``; each place has to be there once."""
    scores: dict[str, float] = {}
    for field in fields:
        place, colon, word = field.rpartition(":")
        place = place.strip()
        if not colon or place not in places:
            raise _error(path, line, f"{field.strip()[:40]!r} is no place with a score")
        if place in scores:
            raise _error(path, line, f"{place} is given twice")
        scores[place] = _number(path, line, place, word.strip())
    if missing := [place for place in places if place not in scores]:
        raise _error(path, line, f"no score for {missing[0]}")
    return scores


def _parse_multiloc2(path: Path, lines: Lines) -> Iterator[tuple[int, str, dict[str, float]]]:
    # head: "MultiLoc2 Prediction Result", "predictor = ...", "origin = ..."; places by rank
    for line, text in lines:
        if text.startswith("Detailed results of all subprediction methods"):
            return  # what -output=advanced appends
        if text.startswith(("MultiLoc2 Prediction", "origin =")):
            continue
        if text.startswith("predictor ="):
            if "LowRes" not in text:
                raise InputError(
                    f"{path}, line {line}: predictor is not MultiLoc2-LowRes; "
                    "run it with -predictor=LowRes, as the paper did."
                )
            continue
        name, *fields = text.split("\t")
        yield line, name, _named_scores(path, line, fields, MULTILOC2_PLACES)


def _parse_deeploc(path: Path, lines: Lines) -> Iterator[tuple[int, str, dict[str, float]]]:
    wanted = ["ID", "Location", "Membrane", *DEEPLOC_PLACES]
    (first, head), *rest = lines
    header = head.lstrip("#").split("\t")
    if header != wanted:
        odd = next((name for name in wanted if name not in header), header[-1])
        raise _error(path, first, f"column {odd!r} is missing or out of place")
    for line, text in rest:
        cells = text.split("\t")
        if len(cells) != len(wanted):
            raise _error(path, line, f"{len(cells)} columns, not {len(wanted)}")
        row = zip(DEEPLOC_PLACES, cells[3:], strict=True)
        yield line, cells[0], {place: _number(path, line, place, word) for place, word in row}


def _busca_columns(path: Path, line: int, header: list[str]) -> tuple[int, int, int]:
    simple = [re.sub(r"[^a-z]", "", name.lower()) for name in header]
    found = []
    for wanted in (("accession", "proteinaccession"), ("goid", "goids"), ("score",)):
        at = [i for i, name in enumerate(simple) if name in wanted]
        if not at:
            raise _error(path, line, f"no column for {wanted[0]}")
        found.append(at[0])
    return found[0], found[1], found[2]


def _parse_busca(path: Path, lines: Lines) -> Iterator[tuple[int, str, dict[str, float]]]:
    # one place a protein, and its score; the places not chosen have no number
    delimiter = "\t" if "\t" in lines[0][1] else ","
    rows = [(line, next(csv.reader([text], delimiter=delimiter))) for line, text in lines]
    (first, header), *rest = rows
    name, go_term, score = _busca_columns(path, first, header)
    for line, cells in rest:
        if len(cells) <= max(name, go_term, score):
            raise _error(path, line, f"{len(cells)} columns, fewer than in the head")
        # other terms may follow, as for a signal peptide
        terms = re.findall(r"GO:\d{7}", cells[go_term])
        place = next((BUSCA_PLACES[term] for term in terms if term in BUSCA_PLACES), None)
        if place is None:
            raise _error(path, line, f"{cells[go_term][:40]!r} is none of its animal compartments")
        yield line, cells[name], {place: _number(path, line, place, cells[score].strip())}


def _parse_mulocdeep(path: Path, lines: Lines) -> Iterator[tuple[int, str, dict[str, float]]]:
    # ">name:<tab>Nucleus:0.9<tab>...<tab>prediction:Nucleus|Cytoplasm|"
    for line, text in lines:
        name, *fields = text.rstrip("\t").split("\t")
        if not name.startswith(">") or not name.endswith(":"):
            raise _error(path, line, "does not begin with '>name:'")
        if not fields or not fields[-1].startswith("prediction:"):
            raise _error(path, line, "does not end in 'prediction:'")
        yield line, name[1:-1], _named_scores(path, line, fields[:-1], MULOCDEEP_PLACES)


TOOLS: Mapping[str, Tool] = MappingProxyType(
    {
        tool.name: tool
        for tool in (
            Tool("MultiLoc2", lambda text: text.startswith("MultiLoc2 Prediction"),
                 _parse_multiloc2, MULTILOC2_PLACES, "nuclear", "cytoplasmic"),
            Tool("DeepLoc v1.0", lambda text: text.lstrip("#").startswith("ID\tLocation"),
                 _parse_deeploc, DEEPLOC_PLACES, "Nucleus", "Cytoplasm"),
            Tool("BUSCA", lambda text: "GO:" in text and "score" in text.split("\n")[0].lower(),
                 _parse_busca, tuple(BUSCA_PLACES.values()), "nucleus", "cytoplasm"),
            Tool("MULocDeep", lambda text: text.startswith(">") and "prediction:" in text,
                 _parse_mulocdeep, MULOCDEEP_PLACES, "Nucleus", "Cytoplasm"),
        )
    }
)  # fmt: skip


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_OUTPUT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    if len(content) > MAX_OUTPUT_BYTES:
        raise InputError(f"{path}: larger than {MAX_OUTPUT_BYTES:,} bytes; is it another file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; give the tool's text output.") from None


def read_tool(path: Path | str) -> tuple[Tool, pd.DataFrame]:
    """
    Read the output of one of the four tools, which is recognized by its content.

    Parameters
    ----------
    path : Path or str
        MultiLoc2's result file (LowRes), DeepLoc 1.0's tab-separated table, BUSCA's CSV or TSV
        table, or MULocDeep's ``sub_cellular_prediction.txt``.

    Returns
    -------
    tool : Tool
    scores : DataFrame, index protein_id
        One column for each of the tool's places; NaN where the tool gives no number (BUSCA,
        all places but the chosen one). UniProt headers are reduced to the accession.

    Raises
    ------
    InputError
        If no tool wrote it, or a line is broken: the message names file and line.
    """
    path = Path(path)
    text = _read_text(path)
    tool = next((tool for tool in TOOLS.values() if tool.recognize(text.lstrip())), None)
    if tool is None:
        raise InputError(f"{path}, line 1: output of none of {', '.join(TOOLS)}; take it away.")
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows: dict[str, dict[str, float]] = {}
    for line, name, scores in tool.parse(path, lines):
        protein_id = protein_id_of(name)
        if not protein_id or protein_id in rows:
            problem = f"protein {protein_id!r} occurs twice" if protein_id else "no protein's name"
            raise _error(path, line, problem)
        rows[protein_id] = scores
    if not rows:
        raise InputError(f"{path}, line {lines[-1][0]}: holds no protein; run the tool again.")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(tool.places), dtype=float)
    return tool, table.rename_axis(index="protein_id")


def two_classes(tool: Tool, scores: pd.DataFrame, mapping: str = "paper") -> pd.DataFrame:
    """
    Make two classes of a tool's places.

    Parameters
    ----------
    tool : Tool
    scores : DataFrame, index protein_id
        As `read_tool` returns them.
    mapping : str
        One of `MAPPINGS`.

    Returns
    -------
    calls : DataFrame, index protein_id
        ``p_Cytoplasm`` and ``called`` (Cytoplasm or Nucleus). Under "paper", a protein is called
        by the place with the highest score, and p is 1 minus the nucleus's share of all scores,
        so the two need not agree at one half. Under "fair", p is P(cytoplasm) / (P(cytoplasm) +
        P(nucleus)); proteins for which a tool gives neither a score are left out. Where only the
        chosen place has a score s (BUSCA), p is s for cytoplasm and 1 - s for the nucleus.

    Raises
    ------
    ValueError
        If the mapping is unknown.
    """
    if mapping not in MAPPINGS:
        raise ValueError(f"mapping {mapping!r} is unknown; choose of {', '.join(MAPPINGS)}")
    nucleus, cytoplasm = scores[tool.nucleus], scores[tool.cytoplasm]
    single = scores.notna().sum(axis=1) == 1
    if mapping == "fair":
        total = nucleus.fillna(0) + cytoplasm.fillna(0)
        p = (cytoplasm.fillna(0) / total.where(total > 0)).where(~single, cytoplasm)
        p = p.where(~(single & nucleus.notna()), 1 - nucleus).dropna()
        return pd.DataFrame({"p_Cytoplasm": p, "called": _called(p < 0.5)})
    best = scores.columns[scores.fillna(-1.0).to_numpy().argmax(axis=1)]
    share = nucleus.fillna(0) / scores.sum(axis=1).where(lambda total: total > 0, 1.0)
    p = (1 - share).where(~single, scores.max(axis=1))
    p = p.where(~(single & nucleus.notna()), 1 - nucleus)
    is_nucleus = pd.Series(best == tool.nucleus, index=scores.index)
    return pd.DataFrame({"p_Cytoplasm": p, "called": _called(is_nucleus)})


def _called(is_nucleus: pd.Series) -> pd.Series:
    return is_nucleus.map({True: "Nucleus", False: "Cytoplasm"}).astype(object)


def read_tools_folder(folder: Path | str) -> pd.DataFrame:
    """
    Read all outputs in a folder; a tool's files may hold a part of the proteins each.

    Parameters
    ----------
    folder : Path or str
        Holds outputs only; names are free, those that begin with a dot are passed over.

    Returns
    -------
    calls : DataFrame
        One row a tool, mapping and protein: tool, mapping, protein_id, p_Cytoplasm, called.

    Raises
    ------
    InputError
        If the folder is missing or empty, a file is broken, or a protein is in two files of one
        tool.
    """
    folder = Path(folder)
    paths = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
    if not paths:
        raise InputError(f"{folder}: holds no tool outputs; put the files of the tools there.")
    tables, seen = [], dict[tuple[str, str], Path]()
    for path in paths:
        tool, scores = read_tool(path)
        for protein_id in scores.index:
            first = seen.setdefault((tool.name, protein_id), path)
            if first != path:
                raise InputError(
                    f"{path}: {tool.name} has protein {protein_id!r} already in {first.name}; "
                    "leave one of the files out."
                )
        for mapping in MAPPINGS:
            calls = two_classes(tool, scores, mapping).reset_index(names="protein_id")
            tables.append(calls.assign(tool=tool.name, mapping=mapping))
    columns = ["tool", "mapping", "protein_id", "p_Cytoplasm", "called"]
    return pd.concat(tables, ignore_index=True)[columns]
