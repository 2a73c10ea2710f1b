"""Results tables: rows that can be checked by hand, and no row without its origin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from tiny import make_tiny

from deepgps_core.dataset import InputError
from deepgps_core.metrics import TWO_CLASS_METRICS
from deepgps_core.model import DeepGPSConfig
from deepgps_core.runs import Run, TrainingConfig
from deepgps_core.tables import (
    Method,
    published_table,
    rebuild_tables,
    results_tables,
    run_method,
    tool_methods,
)

N = 40


@pytest.fixture(scope="module")
def truth() -> pd.Series:
    """24 positives and 16 negatives."""
    return pd.Series(np.arange(N) < 24, index=[f"P{i:02}" for i in range(N)])


@pytest.fixture(scope="module")
def methods(truth: pd.Series) -> list[Method]:
    """A good, a fair and a random method."""
    rng = np.random.default_rng(0)
    scores = {
        name: 1 / (1 + np.exp(-(strength * (truth - 0.5) + rng.normal(size=N))))
        for name, strength in (("good", 3.0), ("fair", 1.0), ("coin", 0.0))
    }
    return [Method(name, "same split", p) for name, p in scores.items()]


def test_estimates_agree_with_scikit_learn(truth: pd.Series, methods: list[Method]) -> None:
    """Rates, F1 and areas are those of an independent implementation; intervals hold them."""
    tables = results_tables(methods, truth, n_resamples=200)
    for method in methods:
        row = tables.as_printed.set_index("model").loc[method.name]
        called = method.p_positive >= 0.5
        assert row["accuracy"] == (called == truth).mean()
        assert row["sensitivity"] == called[truth].mean()
        assert row["specificity"] == (~called[~truth]).mean()
        assert row["f1"] == pytest.approx(f1_score(truth, called))
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, method.p_positive))
        assert row["auprc"] == pytest.approx(average_precision_score(truth, method.p_positive))
        assert (row["unit"], row["n"]) == ("protein", N)
        read = tables.as_read[tables.as_read["model"] == method.name].set_index("metric")
        assert list(read.index) == list(TWO_CLASS_METRICS)
        for metric in TWO_CLASS_METRICS:
            assert read.loc[metric, "estimate"] == pytest.approx(row[metric])
        assert (read["low"] <= read["estimate"]).all() and (read["estimate"] <= read["high"]).all()
    chance = tables.as_read.drop_duplicates("metric").set_index("metric")["chance"]
    assert chance["accuracy"] == chance["auprc"] == 0.6 and chance["auroc"] == 0.5


def test_comparisons_are_paired_and_adjusted(truth: pd.Series, methods: list[Method]) -> None:
    """McNemar's p is statsmodels'; Holm's adjustment is over all tests of the table."""
    tests = results_tables(methods, truth, n_resamples=50).tests.set_index("model")
    assert list(tests.index) == ["fair", "coin"] and (tests["against"] == "good").all()
    right = {m.name: ((m.p_positive >= 0.5) == truth).to_numpy() for m in methods}
    for name, row in tests.iterrows():
        table = pd.crosstab(right["good"], right[name]).reindex(
            index=[False, True], columns=[False, True], fill_value=0
        )
        assert row["mcnemar_p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert row["discordant"] == (right["good"] != right[name]).mean()
    p = [*tests["mcnemar_p"], *tests["delong_p"]]
    adjusted = [*tests["mcnemar_holm"], *tests["delong_holm"]]
    assert adjusted == pytest.approx(multipletests(p, method="holm")[1])
    assert tests.loc["coin", "delong_holm"] < 0.05


def test_a_method_is_compared_on_shared_proteins_only(
    truth: pd.Series, methods: list[Method]
) -> None:
    """A tool that leaves proteins out is scored, and tested, on those it answers for."""
    good, fair, _ = methods
    partial = Method("partial", "tool's output", fair.p_positive.iloc[::2])
    tables = results_tables([good, partial], truth, n_resamples=50)
    assert tables.as_printed.set_index("model")["n"].to_dict() == {"good": N, "partial": N // 2}
    assert tables.tests["n_proteins"].tolist() == [N // 2]


def test_calls_need_not_follow_one_half(truth: pd.Series, methods: list[Method]) -> None:
    """Calls of their own decide the rates; scores decide the areas."""
    good = methods[0]
    turned = Method("turned", "tool's output", good.p_positive, ~(good.p_positive >= 0.5))
    printed = results_tables([good, turned], truth, n_resamples=50).as_printed.set_index("model")
    assert printed.loc["turned", "accuracy"] == pytest.approx(1 - printed.loc["good", "accuracy"])
    assert printed.loc["turned", "auroc"] == printed.loc["good", "auroc"]


def test_crops_weigh_proteins_in_the_printed_row_only(
    truth: pd.Series, methods: list[Method]
) -> None:
    """Crops change what is printed, not what is read; only the first row is per crop."""
    n_crops = pd.Series(np.where(truth, 30, 10), index=truth.index)
    plain = results_tables(methods, truth, n_resamples=50)
    tables = results_tables(methods, truth, n_crops=n_crops, n_resamples=50)
    row, *others = tables.as_printed.to_dict("records")
    assert (row["unit"], row["n"]) == ("crop", 24 * 30 + 16 * 10)
    called = methods[0].p_positive >= 0.5
    assert row["accuracy"] == pytest.approx(np.average(called == truth, weights=n_crops))
    assert {other["unit"] for other in others} == {"protein"}
    pd.testing.assert_frame_equal(plain.as_read, tables.as_read)


def test_published_rows_are_marked_and_stay_out_of_the_reading(
    truth: pd.Series, methods: list[Method]
) -> None:
    """The paper's rows stand in the printed table only, with their source and unit."""
    tables = results_tables(methods, truth, published_rows="table_1", n_resamples=50)
    rows = tables.as_printed[tables.as_printed["source"] == "published"].set_index("model")
    assert len(rows) == 5
    assert rows.loc["MULocDeep", "auroc"] == 0.841 and rows.loc["MULocDeep", "n"] == 63
    assert (rows.loc["deepGPS-single-2", "unit"], rows.loc["deepGPS-single-2", "n"]) == (
        "crop", 3046,
    )  # fmt: skip
    assert "published" not in set(tables.as_read["source"])
    assert published_table("table_2")["n"].isna().all()


def test_names_have_to_differ_and_answers_to_exist(truth: pd.Series, methods: list[Method]) -> None:
    """Two methods of one name, or one without any test protein, are refused."""
    with pytest.raises(ValueError, match="names of their own"):
        results_tables([methods[0], methods[0]], truth)
    stranger = Method("stranger", "tool's output", pd.Series([0.5], index=["X"]))
    with pytest.raises(ValueError, match="stranger has no answer"):
        results_tables([methods[0], stranger], truth)


def drawn_run(path: Path, labels: tuple[str, ...] = ("Cytoplasm", "Nucleus")) -> Run:
    """Write a run's predictions for the tiny dataset without training one."""
    path.mkdir(parents=True)
    dataset = make_tiny(path / "tiny")
    split = dataset.split("random-0")
    labels_of = dataset.proteins.set_index("protein_id")["label"]
    sign = np.where(labels_of[split.index] == "Cytoplasm", 0.7, 0.3)
    table = pd.DataFrame(
        {
            "protein_id": split.index, "split": split.to_numpy(),
            "label": labels_of[split.index].to_numpy(), "predicted_label": "Cytoplasm",
            "p_Cytoplasm": sign, "p_Nucleus": 1 - sign, "n_crops": np.arange(1, 13),
        }
    )  # fmt: skip
    table.to_csv(path / "proteins.csv", index=False)
    return Run(
        path, "tiny", "random-0", labels, "simulated", 0.5, 0.5, "", DeepGPSConfig(),
        TrainingConfig(),
    )  # fmt: skip


def test_rebuilt_tables_of_a_run(tmp_path: Path) -> None:
    """Run, baselines on its split and tools stand in one table; images are named where used."""
    run = drawn_run(tmp_path / "run")
    dataset = make_tiny(tmp_path / "again")
    vectors = dataset.features("drawn")
    inputs = {"vector": np.stack([vectors[p] for p in dataset.proteins["protein_id"]])}
    estimators = {
        "zero rule": ("vector", DummyClassifier(strategy="prior")),
        "logistic": ("vector", LogisticRegression()),
    }
    tools = tmp_path / "tools"
    tools.mkdir()
    test = dataset.split("random-0").index[-4:]
    lines = [f"{p},GO:0005737,C:cytoplasm,0.8" for p in test]
    (tools / "busca.csv").write_text("\n".join(["Accession,GO-id,GO-term,Score", *lines]))
    tables = rebuild_tables(
        dataset, run, estimators, inputs, tools_folder=tools, n_resamples=50
    )  # fmt: skip
    printed = tables.as_printed.set_index("model")
    assert printed.loc["deepGPS", ["source", "images", "unit"]].tolist() == [
        "this run", "simulated", "crop",
    ]  # fmt: skip
    assert printed.loc["deepGPS", "n"] == 9 + 10 + 11 + 12
    assert printed.loc["BUSCA (fair mapping)", "n"] == 4
    assert printed.loc["zero rule", "auroc"] == 0.5
    assert tables.tests["model"].tolist()[:2] == ["zero rule", "logistic"]
    assert set(printed["source"]) == {"published", "this run", "same split", "tool's output"}
    (tools / "busca.csv").write_text("Accession,GO-id,GO-term,Score\nX1,GO:0005737,C:cytoplasm,1")
    with pytest.raises(InputError, match="no output names a test protein"):
        rebuild_tables(dataset, run, estimators, inputs, tools_folder=tools)


def test_runs_of_other_classes_are_refused(tmp_path: Path) -> None:
    """Tables 1 and 2 tell two classes apart, and so must the run."""
    run = drawn_run(tmp_path / "run", ("Cytoplasm", "Nucleus", "Membrane"))
    with pytest.raises(InputError, match="3 classes"):
        run_method(run)
    with pytest.raises(InputError, match="not Membrane"):
        tool_methods(tmp_path, "Membrane")
