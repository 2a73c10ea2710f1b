"""A second cell line: same proteins, other cells, antibodies with faults, and fine-tuning."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny

from deepgps_core.dataset import InputError, config_hash
from deepgps_core.evaluation import held_out_proteins
from deepgps_core.model import DeepGPSConfig
from deepgps_core.runs import TrainingConfig
from deepgps_core.sources._cells import draw_cells
from deepgps_core.sources._staining import Staining, off_target_share, stain, through_jpeg
from deepgps_core.sources.embedded import PLANS, plan_proteins
from deepgps_core.sources.simulated import (
    U2OS_LIKE,
    U2OS_STAINED,
    SimulationConfig,
    simulate_field,
)
from deepgps_core.training import fit

SMALL = dataclasses.replace(U2OS_STAINED, field_size_px=200)


def test_folders_older_than_the_option_keep_their_name() -> None:
    """Without staining the identity is the hash of the other settings, as it always was."""
    config = SimulationConfig(seed=3)
    settings = dataclasses.asdict(config) | {"proteins": ["P1"]}
    del settings["staining"]
    assert config.identity(["P1"]) == config_hash(settings)
    names = {c.identity(["P1"]) for c in (config, U2OS_LIKE, U2OS_STAINED)}
    assert len(names) == 3


@pytest.mark.parametrize(("name", "of"), [("embedded-u2os", "embedded-demo")])
def test_the_second_line_has_proteins_of_the_first(name: str, of: str) -> None:
    """Same proteins and sequences; as many as planned changed places, half of them each way."""
    plan = PLANS[name]
    first = plan_proteins(PLANS[of]).set_index("protein_id")
    second = plan_proteins(plan).set_index("protein_id")
    there = first.loc[second.index]
    assert (second["sequence"] == there["sequence"]).all()
    moved = second["label"] != there["label"]
    assert moved.sum() == plan.n_moved > 0
    assert second["label"].value_counts().to_dict() == dict(plan.n_per_label)
    assert (second["label"] == second["locations"]).all()
    assert plan_proteins(plan).equals(plan_proteins(plan))


def test_an_antibody_is_the_same_in_all_its_fields() -> None:
    """Fields 0 and 2 show the first antibody's faults, field 1 the second's."""
    dirty = dataclasses.replace(
        SMALL, staining=Staining(off_target=0.9, off_target_concentration=50.0, speckle=0.0)
    )

    def ratio(number: int) -> float:
        drawn = simulate_field(["Cytoplasm"], "P3", number, dirty)
        protein = drawn.field[1].astype(float)
        cytoplasm = (drawn.cell_labels > 0) & (drawn.nucleus_labels == 0)
        return float(np.log2(protein[drawn.nucleus_labels > 0].mean() / protein[cytoplasm].mean()))

    ratios = [ratio(number) for number in range(4)]
    assert abs(ratios[0] - ratios[2]) < abs(ratios[0] - ratios[1]) > abs(ratios[1] - ratios[3])


def test_the_nucleus_still_knows_nothing_of_the_location() -> None:
    """Stained or not, the nucleus channel is the same byte for byte whatever the location."""
    fields = [simulate_field([word], "P7", 1, SMALL).field for word in ("Cytoplasm", "Nucleus")]
    assert (fields[0][0] == fields[1][0]).all()
    assert (fields[0][1] != fields[1][1]).any()


def test_shares_have_the_mean_and_are_unequal() -> None:
    """Antibodies' faults average to what was asked for, from nearly none to nearly all."""
    rng = np.random.default_rng(0)
    shares = np.array([off_target_share(Staining(off_target=0.3), rng) for _ in range(4000)])
    assert shares.mean() == pytest.approx(0.3, abs=0.02)
    assert shares.min() < 0.01 and shares.max() > 0.9
    assert off_target_share(Staining(off_target=0.0), rng) == 0.0


def test_staining_keeps_the_brightness() -> None:
    """A clean antibody without grain changes nothing; a useless one keeps the mean on cells."""
    rng = np.random.default_rng(0)
    cells = draw_cells(rng, SMALL.geometry, 200)
    density = (cells.nuclei > 0) * 7.0
    streams = [np.random.default_rng(i) for i in range(2)]
    clean = stain(density, cells, Staining(off_target=0.0, speckle=0.0), *streams)
    assert clean == pytest.approx(density)
    useless = stain(density, cells, Staining(off_target=1.0, speckle=0.0), *streams)
    inside = cells.cells > 0
    assert useless[inside].mean() == pytest.approx(density[inside].mean())
    assert useless[cells.cytoplasm].mean() > 0 and useless[~inside].sum() == 0


def test_jpeg_loses_little_at_high_quality_and_more_at_low() -> None:
    """The scale becomes that of 8 bits; the error grows as quality falls."""
    rng = np.random.default_rng(0)
    channel = (500 + 900 * rng.random((64, 64))).astype(np.uint16)
    scaled = (channel - channel.min()) / (np.percentile(channel, 99.9) - channel.min())
    errors = [
        np.abs(through_jpeg(channel, q) / 65535 - np.clip(scaled, 0, 1)).mean() for q in (95, 50)
    ]
    assert errors[0] < 0.02 < errors[1]
    assert through_jpeg(np.full((16, 16), 9, np.uint16), 90).dtype == np.uint16


def test_fine_tuning_goes_on_from_the_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At learning rate nearly 0 the weights stay; what the first run saw is no longer held out."""
    monkeypatch.setenv("DEEPGPS_DATA", str(tmp_path))
    dataset = make_tiny(tmp_path / "tiny")
    config = DeepGPSConfig(sequence_dim=6, hidden_dim=16, width=8, depth=2, crop_size_px=24)
    training = TrainingConfig(encoder="drawn", epochs=2, standardize_features=True, seed=1)
    first = fit(dataset, "random-0", config, training)
    start = str(first.path.relative_to(tmp_path))
    still = dataclasses.replace(
        training, name="tuned", initial_run=start, learning_rate=1e-12, seed=2
    )
    tuned = fit(dataset, "random-0", config, still)
    for name, weights in first.model.named_parameters():
        assert torch.allclose(weights, tuned.model.get_parameter(name), atol=1e-6), name
    assert torch.equal(first.model.head.feature_mean, tuned.model.head.feature_mean)
    assert tuned.training_config.initial_run == start and tuned.data != first.data
    split = dataset.split("random-0")
    dataset.write_split("turned", split.replace({"train": "test", "test": "train"}))
    leaky = fit(dataset, "turned", config, dataclasses.replace(still, name="leaky"))
    with pytest.raises(InputError, match="trained on test protein"):
        held_out_proteins(leaky, dataset, "test")
    other = dataclasses.replace(config, width=16)
    with pytest.raises(InputError, match="another configuration"):
        fit(dataset, "random-0", other, dataclasses.replace(still, name="wider"))
