"""
Tables 1 and 2 of the paper, rebuilt for any run: as they are printed, and as they can be read.

As printed: one split, no interval, our row per crop, the rivals' per protein. As read: every row
per protein, each number with a 95 % interval, and paired tests on the same proteins (McNemar's
exact test of accuracy, DeLong's of AUROC), adjusted together by Holm's method. Each row says
where it comes from: published rows are printed in the paper and were not recomputed; tools' rows
are read from their output files; the rest was trained on the run's own split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from deepgps_core.baselines import evaluate_baselines
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.evaluation import OURS
from deepgps_core.forensics import published
from deepgps_core.metrics import auprc, auroc
from deepgps_core.runs import Run
from deepgps_core.statistics import (
    Interval,
    bootstrap_intervals,
    delong_interval,
    delong_test,
    holm,
    mcnemar_exact,
    wilson_interval,
)
from deepgps_core.tools import read_tools_folder

#: What a row rests on that was learned from sequences alone.
NO_IMAGES = "none"


@dataclass(frozen=True)
class Method:
    """
    What one method says of the test proteins.

    Parameters
    ----------
    name : str
    source : str
        "this run", "same split", "tool's output"; it becomes a column.
    p_positive : Series, index protein_id
        Probability of the positive class, or any score that rises with it.
    called_positive : Series, index protein_id, dtype bool, optional
        By default, where the probability is at least one half.
    images : str
        "measured" or "simulated" if it was trained on images, else "none".
    """

    name: str
    source: str
    p_positive: pd.Series
    called_positive: pd.Series | None = None
    images: str = NO_IMAGES

    @property
    def called(self) -> pd.Series:
        """Whether each protein is called positive."""
        if self.called_positive is None:
            return self.p_positive >= 0.5
        return self.called_positive.reindex(self.p_positive.index).astype(bool)


@dataclass(frozen=True)
class ResultsTables:
    """
    One results table in two readings.

    Parameters
    ----------
    as_printed : DataFrame
        One row a method: model, source, images, unit (crop or protein), n, and the six metrics.
    as_read : DataFrame
        One row a method and metric: model, source, images, metric, estimate, low, high,
        n_proteins, chance.
    tests : DataFrame
        One row a comparison with the first method: model, against, n_proteins, discordant,
        accuracy_difference, mcnemar_p, mcnemar_holm, auroc_difference, delong_p, delong_holm.
    """

    as_printed: pd.DataFrame
    as_read: pd.DataFrame
    tests: pd.DataFrame


def scaled_down(sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """
    List, for prose, only those sizes that differ from the published ones.

    Parameters
    ----------
    sizes : mapping of str to (int, int)
        What is counted -> how many here, how many as published.

    Examples
    --------
    >>> scaled_down({"channels": (64, 64), "epochs": (5, 50)})
    ['5 epochs for 50']
    """
    return [
        f"{here:,} {what} for {there:,}" for what, (here, there) in sizes.items() if here != there
    ]


def _rates(truth: np.ndarray, called: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """Compute the six metrics of the tables from truth, calls and scores, each (N,)."""
    tp, tn = int((truth & called).sum()), int((~truth & ~called).sum())
    positives, negatives = int(truth.sum()), int((~truth).sum())
    wrong = len(truth) - tp - tn
    return {
        "accuracy": (tp + tn) / len(truth),
        "specificity": tn / negatives if negatives else float("nan"),
        "sensitivity": tp / positives if positives else float("nan"),
        "f1": 2 * tp / (2 * tp + wrong) if tp + wrong else float("nan"),
        "auroc": auroc(truth, score),
        "auprc": auprc(truth, score),
    }


def _intervals(
    truth: np.ndarray, called: np.ndarray, score: np.ndarray, n_resamples: int, seed: int
) -> dict[str, Interval]:
    """Compute each metric's interval: Wilson's for rates, DeLong's, else a bootstrap."""
    right = truth == called

    def rate(rows: np.ndarray) -> Interval:
        return wilson_interval(int(right[rows].sum()), int(rows.sum()))

    def f1_and_auprc(rows: np.ndarray) -> np.ndarray:
        rates = _rates(truth[rows], called[rows], score[rows])
        return np.array([rates["f1"], rates["auprc"]])

    f1, area = bootstrap_intervals(
        f1_and_auprc, np.arange(len(truth)), n_resamples=n_resamples, seed=seed
    )
    return {
        "accuracy": rate(np.full(len(truth), True)), "specificity": rate(~truth),
        "sensitivity": rate(truth), "f1": f1, "auroc": delong_interval(truth, score),
        "auprc": area,
    }  # fmt: skip


def _chance(truth: np.ndarray) -> dict[str, float]:
    """Return what each metric is worth without knowledge: the larger class, or a coin."""
    share = float(truth.mean())
    return {
        "accuracy": max(share, 1 - share), "specificity": float("nan"),
        "sensitivity": float("nan"), "f1": 2 * share / (1 + share), "auroc": 0.5,
        "auprc": share,
    }  # fmt: skip


def compare(first: Method, second: Method, is_positive: pd.Series) -> dict[str, float | str]:
    """
    Test two methods on the proteins that both have an answer for.

    Parameters
    ----------
    is_positive : Series, index protein_id, dtype bool
        The truth.

    Returns
    -------
    row : dict
        model (the second), against (the first), n_proteins, discordant (share of proteins that
        exactly one calls right), differences first minus second, and unadjusted p-values.
    """
    shared = is_positive.index.intersection(first.p_positive.index)
    shared = shared.intersection(second.p_positive.index)
    truth = is_positive[shared].to_numpy(bool)
    right = [method.called[shared].to_numpy(bool) == truth for method in (first, second)]
    accuracy = mcnemar_exact(*right)
    scores = [method.p_positive[shared].to_numpy(float) for method in (first, second)]
    area = delong_test(truth, *scores)
    return {
        "model": second.name, "against": first.name, "n_proteins": len(shared),
        "discordant": float((right[0] != right[1]).mean()),
        "accuracy_difference": accuracy.difference, "mcnemar_p": accuracy.p_value,
        "auroc_difference": area.difference, "delong_p": area.p_value,
    }  # fmt: skip


def adjust_tests(tests: pd.DataFrame) -> pd.DataFrame:
    """Add ``mcnemar_holm`` and ``delong_holm``: all p-values of the table adjusted together."""
    if tests.empty:
        return tests.assign(mcnemar_holm=[], delong_holm=[])
    adjusted = holm(np.concatenate([tests["mcnemar_p"], tests["delong_p"]]))
    half = len(tests)
    return tests.assign(mcnemar_holm=adjusted[:half], delong_holm=adjusted[half:])


def results_tables(
    methods: Sequence[Method],
    is_positive: pd.Series,
    *,
    n_crops: pd.Series | None = None,
    published_rows: str | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> ResultsTables:
    """
    Make a results table in both readings.

    Parameters
    ----------
    methods : sequence of Method
        The first is the one the others are compared with.
    is_positive : Series, index protein_id, dtype bool
        Truth of the test proteins. A method is scored on those it has an answer for.
    n_crops : Series, index protein_id, optional
        Crops of each protein; with it, the first method's printed row is per crop, as in the
        paper.
    published_rows : {"table_1", "table_2"}, optional
        The paper's rows are set beside ours, marked as published; they have no interval and
        no test, because the paper prints neither predictions nor the test proteins' names.
    n_resamples, seed : int
        Of the bootstrap of F1 and AUPRC.

    Returns
    -------
    tables : ResultsTables

    Raises
    ------
    ValueError
        If there is no method, two have the same name, or one answers for no test protein.
    """
    names = [method.name for method in methods]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"methods need names of their own, got {names}")
    printed, read = [], []
    for method in methods:
        shared = is_positive.index.intersection(method.p_positive.index)
        if shared.empty:
            raise ValueError(f"{method.name} has no answer for any test protein")
        truth = is_positive[shared].to_numpy(bool)
        called = method.called[shared].to_numpy(bool)
        score = method.p_positive[shared].to_numpy(float)
        head = {"model": method.name, "source": method.source, "images": method.images}
        times = np.ones(len(shared), dtype=int)
        if method is methods[0] and n_crops is not None:
            times = n_crops[shared].to_numpy(int)
        each = [np.repeat(values, times) for values in (truth, called, score)]
        unit = {"unit": "protein" if (times == 1).all() else "crop", "n": int(times.sum())}
        printed.append(head | unit | _rates(*each))
        chance = _chance(truth)
        intervals = _intervals(truth, called, score, n_resamples, seed)
        for metric, interval in intervals.items():
            numbers = dict(zip(("estimate", "low", "high"), interval, strict=True))
            row = {"metric": metric} | numbers
            read.append(head | row | {"n_proteins": len(shared), "chance": chance[metric]})
    tests = pd.DataFrame([compare(methods[0], other, is_positive) for other in methods[1:]])
    as_printed = pd.DataFrame(printed)
    if published_rows:
        as_printed = pd.concat([published_table(published_rows), as_printed], ignore_index=True)
    return ResultsTables(as_printed, pd.DataFrame(read), adjust_tests(tests))


def published_table(name: str) -> pd.DataFrame:
    """
    Return the paper's Table 1 or 2 with columns that say what its rows are.

    Parameters
    ----------
    name : {"table_1", "table_2"}

    Returns
    -------
    table : DataFrame
        Columns as `ResultsTables.as_printed`. The rivals' rows are per protein; deepGPS's own
        agrees with counts of crops only (see the forensics). n is missing for Table 2, whose
        size the paper does not give.
    """
    content = published()[name]
    sizes = {unit: sum(content[f"{unit}s"].values()) for unit in ("protein", "crop")
             if f"{unit}s" in content}  # fmt: skip
    rows = []
    for model, rates in content["rows"].items():
        is_ours = model.startswith("deepGPS")
        unit = "crop" if is_ours else "protein"
        head = {
            "model": model,
            "source": "published",
            "images": "measured" if is_ours else NO_IMAGES,
        }
        rows.append(head | {"unit": unit, "n": sizes.get(unit, pd.NA)} | rates)
    return pd.DataFrame(rows).astype({"n": "Int64"})


def tool_methods(folder: Path | str, positive: str = "Cytoplasm") -> list[Method]:
    """
    Read a folder of tools' outputs; each tool gives one method a mapping.

    Raises
    ------
    InputError
        See `tools.read_tools_folder`; also if `positive` is not Cytoplasm or Nucleus.
    """
    if positive not in ("Cytoplasm", "Nucleus"):
        raise InputError(f"{folder}: tools' outputs tell nucleus from cytoplasm, not {positive}.")
    methods = []
    for (tool, mapping), rows in read_tools_folder(folder).groupby(["tool", "mapping"]):
        answers = rows.set_index("protein_id")
        p = answers["p_Cytoplasm"] if positive == "Cytoplasm" else 1 - answers["p_Cytoplasm"]
        called = answers["called"] == positive
        methods.append(Method(f"{tool} ({mapping} mapping)", "tool's output", p, called))
    return methods


def rivals_of_split(
    proteins: pd.DataFrame,
    split: pd.Series,
    estimators: Mapping[str, tuple[str, BaseEstimator]],
    inputs: Mapping[str, np.ndarray],
    positive: str,
    *,
    source: str = "same split",
) -> list[Method]:
    """
    Train baselines on a split's other proteins and let them answer for its test proteins.

    Parameters
    ----------
    proteins, estimators, inputs
        As in `baselines.evaluate_baselines`.
    split : Series, index protein_id
    positive : str
    """
    found = evaluate_baselines(estimators, inputs, proteins, [("one", split)])
    return [
        Method(
            name, source, found[found["baseline"] == name].set_index("protein_id")[f"p_{positive}"]
        )
        for name in estimators
    ]


def run_method(run: Run, part: str = "test") -> tuple[Method, pd.Series, pd.Series]:
    """
    Return a run's own answers for the proteins of a part, their truth, and their crops' number.

    Raises
    ------
    InputError
        If the run tells apart more or less than two classes, or the part is empty.
    """
    if len(run.labels) != 2:
        raise InputError(
            f"{run.path}: tells apart {len(run.labels)} classes; Tables 1 and 2 have two."
        )
    rows = run.proteins[(run.proteins["split"] == part) & run.proteins["label"].isin(run.labels)]
    if rows.empty:
        raise InputError(f"{run.path / 'proteins.csv'}: no {part} protein; train again.")
    rows = rows.set_index("protein_id")
    positive = run.labels[0]
    ours = Method(OURS, "this run", rows[f"p_{positive}"].astype(float), images=run.images)
    return ours, rows["label"] == positive, rows["n_crops"].astype(int)


def rebuild_tables(
    dataset: Dataset,
    run: Run,
    estimators: Mapping[str, tuple[str, BaseEstimator]],
    inputs: Mapping[str, np.ndarray],
    *,
    tools_folder: Path | str | None = None,
    published_rows: str | None = "table_1",
    n_resamples: int = 2000,
    seed: int = 0,
) -> ResultsTables:
    """
    Rebuild the paper's Table 1 (or 2) for a run: its test proteins, its rivals, its split.

    Parameters
    ----------
    dataset : Dataset
        The one the run was trained on.
    run : Run
        With two classes; the first is the positive one.
    estimators, inputs
        Baselines, as in `baselines.evaluate_baselines`; inputs in the order of the dataset's
        proteins that have one of the run's labels.
    tools_folder : Path or str, optional
        Outputs of the paper's four tools for the test proteins (others are passed over).
    published_rows : {"table_1", "table_2"}, optional
    n_resamples, seed : int

    Raises
    ------
    InputError
        If the run has another number of classes, or a tool's output is broken.
    """
    ours, is_positive, n_crops = run_method(run)
    chosen = dataset.proteins[dataset.proteins["label"].isin(run.labels)].reset_index(drop=True)
    split = dataset.split(run.split_name)
    methods = [ours, *rivals_of_split(chosen, split, estimators, inputs, run.labels[0])]
    if tools_folder is not None:
        tools = tool_methods(tools_folder, run.labels[0])
        known = [t for t in tools if not is_positive.index.intersection(t.p_positive.index).empty]
        if not known:
            raise InputError(
                f"{tools_folder}: no output names a test protein of {run.path}; use the "
                "dataset's protein_id as names in the FASTA file."
            )
        methods += known
    return results_tables(
        methods, is_positive, n_crops=n_crops, published_rows=published_rows,
        n_resamples=n_resamples, seed=seed,
    )  # fmt: skip
