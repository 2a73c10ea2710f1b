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
# # A2 · The simulator: what the demonstration's images are, and are not
#
# The demonstration cannot ship measured microscope images, so it draws its own. A reader has to know
# what went into them: a model trained on drawings can only learn what was drawn. This appendix
# shows every texture, sets the drawings' statistics beside measured ones, and shows that the
# nucleus channel gives nothing away.
#
# *About a minute on two cores; 1 GB of memory; no network.*
#
# **You will**
#
# - see what each of OpenCell's 17 categories looks like when a program draws it;
# - compare sizes, shapes and intensity ratios with measured ones;
# - check that the label cannot be read from the nucleus channel.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0
N_FIELDS = 24  # fields measured
N_PROTEINS = 40  # proteins a class, for intensity ratios and the test of the nucleus channel

# %%
import numpy as np
import pandas as pd
import seaborn as sns
from scipy.ndimage import distance_transform_edt
from skimage.measure import regionprops_table
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepgps_core.plotting import (
    PALETTE,
    channel_composite,
    draw_image,
    execution_record,
    panels,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.preprocessing import PreprocessingConfig, normalize_field
from deepgps_core.sources._textures import TEXTURES
from deepgps_core.sources.simulated import U2OS_LIKE, SimulationConfig, simulate_field
from deepgps_core.statistics import delong_interval

use_book_style()
config = SimulationConfig(seed=SEED)

# %% [markdown]
# ## Inputs
#
# | what | source | licence |
# |---|---|---|
# | nothing but a seed and location words | `deepgps_core.sources.simulated` | CC BY 4.0 |
# | measured numbers to compare with (no images) | OpenCell {cite}`opencell`; the Human Protein Atlas {cite}`thul2017` | as cited |
#
# A field is drawn in four steps: place nuclei, grow cells around them, pour the protein in with the
# texture of its category, and send both channels through optics and camera (blur, haze, uneven
# background, shot noise, read noise).

# %%
drawn = simulate_field(["Cytoplasm"], "EXAMPLE", 0, config)
print("field", drawn.field.shape, drawn.field.dtype, "| nuclei", drawn.nucleus_labels.max())

# %%
fig, axes = panels(1, 4, panel_inches=2.3)
normalized = normalize_field(drawn.field, PreprocessingConfig()).clip(0, 1)
draw_image(axes[0, 0], drawn.nucleus_labels > 0, title="nuclei placed")
draw_image(axes[0, 1], (drawn.cell_labels > 0) * 0.5 + (drawn.nucleus_labels > 0) * 0.5,
           title="cells grown")  # fmt: skip
draw_image(axes[0, 2], normalized[0], title="nucleus channel")
draw_image(axes[0, 3], normalized[1], pixel_size_um=config.pixel_size_um, scale_bar_um=20,
           title="protein channel")  # fmt: skip
show(
    fig,
    caption="One simulated field of a cytoplasmic protein, step by step, 600 x 600 pixels; both "
    "channels normalized by percentile. Scale bar 20 µm.",
    alt="Four square panels: white ellipses on black; grey cell bodies around them; a grainy "
    "image of bright nuclei; an image of bright cytoplasm.",
)

# %% [markdown]
# ## Seventeen textures
#
# OpenCell's annotators use 17 words. *Guess before you look: which two will be hardest to tell
# apart once they are blurred?*

# %%
fig, axes = panels(3, 6, panel_inches=1.7)
for ax, name in zip(axes.flat, TEXTURES, strict=False):
    field = simulate_field([name], f"SHOWN-{name}", 0, config).field
    nucleus, protein = normalize_field(field, PreprocessingConfig()).clip(0, 1)[:, 150:400, 150:400]
    ax.imshow(channel_composite(0.6 * nucleus, protein))
    ax.set_title(name.replace("_", " "), fontsize="x-small")
axes[2, 5].axis("off")
show(
    fig,
    caption="Simulated: each of OpenCell's 17 categories, protein in orange, nucleus in blue; "
    "51 µm wide, each normalized by itself. Check the shapes against OpenCell's own pages.",
    alt="A grid of 17 small images of simulated cells, each with a different orange pattern, such "
    "as rims, dots, nets or filled nuclei, around or in blue nuclei.",
)

# %% [markdown]
# ## Do the nuclei have the right size?
#
# Measured: HEK293T nuclei in OpenCell's fields have an equivalent diameter of about 70 ± 10 pixels,
# eccentricity .63, solidity .98; background about 490 counts, nuclei about 1,460 counts above it,
# with a coefficient of variation of .5 over nuclear pixels.


# %%
def measure(labels: np.ndarray, image: np.ndarray) -> dict[str, float]:
    """Measure the whole nuclei of one field."""
    border = np.unique(np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    whole = np.where(np.isin(labels, border), 0, labels)
    names = ("equivalent_diameter_area", "eccentricity", "solidity")
    shapes = pd.DataFrame(regionprops_table(whole, properties=names))
    inside = image[labels > 0].astype(float)
    far = distance_transform_edt(labels == 0) > 20
    background = float(np.median(image[far]))
    return shapes.median().to_dict() | {
        "diameter_sd": shapes["equivalent_diameter_area"].std(),
        "background": background,
        "signal": np.median(inside) - background,
        "variation": inside.std() / inside.mean(),
        "nuclei": float(labels.max()),
    }


# %%
rows = []
for number in range(N_FIELDS):
    example = simulate_field(["Nucleus"], f"MEASURED-{number}", 0, config)
    rows.append(measure(example.nucleus_labels, example.field[0]))
statistics = pd.DataFrame(rows).mean()
measured = {
    "equivalent_diameter_area": 70, "diameter_sd": 10, "eccentricity": 0.63, "solidity": 0.98,
    "background": 490, "signal": 1460, "variation": 0.5,
}  # fmt: skip
comparison = pd.DataFrame({"measured (OpenCell)": measured, "simulated": statistics}).round(2)
comparison.loc[list(measured)]

# %% tags=["check"]
ratio = (statistics[list(measured)] / pd.Series(measured)).round(2)
assert ratio.between(0.75, 1.3).all(), ratio

# %% [markdown]
# ## Is the protein in the right place, and not too neatly?
#
# Real classes overlap. The ratio of nuclear to cytoplasmic intensity was measured in single cells of
# the Human Protein Atlas: cytosolic proteins have a median of .94 (quartiles .66 to 1.22),
# nucleoplasmic ones 5.0 (3.5 to 7.8). Each simulated protein draws its own ratio from such a
# distribution; blur and haze then pull both towards 1, as they do in a microscope.

# %%
words = ("Cytoplasm", "Nucleus", "Membrane", "Mitochondrion")


def nuclear_ratio(word: str, number: int) -> float:
    """Draw a field and return its nuclear / cytoplasmic intensity ratio above background."""
    example = simulate_field([word], f"RATIO-{word}-{number}", 0, config)
    light = example.field[1].astype(float) - config.protein_background
    cytoplasm = (example.cell_labels > 0) & (example.nucleus_labels == 0)
    return light[example.nucleus_labels > 0].mean() / light[cytoplasm].mean()


ratios = pd.DataFrame(
    {word: [nuclear_ratio(word, number) for number in range(N_PROTEINS // 2)] for word in words}
)
quartiles = ratios.quantile([0.25, 0.5, 0.75]).T.round(2)
quartiles.columns = ["lower quartile", "median", "upper quartile"]
quartiles["measured median"] = [0.94, 5.0, 0.92, 0.79]
quartiles

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
long = ratios.melt(var_name="location", value_name="ratio")
sns.swarmplot(long, x="ratio", y="location", hue="location", palette=list(PALETTE[:4]), size=4,
              legend=False, ax=ax)  # fmt: skip
ax.plot(quartiles["measured median"], range(4), "D", color="black", markersize=7, mfc="none")
ax.set(xscale="log", xlabel="nuclear / cytoplasmic intensity", ylabel="")
ax.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
ax.minorticks_off()
show(
    fig,
    caption=f"Simulated proteins ({N_PROTEINS // 2} a class, one field each): nuclear over "
    "cytoplasmic intensity. Diamonds: medians measured in Human Protein Atlas cells. Classes "
    "overlap, as measured ones do.",
    alt="Strip plot with four rows. Nuclear proteins scatter around 4; cytoplasmic, membrane and "
    "mitochondrial ones around 1, with overlap; open diamonds lie within each cloud.",
)

# %% [markdown]
# ## Does the nucleus give the label away?
#
# It must not: otherwise a model could read the label from the image it is given. The nucleus channel
# is drawn from random numbers of its own; here a classifier tries to tell nuclear from
# cytoplasmic proteins from that channel's intensities, sizes and shapes.


# %%
def describe(word: str, number: int) -> np.ndarray:
    """Summarize the nucleus channel of one field in eleven numbers."""
    example = simulate_field([word], f"NULL-{word}-{number}", 0, config)
    image, labels = example.field[0].astype(float), example.nucleus_labels
    names = ("area", "eccentricity", "solidity")
    shapes = pd.DataFrame(regionprops_table(labels, properties=names))
    quantiles = np.quantile(image, [0.05, 0.25, 0.5, 0.75, 0.95])
    spread = image[labels > 0].std()
    return np.r_[quantiles, spread, labels.max(), shapes.median(), shapes["area"].std()]


features = np.array([describe(w, n) for w in words[:2] for n in range(N_PROTEINS)])
is_cytoplasm = np.repeat([1, 0], N_PROTEINS)
model = make_pipeline(StandardScaler(), LogisticRegressionCV(cv=5, random_state=SEED))
score = cross_val_predict(model, features, is_cytoplasm, cv=10, method="decision_function")
value, low, high = delong_interval(is_cytoplasm, score)
tell(
    f"From the nucleus channel alone, the label is predicted with an AUROC of **{value:.2f}** "
    f"(95 % interval {low:.2f} to {high:.2f}; chance is .50; n = {len(score)} simulated proteins)."
)

# %% tags=["check"]
assert low < 0.5, "the nucleus channel carries a cue to the label"
same = [simulate_field([word], "ONE", 0, config).field[0] for word in words]
assert all((same[0] == other).all() for other in same), "the nucleus depends on the location"

# %% [markdown]
# ## Another cell line
#
# Sizes and optics are values, not code. A second set of them draws larger, flatter, sparser cells,
# somewhat like U-2 OS.

# %%
fig, axes = panels(1, 2, panel_inches=3)
for ax, chosen in zip(axes.flat, (config, U2OS_LIKE), strict=True):
    field = simulate_field(["er"], "LINES", 0, chosen).field
    nucleus, protein = normalize_field(field, PreprocessingConfig()).clip(0, 1)
    ax.imshow(channel_composite(0.6 * nucleus, protein))
    ax.set_title(chosen.cell_line, fontsize="small")
show(
    fig,
    caption="Simulated endoplasmic reticulum in two cell lines; 124 µm wide.",
    alt="Two images. Left, many crowded small cells; right, few large cells with wide bodies.",
)

# %% [markdown]
# ```{admonition} What the paper says / What we see
# :class: note
# The paper trains on measured images of 1,301 tagged proteins. Nothing in this appendix, and no
# number made from simulated images anywhere in the book, is an estimate of how well deepGPS does on
# them. What carries over is whether the machinery works: that the steps run, that a control which
# must fail does fail, and that a measure rewards what it claims to reward.
# ```
#
# ## What the drawings leave out
#
# - Cells above and below, the third dimension, and cells that differ by more than brightness.
# - Any link between sequence and picture *within* a class: two cytoplasmic proteins differ at random.
#   So no model, however good, can predict from sequence how one differs from the other.
# - Mistakes of annotators; the labels of these images are what they were drawn from.
#
# ## Recap
#
# - Seventeen textures are drawn on the same cells; a texture is a dozen lines.
# - Sizes, shapes and intensity ratios follow measured ones, within the margins checked above.
# - The nucleus channel is drawn without knowing the label, byte for byte.
#
# ## Exercises
#
# 1. **Read.** A colleague trains on these images and reports that proteins of one class can be told
#    apart by their pictures. Why does this not contradict the second point above?
# 2. **Change.** Set `haze_share` to 0 and to .5 and draw the ratios again. Which class moves, and
#    what does that say about ratios measured in widefield images?
# 3. **Build.** Draw a category of your own: a protein at the tips of the cell.

# %% tags=["solution"]
# 3. Far from the nucleus and near the border of the cell:
from deepgps_core.sources._cells import CellGeometry, draw_cells

cells = draw_cells(np.random.default_rng(SEED), CellGeometry(), 300)
far = cells.outside / max(float(cells.outside.max()), 1)
tips = cells.cytoplasm * far**2 * np.exp(-cells.to_border / 4)
print("densest at", np.unravel_index(tips.argmax(), tips.shape), "brightness", tips.max().round(3))

# %%
execution_record(PROFILE, SEED)
