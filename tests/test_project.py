"""The house holds together: versions agree, imports point down, nothing names one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "deepgps_core"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: The floors of the library, lowest first; a module may import its own floor and those below.
FLOORS = (
    {"dataset"},
    {"homology", "sources"},
    {"stardist_torch", "segmentation", "cropping", "nuclei", "preprocessing", "prepare_cluster"}
    | {"segmentation_training", "segmenter_recipe"},
    {"splits"},
    {"packed_attention", "esm2", "pretraining", "shares", "encoders"},
    {"structure", "structure_io", "coarse_chain", "point_clouds", "pointnet", "equivariant"},
    {"unet", "fusions", "losses", "model", "label_head", "light_attention"}
    | {"samplers", "velocity", "flow", "families"},
    {"residues", "targets", "crops", "runs", "training", "training_loop"},
    {"generative"},
    {"metrics", "statistics", "calibration"},
    {"baselines", "forensics", "trivial", "tools", "image_metrics", "real_benchmark"}
    | {"measured_labels", "place_evidence", "three_sources", "measured_evidence"}
    | {"measured_study", "judge", "generative_metrics"},
    {"figure_data", "plotting"},
    {"evaluation", "tables", "cross_assay", "comparison", "multiclass"}
    | {"predict", "shipped", "shipped_scores", "shipped_recipe", "backends", "predictor"}
    | {"nucleus_images", "mutations", "occlusion", "report", "outputs"}
    | {"new_analysis", "cli", "cli_fetch", "cli_fetch_more", "cli_import", "cli_serve"}
    | {"cli_predict"},
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def floor_of(path: Path) -> int:
    """Return the floor of a module; a new module has to be given one."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for floor, names in enumerate(FLOORS):
        if name in names:
            return floor
    raise AssertionError(f"{name} stands on no floor; add it to FLOORS")


def imported(path: Path, *, at_top: bool = False) -> set[str]:
    """Return the dotted names a module imports; `at_top`: outside functions only."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    if at_top:
        inside = {
            id(child)
            for node in nodes
            if isinstance(node, ast.FunctionDef)
            for child in ast.walk(node)
        }
        nodes = [node for node in nodes if id(node) not in inside]
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_point_down(path: Path) -> None:
    """No module imports from a floor above its own."""
    for name in imported(path):
        target = PACKAGE.joinpath(*name.split(".")[1:])
        if name.startswith("deepgps_core.") and target.parts != PACKAGE.parts:
            found = next(
                (p for p in (target.with_suffix(".py"), target) if p.exists() and p != PACKAGE),
                None,
            )
            if found:
                assert floor_of(found) <= floor_of(path), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_heavy_imports_stay_where_they_belong(path: Path) -> None:
    """Plots only in plotting; no torch below encoders; TensorFlow only inside functions."""
    top, floor = imported(path, at_top=True), floor_of(path)
    heads = {name.split(".")[0] for name in top}
    if path.stem not in ("figure_data", "plotting"):
        assert not heads & {"matplotlib", "seaborn"}
    torch_free = {"dataset", "preprocessing", "splits", "metrics", "segmentation"}
    if path.stem in torch_free or "sources" in path.parts:
        assert "torch" not in heads and "torchmetrics" not in heads
    assert not heads & {"tensorflow", "keras"}, f"{path.name} (floor {floor})"
    assert not any(name.startswith("stardist.models") for name in top)


def test_requirements_are_pinned_within_their_ranges() -> None:
    """Each requirement of pyproject.toml has one pin in constraints.txt that satisfies it."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(p.name): next(iter(p.specifier)).version for p in pins}
    assert len(versions) == len(pins)
    asked = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    for requirement in map(Requirement, asked):
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(version), f"{requirement.name} {version}"


def test_the_conda_door_opens_the_same_environment() -> None:
    """environment.yml asks for pyproject's Python and installs it, all extras, under the pins."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = content["dependencies"]
    assert f"python {PROJECT['requires-python']}" in conda
    extras = ",".join(PROJECT["optional-dependencies"])
    options = [re.split(r"\s+", line, maxsplit=1) for line in pip["pip"]]
    assert ["-c", "constraints.txt"] in options
    editable = next(value for flag, value in options if flag == "-e")
    assert sorted(editable.strip(".[]").split(",")) == sorted(extras.split(","))


def tracked_files() -> list[Path]:
    """Return the files git knows, or skip outside a checkout."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def test_checkout_stays_small() -> None:
    """The encoder at most 15.5 MB, other weights 5, notebooks 8, everything 30 (MB)."""
    sizes = {path: path.stat().st_size / 1e6 for path in tracked_files() if path.exists()}
    assert sum(sizes.values()) < 30
    weights = {p: s for p, s in sizes.items() if p.suffix in (".safetensors", ".h5")}
    encoder = sum(s for p, s in weights.items() if p.name.startswith("esm2"))
    assert encoder <= 15.5
    assert sum(weights.values()) - encoder <= 5
    pairs = {p: s for p, s in sizes.items() if p.suffix == ".ipynb"}
    assert sum(pairs.values()) <= 8
    assert all(size <= 0.6 for size in pairs.values())


def test_no_path_of_one_machine() -> None:
    """No tracked text names a home folder, a checkout's place, or an absolute data path."""
    pattern = re.compile(rf"/(?:(?:home|Users)/\w+|root)/|{re.escape(str(ROOT))}/")
    for path in tracked_files():
        if path.suffix in (".py", ".md", ".yml", ".yaml", ".toml", ".ipynb", ".txt", ".csv"):
            found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{path.name}: {found}"
