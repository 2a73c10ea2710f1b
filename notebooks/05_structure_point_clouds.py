# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · From a structure to points: what does PointNet get to see?
#
# The paper's second way to describe a protein is its shape: predicted structures become points on
# the molecule's surface {cite}`pyuul`, each with the element next to it, and PointNet
# {cite}`pointnet` turns the points into one vector. The paper does not say how many points, at
# which scale, or what happens to sulphur. Here each of these is a choice with a name, and we look
# at what depends on it.
#
# *Under a minute on two cores; 1 GB of memory; no network.*
#
# **You will**
#
# - read experimental structures, and see what a file holds that no model of surfaces wants;
# - find a surface without comparing every atom with every other one;
# - see how many points a shape needs, and that PointNet does not care in which order they come.

# %% tags=["parameters"]
PROFILE = "demo"
DATASET = "embedded-demo"
SEED = 0
N_POINTS = 1024  # points a protein; the paper does not say
POINT_COUNTS = (32, 128, 512, 2048)  # for the sweep
N_DRAWS = 4  # of the same surface, for each count
POINTNET_WIDTH = 16  # channels of the first layer; 64 as published
VECTOR_DIM = 64  # 1024 as published
MEASURED = "benchmarks/results/point_clouds_2_cores_amd_epyc.json"  # under the repository's root

# %%
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from deepgps_core.coarse_chain import coarse_chain
from deepgps_core.dataset import sha256_of
from deepgps_core.equivariant import EquivariantNet
from deepgps_core.plotting import (
    PALETTE,
    execution_record,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.point_clouds import shipped_path, shipped_structures
from deepgps_core.pointnet import PointNet, orthogonality_penalty
from deepgps_core.sources.embedded import ensure_dataset
from deepgps_core.structure import (
    CHANNELS,
    NEIGHBOR_ANGSTROM,
    PointCloudConfig,
    atom_radii,
    candidates_per_atom,
    element_columns,
    point_cloud,
    surface_points,
)
from deepgps_core.structure_io import read_structure

use_book_style()
ELEMENT_COLORS = dict(zip(CHANNELS, ("0.45", PALETTE[1], PALETTE[0]), strict=True))

# %% [markdown]
# ## Inputs
#
# Three experimental structures come with the library. They are too few to train on, and none was
# used by the paper; they show what real files are like.

# %%
entries = shipped_structures()
structures = {name: read_structure(shipped_path(name), chain="A") for name in entries}
tell(
    "| file | protein | organism | method | licence | residues | heavy atoms | sha256 |\n"
    "|---|---|---|---|---|---|---|---|\n"
    + "\n".join(
        f"| {entry['file']} | {entry['protein']} | *{entry['organism']}* | {entry['method']} "
        f"| CC0 | {len(structures[name].sequence)} | {len(structures[name]):,} "
        f"| `{sha256_of(shipped_path(name))[:12]}…` |"
        for name, entry in entries.items()
    )
)

# %% [markdown]
# ## What is in a file?
#
# Predicted structures are tidy: one chain, one model, every heavy atom. Measured ones are not.
# *Guess first: which of these must not become part of a protein's surface: water, a drug in a
# pocket, DNA, an atom seen in two places?*

# %%
tell(
    "\n".join(
        f"- **{name}** (chain A): {'; '.join(structure.notes)}."
        for name, structure in structures.items()
    )
)

# %% [markdown]
# The rules: the first model; each atom at its most occupied place; no hydrogens, water, ligands or
# other molecules; modified residues stay and are read as their parents. What cannot be decided is
# refused: several chains and none named, a trace without side chains, a structure of another
# sequence.

# %% tags=["check"]
assert "M" in structures["1A8O"].sequence, "selenomethionine is lost"
assert any("model 1 of 3" in note for note in structures["1LCD"].notes)
assert all(not set(s.elements) & {"H", "D"} for s in structures.values())

# %% [markdown]
# ## Which points are on the surface?
#
# PyUUL puts points on a sphere of 1.4 radii about each atom and drops those inside other atoms.
# Each atom $i$ nearer than 5 Å fills a point at distance $d_i$ with a density
# $\rho_i = e^{-d_i^2 / (0.93\, r_i)^2}$, and the point is buried if the atoms together,
# $1 - \prod_i (1 - \rho_i)$, fill more than one half. In full:

# %%
structure = structures["4CUP"]
coordinates = structure.coordinates - structure.coordinates.mean(axis=0)  # (A, 3), angstrom
radii = atom_radii(structure)
per_atom = candidates_per_atom(len(structure), N_POINTS)
points, atoms = surface_points(coordinates, radii, per_atom)

one = 100  # any point of the result: is it really free?
near = [i for i in cKDTree(coordinates).query_ball_point(coordinates[atoms[one]], NEIGHBOR_ANGSTROM)
        if i != atoms[one]]  # fmt: skip
distance = np.linalg.norm(points[one] - coordinates[near], axis=1)
occupancy = 1 - np.prod(1 - np.exp(-((distance / (0.93 * radii[near])) ** 2)))
print(f"{len(structure):,} atoms x {per_atom} points = {len(structure) * per_atom:,} tried, "
      f"{len(points):,} on the surface; point {one}: {len(near)} neighbors, "
      f"occupancy {occupancy:.2f}")  # fmt: skip

# %% tags=["check"]
assert occupancy <= 0.5
assert 0.05 < len(points) / (len(structure) * per_atom) < 0.95

# %% [markdown]
# PyUUL first computes the distance of every atom to every other one. For the longest protein of
# the paper, 2,700 residues, that is a matrix of more than twenty thousand squared, and several
# masks of that size. But only neighbors within 5 Å matter, and however long the chain, an atom has
# room for so many and no more:

# %%
sizes, pairs = [], []
for n_residues in (50, 150, 400, 1000):
    letters = np.random.default_rng(SEED).choice(list("ACDEFGHIKLMNPQRSTVWY"), n_residues)
    chain = coarse_chain("".join(letters)).coordinates
    sizes.append(len(chain))
    pairs.append(int(cKDTree(chain).count_neighbors(cKDTree(chain), NEIGHBOR_ANGSTROM)))
measured_pairs = {
    name: int(cKDTree(s.coordinates).count_neighbors(cKDTree(s.coordinates), NEIGHBOR_ANGSTROM))
    for name, s in structures.items()
}

fig, ax = plt.subplots(figsize=(5.2, 3.2))
ax.loglog(sizes, np.array(sizes) ** 2, "--", color="0.5", label="all pairs (PyUUL)")
ax.loglog(sizes, pairs, "o-", color=PALETTE[0], label="within 5 Å, stand-in chains")
ax.loglog([len(structures[n]) for n in entries], list(measured_pairs.values()), "s",
          color=PALETTE[1], label="within 5 Å, experimental")  # fmt: skip
ax.minorticks_off()
ax.set_xticks([300, 1000, 3000, 10_000], ["300", "1,000", "3,000", "10,000"])
ax.set(xlabel="heavy atoms", ylabel="pairs of atoms")
ax.legend(fontsize="small")
show(
    fig,
    caption="Pairs of atoms to look at, against the number of atoms, both logarithmic. All pairs "
    f"grow with the square, neighbors in proportion: {measured_pairs['4CUP'] / len(structure):.0f} "
    "an atom in 4CUP. A KD-tree finds them. Stand-in chains are simulated, and denser, as their "
    "atoms may overlap; the three squares are experimental structures.",
    alt="Log-log chart: a steep dashed line for all pairs, and a much flatter line with points "
    "for neighbors within five angstrom.",
)

# %% [markdown]
# The result is the same to the last point: with PyUUL's own random draw, PyUUL's own points come
# out (a test of the library compares them). What it saves was measured by
# `benchmarks/point_clouds.py`:

# %%
places = [p / MEASURED for p in (Path.cwd(), *Path.cwd().parents)]
measured = next((p for p in places if p.is_file()), None)  # not there outside of a checkout
if measured:
    bench = json.loads(measured.read_text())
    longest = max(bench["rows"], key=lambda row: row["residues"])
    tree, pyuul = longest["kdtree"], longest["pyuul"]
    tell(
        f"A simulated chain of {longest['residues']:,} residues ({longest['atoms']:,} atoms; "
        f"{bench['points']:,} points; {bench['machine']}) costs PyUUL {pyuul['seconds']:.1f} s of one "
        f"core and {pyuul['mb']:,.0f} MB, the KD-tree {tree['seconds']:.2f} s and "
        f"{tree['mb']:,.0f} MB: {pyuul['seconds'] / tree['seconds']:.0f} times less time, "
        f"{pyuul['mb'] / tree['mb']:.0f} times less memory. How time grows with size is in "
        "[A4 · What makes it fast](A4_speed)."
    )

# %% [markdown]
# ## Six columns
#
# PyUUL returns coordinates only. The paper's other three columns, *carbon, oxygen, nitrogen*, are
# the element of the nearest atom. Sulphur has no column. PyUUL gives it carbon's radius, so here it
# is called carbon, or with `sulphur="none"` nothing.

# %%
cloud = point_cloud(structure, PointCloudConfig(n_points=N_POINTS, seed=SEED))
share = pd.DataFrame(
    {
        "of atoms": [(structure.elements == c).mean() for c in CHANNELS],
        "of points": cloud[:, 3:].mean(axis=0),
    },
    index=["carbon", "oxygen", "nitrogen"],
)
sulphur = {
    name: 1 - element_columns(
        *[np.float32(x) for x in (surface_points(s.coordinates, atom_radii(s), 4)[0], s.coordinates)],
        s.elements, "none",
    ).any(axis=1).mean()
    for name, s in structures.items()
}  # fmt: skip
share.round(2)

# %%
tell(
    "Oxygen sticks out, carbon hides: that is the hydrophobic core. Points next to sulphur or "
    "selenium, for which the choice matters: "
    + ", ".join(f"{name} {value:.1%}" for name, value in sulphur.items())
    + "."
)

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), subplot_kw={"projection": "3d"})
for ax, (name, shown) in zip(axes, structures.items(), strict=True):
    drawn = point_cloud(shown, PointCloudConfig(n_points=N_POINTS, seed=SEED))
    for channel, element in enumerate(CHANNELS):
        of_element = drawn[drawn[:, 3 + channel] == 1, :3] * 50  # back to angstrom
        ax.scatter(*of_element.T, s=3, color=ELEMENT_COLORS[element], label=element)
    ax.set(xlim=(-30, 30), ylim=(-30, 30), zlim=(-30, 30))
    ax.set(xticks=(-20, 0, 20), yticks=(-20, 0, 20), zticks=(-20, 0, 20))
    ax.set_box_aspect((1, 1, 1), zoom=0.9)
    ax.set_title(f"{name}, {len(shown.sequence)} aa", y=0.97)
    ax.tick_params(labelsize="xx-small", pad=-3)
    ax.tick_params(axis="z", pad=0)
axes[0].legend(loc="upper left", fontsize="x-small", markerscale=2)
show(
    fig,
    caption=f"Surfaces of the three experimental structures, {N_POINTS:,} points each, colored by "
    "the nearest atom's element; axes in angstrom, the same for all. Sulphur and selenium count as "
    "carbon.",
    alt="Three three-dimensional scatter plots of points in gray, orange and blue on the surfaces "
    "of three small proteins.",
)

# %% tags=["check"]
assert cloud.shape == (N_POINTS, 6)
assert share.loc["oxygen", "of points"] > share.loc["oxygen", "of atoms"]
assert np.abs(cloud[:, :3].mean(axis=0)).max() < 1e-5, "not centred"

# %% [markdown]
# ## How many points?
#
# Points are drawn at random, so two draws of one surface differ. *Guess: with which number does
# the distance between two draws of one protein become smaller than that between two proteins?* As
# a distance of shapes we take the mean distance from each point to the nearest one of the other
# draw (Chamfer's distance).


# %%
def chamfer(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean nearest distance between two clouds (P, 3), both ways, in their unit."""
    there, _ = cKDTree(second).query(first)
    back, _ = cKDTree(first).query(second)
    return float(there.mean() + back.mean()) / 2


rows = []
for n_points in POINT_COUNTS:
    draws = {
        name: [point_cloud(s, PointCloudConfig(n_points=n_points, seed=SEED + i))[:, :3] * 50
               for i in range(N_DRAWS)]
        for name, s in structures.items()
    }  # fmt: skip
    same = [chamfer(c[i], c[i + 1]) for c in draws.values() for i in range(N_DRAWS - 1)]
    other = [chamfer(draws[a][0], draws[b][1]) for a in draws for b in draws if a < b]
    rows.append((n_points, np.mean(same), np.max(same), np.mean(other), np.min(other)))
sweep = pd.DataFrame(rows, columns=["points", "same", "same, most", "other", "other, least"])

fig, ax = plt.subplots(figsize=(5.2, 3))
ax.plot(sweep["points"], sweep["same"], "o-", color=PALETTE[0], label="two draws of one protein")
ax.plot(sweep["points"], sweep["other"], "s-", color=PALETTE[1], label="two proteins")
ax.fill_between(sweep["points"], sweep["same"], sweep["same, most"], color=PALETTE[0], alpha=0.2)
ax.fill_between(sweep["points"], sweep["other, least"], sweep["other"], color=PALETTE[1], alpha=0.2)
ax.set_xscale("log", base=2)
ax.set_xticks(list(POINT_COUNTS), [str(n) for n in POINT_COUNTS])
ax.set(xlabel="points", ylabel="Chamfer distance (Å)", ylim=(0, None))
ax.legend(fontsize="small")
show(
    fig,
    caption=f"Distance of two draws of one surface, and of two proteins' surfaces, centred and "
    f"turned as in their files, for the three experimental structures ({N_DRAWS} draws). Shaded: "
    "to the largest of the first, and to the smallest of the second. The gap opens as points are "
    "added.",
    alt="Line chart over the number of points; the line for two draws falls steadily below the "
    "line for two proteins, which flattens.",
)

# %% tags=["check"]
assert sweep["same"].is_monotonic_decreasing
assert sweep["same, most"].iloc[-1] < sweep["other, least"].iloc[-1]

# %% [markdown]
# The number costs time in proportion and is a matter of the shapes one wants to tell apart. A large
# protein spreads the same number of points over more surface. Scale matters as well: dividing all
# proteins by the same 50 Å keeps their sizes, dividing each by its own radius
# (`scale_angstrom=None`) throws size away, which for localization may matter: what is small enough
# diffuses through nuclear pores.
#
# ## PointNet
#
# Every point passes the same small network; the largest value over all points is taken for each
# channel, and what was first or last is forgotten. Two learned matrices turn the points first: one
# for the six columns, so that coordinates and elements mix, as in the published code, and one for
# the features.

# %%
torch.manual_seed(SEED)
network = PointNet(VECTOR_DIM, width=POINTNET_WIDTH).eval()
with torch.device("meta"):
    published = sum(p.numel() for p in PointNet().parameters())
batch = torch.from_numpy(np.stack([
    point_cloud(s, PointCloudConfig(n_points=N_POINTS, seed=SEED)) for s in structures.values()
]))  # fmt: skip
redrawn = torch.from_numpy(np.stack([
    point_cloud(s, PointCloudConfig(n_points=N_POINTS, seed=SEED + 1)) for s in structures.values()
]))  # fmt: skip
shuffled = batch[:, torch.from_numpy(np.random.default_rng(SEED).permutation(N_POINTS))]
with torch.inference_mode():
    vector, transform = network(batch)
    moved = (network(shuffled).vector - vector).abs().max().item()
    turned = batch.clone()
    turned[..., :2] = turned[..., [1, 0]] * torch.tensor([1.0, -1.0])  # a quarter turn
    rotated = (network(turned).vector - vector).abs().max().item()
print(f"published size {published:,}, here {sum(p.numel() for p in network.parameters()):,}")
print(f"shuffled points move the vector by {moved:.1e}, a quarter turn by {rotated:.1e}")
print(f"penalty for a feature transform that is not orthogonal: "
      f"{orthogonality_penalty(transform):.2f}")  # fmt: skip

# %% tags=["check"]
assert published == 2_810_852, "not the published network"
assert moved < 1e-5, "the order of points matters"
assert rotated > 100 * moved, "a rotation should be seen by an untrained network"

# %% [markdown]
# Order does not matter; orientation does. A structure file has no natural orientation, so this
# network has to learn that turned proteins are the same, from few proteins. The paper's code
# neither turns structures at random nor keeps the transforms near orthogonal, as PointNet's authors
# do; here the penalty is an option (`orthogonality_weight`), 0 by default.
#
# ### Another encoder
#
# A network need not learn what it can be built to know. In `structure_encoder="equivariant"` points
# tell their nearest neighbors scalars, vectors and second-order tensors that turn with the
# molecule {cite}`tensorfield,e3nn`, and only what does not turn is kept. A mirror image is another
# molecule, as it is for proteins. The paper's discussion names such encoders; it is an option of
# the same model, and chapter 08 trains it with `STRUCTURE_ENCODER = "equivariant"`.

# %%
torch.manual_seed(SEED)
equivariant = EquivariantNet(VECTOR_DIM, width=POINTNET_WIDTH).eval()
random_turn = Rotation.random(rng=np.random.default_rng(SEED)).as_matrix()
mirror = np.diag([1.0, 1.0, -1.0])
rows = {}
with torch.inference_mode():
    for name, encoder in (("PointNet", network), ("equivariant", equivariant)):
        before, moved_by = encoder(batch).vector, {}
        for what, matrix in (("a turn", random_turn), ("a mirror", mirror)):
            placed = batch.clone()
            placed[..., :3] = batch[..., :3] @ torch.from_numpy(matrix.T).float()
            moved_by[what] = (encoder(placed).vector - before).norm(dim=1)
        moved_by["other points"] = (encoder(redrawn).vector - before).norm(dim=1)
        between = torch.pdist(before).mean()
        rows[name] = {"parameters": sum(p.numel() for p in encoder.parameters())} | {
            what: (moved.mean() / between).item() for what, moved in moved_by.items()
        }
turns = pd.DataFrame(rows).T
turns.assign(parameters=turns["parameters"].map("{:,.0f}".format)).round(6)

# %% tags=["check"]
assert turns.loc["equivariant", "a turn"] < 1e-3 < turns.loc["PointNet", "a turn"]
assert turns.loc["equivariant", "a mirror"] > 10 * turns.loc["equivariant", "a turn"]

# %%
redraw = turns["other points"]
lost = [name for name, value in redraw.items() if value > 0.5]
tell(
    "The table says how far each change moves the vector, over the mean distance between the "
    "vectors of different proteins (untrained weights). *Other points* are a second draw of the "
    "same surface, which an encoder should mostly forget. It moves the vector by "
    + " and ".join(f"{value:.2f} ({name})" for name, value in redraw.items())
    + " times that distance. "
    + (
        f"Where that is more than one half ({' and '.join(lost)}), a draw counts about as much as "
        "another protein: to forget it has to be learned, or averaged out over several draws."
        if lost
        else "Before training, both tell proteins further apart than draws."
    )
)  # fmt: skip

# %% [markdown]
# ## A stand-in for training
#
# Predicted structures have to be fetched. Without them, the next structure chapter needs *some*
# geometry for each protein. The stand-in is a compact random walk with each residue's heavy atoms
# in ideal geometry, water-fearing ones inside. It has the right number of atoms and the right size,
# and nothing else of the real protein.

# %%
dataset = ensure_dataset(DATASET, seed=SEED)
sequences = dataset.sequences()
some = list(sequences)[:: max(1, len(sequences) // 60)]
chains = {name: coarse_chain(sequences[name], seed=SEED, protein_id=name) for name in some}


def gyration(places: np.ndarray) -> float:
    """Return the radius of gyration of atoms (A, 3) of equal mass, in their unit."""
    return float(np.sqrt(((places - places.mean(axis=0)) ** 2).sum(axis=1).mean()))


lengths = np.array([len(sequences[name]) for name in some])
made = np.array([gyration(chains[name].coordinates) for name in some])
fig, ax = plt.subplots(figsize=(5.2, 3.2))
ax.loglog(lengths, made, "o", markersize=4, color=PALETTE[0], label="stand-in (simulated)")
ax.loglog([len(s.sequence) for s in structures.values()],
          [gyration(s.coordinates) for s in structures.values()], "s", color=PALETTE[1],
          label="experimental")  # fmt: skip
grid = np.array([40, lengths.max()])
ax.loglog(grid, 2.2 * grid**0.38, "--", color="0.5", label="globular proteins, 2.2 N$^{0.38}$")
ax.minorticks_off()
ax.set_xticks([50, 100, 300, 1000, 3000], ["50", "100", "300", "1,000", "3,000"])
ax.set_yticks([10, 20, 40], ["10", "20", "40"])
ax.set(xlabel="residues, N", ylabel="radius of gyration (Å)")
ax.legend(fontsize="small")
show(
    fig,
    caption=f"Radius of gyration against length: {len(some)} stand-ins of the dataset's proteins "
    "(simulated), three experimental structures, and the trend of globular proteins.",
    alt="Log-log scatter plot; stand-ins and experimental structures lie along the dashed line of "
    "globular proteins.",
)

# %% tags=["check"]
ratio = made / (2.2 * lengths**0.38)
assert 0.85 < np.median(ratio) < 1.2, f"stand-ins have the wrong size: {np.median(ratio):.2f}"
assert all(chains[name].simulated for name in some)

# %% [markdown]
# ## What the paper says, what we see

# %%
tell(
    "```{admonition} What the paper says / What we see\n"
    "| | paper (Methods; Fig. 3a) | here |\n|---|---|---|\n"
    "| structures | AlphaFold DB, whole chains up to 2,700 residues | 3 experimental ones, and "
    "stand-ins (simulated); AlphaFold's files when fetched |\n"
    "| columns | PyUUL, n x 6: places, C, O, N | the same; PyUUL gives 3, the rest is the nearest "
    "atom's element |\n"
    f"| points, n | not said | {N_POINTS:,}; two draws of a surface lie "
    f"{sweep['same'].iloc[-1]:.1f} Å apart at {POINT_COUNTS[-1]:,}, "
    f"{sweep['same'].iloc[0]:.1f} Å at {POINT_COUNTS[0]} |\n"
    "| centring, scale, sulphur | not said | mean at 0; 50 Å is 1; sulphur is carbon |\n"
    f"| PointNet | 1,024 numbers; code: {published:,} parameters | the same by default |\n\n"
    "*Verdict:* the computation can be repeated, the published one cannot be identified: the "
    "paper's files (version 4) are no longer served, and four choices are open. Model confidence "
    "(pLDDT) is not used by the paper nor here, so that disordered tails count like folded domains."
    "\n```"
)

# %% [markdown]
# ## Recap
#
# - A structure file holds more than a protein, and less; what was left out is written down.
# - Only neighbors decide what is surface, so the cost can be proportional to the atoms.
# - Number, scale and orientation of points are choices that the paper does not report. PointNet
#   forgets the order, not the orientation.
#
# ### Exercises
#
# 1. *Read.* Why does the surface of a protein have a larger share of oxygen than its atoms?
# 2. *Change.* Set `scale_angstrom=None`. Which proteins can no longer be told apart by size?
# 3. *Build.* Turn each cloud at random before PointNet, ten times. How far apart are the vectors
#    of one protein, compared with those of different proteins?

# %% tags=["solution"]
tell(
    "**1.** Backbone oxygens and charged side chains face the water; carbon-rich side chains pack "
    "in the core.\n\n**2.** All: each cloud then has its farthest point at 1, large or small."
)
generator = np.random.default_rng(SEED)
turns = np.linalg.qr(generator.normal(size=(10, 3, 3)))[0].astype(np.float32)
with torch.inference_mode():
    vectors = torch.stack(
        [
            network(
                torch.cat([batch[..., :3] @ torch.from_numpy(turn), batch[..., 3:]], dim=2)
            ).vector
            for turn in turns
        ]
    )  # (10, proteins, D)
within = (vectors - vectors.mean(dim=0)).norm(dim=2).mean()
between = (vectors.mean(dim=0) - vectors.mean(dim=(0, 1))).norm(dim=1).mean()
print(f"3. untrained: turns of one protein {within:.2f} from their mean, proteins {between:.2f}")

# %% [markdown]
# Next: [06 · deepGPS-single-2 and the cross-assay](06_single2_and_the_cross_assay).

# %%
execution_record(PROFILE, SEED)
