"""
The Human Protein Atlas: which genes, and what their table says (paper, Methods, "Datasets").

``subcellular_location.tsv`` names one or more main locations of each gene and how reliable they
are; it does not say in which cell line. The paper takes proteins "annotated with a single
subcellular localization in either cytoplasm or nucleoplasm" of U-2 OS cells, 2,087 of them, from
a snapshot of 2021. Which reliability it asked for, and whether an additional location spoils a
single one, it does not say; here both are choices, and `count_genes` shows what each of them
costs. Images are in :mod:`deepgps_core.sources.hpa_images`.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from deepgps_core.dataset import InputError

SITE = "https://www.proteinatlas.org"
TABLE_PATH = "download/tsv/subcellular_location.tsv.zip"
LICENCE = (
    "CC BY 4.0 at release 25.1; earlier releases were CC BY-SA or CC BY-NC-ND "
    "(Human Protein Atlas, proteinatlas.org)"
)
PIXEL_SIZE_UM = 0.08
#: The atlas's two places of the paper, under the words that the book's single-2 uses.
LABEL_OF: Mapping[str, str] = MappingProxyType({"Cytosol": "Cytoplasm", "Nucleoplasm": "Nucleus"})
#: Best first. "Uncertain" contradicts other evidence and is left out by default.
RELIABILITY = ("Enhanced", "Supported", "Approved", "Uncertain")
DEFAULT_RELIABILITY = RELIABILITY[:3]
GENE_COLUMNS = (
    "Gene", "Gene name", "Reliability", "Main location", "Additional location",
    "Extracellular location",
)  # fmt: skip
KAGGLE_COLUMNS = ("Image", "Label", "Cellline")
#: The table has about 2 MB.
MAX_TABLE_BYTES = 200_000_000


def _table_bytes(path: Path) -> bytes:
    """Return the content of a plain, gzipped or zipped table, at most `MAX_TABLE_BYTES`."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith((".tsv", ".csv"))]
                if len(members) != 1:
                    raise InputError(f"{path}: holds {len(members)} tables, not one; unpack it.")
                with archive.open(members[0]) as stream:
                    content = stream.read(MAX_TABLE_BYTES + 1)
        else:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
                content = stream.read(MAX_TABLE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: table not found; check the path.") from None
    except (zipfile.BadZipFile, gzip.BadGzipFile, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: damaged ({error}); fetch it again.") from None
    if len(content) > MAX_TABLE_BYTES:
        raise InputError(f"{path}: larger than {MAX_TABLE_BYTES:,} bytes unpacked; remove it.")
    return content


def _read(path: Path, columns: tuple[str, ...], separator: str) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            io.BytesIO(_table_bytes(path)), sep=separator, dtype=str, keep_default_na=False
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: no table ({reason}); fetch it again.") from None
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(
            f"{path}: column {missing[0]!r} is missing; give the file as its source publishes it."
        )
    return frame


def read_gene_table(path: Path | str) -> pd.DataFrame:
    """
    Read ``subcellular_location.tsv``, plain, gzipped or zipped.

    Returns
    -------
    genes : DataFrame
        Text columns `GENE_COLUMNS` first; ``;`` between locations.

    Raises
    ------
    InputError
        If it is not that table.
    """
    return _read(Path(path), GENE_COLUMNS, "\t")


def single_location_genes(
    genes: pd.DataFrame,
    *,
    label_of: Mapping[str, str] = LABEL_OF,
    reliability: Collection[str] = DEFAULT_RELIABILITY,
    strict: bool = True,
) -> pd.DataFrame:
    """
    Choose the genes whose protein is in one place only, out of those that `label_of` names.

    Parameters
    ----------
    genes : DataFrame
        As `read_gene_table` returns it.
    reliability : collection of str
        Which of `RELIABILITY` count.
    strict : bool
        Whether an additional or an extracellular location rules a gene out. The paper says
        "single"; strict is what we take it to mean.

    Returns
    -------
    chosen : DataFrame
        The rows, with a column ``label``; the labels take turns, so that the first few rows
        hold all of them.
    """
    unknown = sorted(set(reliability) - set(RELIABILITY))
    if unknown:
        raise InputError(
            f"reliability {unknown[0]!r} is unknown; choose of {', '.join(RELIABILITY)}."
        )
    kept = genes["Main location"].isin(label_of) & genes["Reliability"].isin(reliability)
    if strict:
        kept &= (genes["Additional location"] == "") & (genes["Extracellular location"] == "")
    chosen = genes[kept].drop_duplicates("Gene").sort_values("Gene")
    chosen = chosen.assign(label=chosen["Main location"].map(dict(label_of)))
    turn = chosen.groupby("label").cumcount()
    return chosen.iloc[turn.argsort(kind="stable")].reset_index(drop=True)


def count_genes(genes: pd.DataFrame) -> pd.DataFrame:
    """
    Count genes as one rule after the other is applied.

    Returns
    -------
    counts : DataFrame
        One row a rule: ``rule``, then how many genes of `LABEL_OF`'s locations, and their sum.
    """
    sole = genes["Main location"].isin(LABEL_OF)
    only = sole & (genes["Additional location"] == "")
    within = only & (genes["Extracellular location"] == "")
    rules = {
        "the only main location": sole,
        "and no additional one": only,
        "and not extracellular": within,
    } | {
        f"and reliability {' or '.join(RELIABILITY[:n])}": within
        & genes["Reliability"].isin(RELIABILITY[:n])
        for n in (3, 2, 1)
    }
    rows = []
    for rule, kept in rules.items():
        of_location = genes.loc[kept, "Main location"].value_counts()
        counts = {name: int(of_location.get(name, 0)) for name in LABEL_OF}
        rows.append({"rule": rule} | counts | {"sum": sum(counts.values())})
    return pd.DataFrame(rows)


def read_kaggle_table(path: Path | str) -> pd.DataFrame:
    """
    Read ``kaggle_2021.tsv``, the table of images that the paper cites (it needs a login there).

    Returns
    -------
    images : DataFrame
        ``prefix`` (an image's address without color), ``name``, ``cell_line``, ``locations``
        (``;`` between them) and ``label`` (of `LABEL_OF` where there is one location, else
        empty).
    """
    # commas, whatever its name says
    table = _read(Path(path), KAGGLE_COLUMNS, ",")
    locations = table["Label"].str.split(r"\s*,\s*", regex=True).str.join(";")
    prefix = table["Image"].str.rstrip("_")
    return pd.DataFrame(
        {
            "prefix": prefix,
            "name": prefix.str.rsplit("/", n=1).str[-1],
            "cell_line": table["Cellline"],
            "locations": locations,
            "label": locations.map(dict(LABEL_OF)).fillna(""),
        }
    )


def count_images(images: pd.DataFrame, cell_line: str = "U-2 OS") -> dict[str, float]:
    """
    Count the images of a Kaggle table, as the paper's Fig. S6A does.

    Returns
    -------
    counts : dict
        ``images``, ``of_cell_line``, its ``share`` (the paper: about .33), and how many of
        those have a single location of `LABEL_OF`.
    """
    of_line = images[images["cell_line"] == cell_line]
    counts = {"images": float(len(images)), "of_cell_line": float(len(of_line))}
    counts["share"] = len(of_line) / max(1, len(images))
    return counts | {
        location: float((of_line["label"] == label).sum()) for location, label in LABEL_OF.items()
    }
