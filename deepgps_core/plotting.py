"""
The book's figures: one look, and no figure without a caption and a text for those who cannot
see it.

`show` is the only way a notebook displays a figure. It emits one HTML ``<figure>`` with the
picture inside, so that page, notebook and print carry the same caption and alt text. `tell`
displays prose whose numbers were computed. matplotlib is used here and nowhere else.
"""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from deepgps_core.dataset import usable_cores
from deepgps_core.figure_data import as_csv, figure_data

#: Okabe and Ito's palette: told apart with any common color blindness, and in grey by order.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
#: One color a localization, the same in every chapter.
LABEL_COLORS: Mapping[str, str] = {
    "Cytoplasm": PALETTE[0],
    "Nucleus": PALETTE[1],
    "Membrane": PALETTE[2],
    "Mitochondrion": PALETTE[3],
    "Cytoplasm;Nucleus": PALETTE[4],
}
#: Above this many bytes a picture is compressed with some loss, so that a notebook stays small.
MAX_PNG_BYTES = 60_000


def use_book_style() -> None:
    """Set matplotlib and seaborn to the look of the book; call it once, at the top."""
    sns.set_theme(context="notebook", style="ticks", palette=PALETTE)
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "deepgps",
        }
    )


def _encoded(fig: Figure) -> str:
    """Return the picture as WebP in base64; large ones with some loss."""
    buffer = io.BytesIO()
    # no creation date or software version: the same figure gives the same bytes
    fig.savefig(buffer, format="png", metadata={"Software": None})
    # micrographs: noise does not compress without loss
    loss = {"quality": 80, "method": 6} if buffer.tell() > MAX_PNG_BYTES else {"lossless": True}
    image = Image.open(buffer).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="webp", **loss)
    return base64.b64encode(buffer.getvalue()).decode()


def show(fig: Figure, *, caption: str, alt: str) -> None:
    """
    Display a figure with its caption, its alt text and its numbers as CSV, and close it.

    Parameters
    ----------
    fig : Figure
        What to show; the numbers are read back from it (`figure_data.figure_data`).
    caption : str
        What it is, n, what error bars are, and what to conclude. Says *simulated* where the
        images are.
    alt : str
        Kind of plot, axes and trend, in one or two sentences, for those who cannot see it.

    Raises
    ------
    ValueError
        If caption or alt text is empty.
    """
    if not caption.strip() or not alt.strip():
        raise ValueError("a figure needs a caption and an alt text")
    data = _encoded(fig)  # first: drawing settles where the ticks stand
    numbers = _numbers_link(fig)
    width = round(fig.get_figwidth() * 100)
    plt.close(fig)
    markup = (
        f'<figure class="deepgps-figure"><img alt="{html.escape(alt, quote=True)}" width="{width}" '
        f'src="data:image/webp;base64,{data}"><figcaption>{html.escape(caption)}{numbers}'
        "</figcaption></figure>"
    )
    display(HTML(markup))


def _numbers_link(fig: Figure) -> str:
    """Return a link that saves what is drawn as CSV, or nothing where there is only pictures."""
    table = figure_data(fig)
    if table.empty:
        return ""
    content = base64.b64encode(as_csv(table).encode()).decode()
    return (
        ' <a class="figure-csv" download="figure.csv" aria-label="The numbers in this figure as '
        f'CSV" href="data:text/csv;charset=utf-8;base64,{content}">CSV</a>'
    )


def tell(text: str) -> None:
    """Display Markdown prose; its numbers come from the cell that calls this."""
    display(Markdown(text))


def panels(
    n_rows: int, n_columns: int, *, panel_inches: float = 1.6, **options: Any
) -> tuple[Figure, np.ndarray]:
    """
    Make a grid of square image panels without axes.

    Returns
    -------
    fig : Figure
    axes : ndarray, shape (n_rows, n_columns), dtype object
        Always two-dimensional.
    """
    size = (n_columns * panel_inches, n_rows * panel_inches)
    fig, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, **options)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    return fig, axes


def draw_image(
    ax: Axes,
    image: np.ndarray,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    pixel_size_um: float | None = None,
    scale_bar_um: float = 10.0,
    title: str = "",
    cmap: str = "gray",
) -> None:
    """
    Draw one image at stated intensity limits, with a scale bar when the pixel size is given.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        One channel.
    limits : tuple of float
        Intensity shown as black and as white: the same for all panels that are compared.
    pixel_size_um, scale_bar_um : float
        Micrometers.
    """
    ax.imshow(image, cmap=cmap, vmin=limits[0], vmax=limits[1])
    ax.set(xticks=[], yticks=[])
    if title:
        ax.set_title(title, fontsize="small")
    if pixel_size_um:
        length_px = scale_bar_um / pixel_size_um
        x1, y = image.shape[1] * 0.95, image.shape[0] * 0.93
        ax.plot([x1 - length_px, x1], [y, y], color="white", linewidth=2.5, solid_capstyle="butt")


def channel_composite(nuclear_image: np.ndarray, protein_image: np.ndarray) -> np.ndarray:
    """
    Overlay nucleus (blue) and protein (yellow-orange) in colors told apart by all readers.

    Parameters
    ----------
    nuclear_image, protein_image : ndarray, shape (H, W), dtype float
        Intensities in [0, 1].

    Returns
    -------
    composite : ndarray, shape (H, W, 3), dtype float
    """
    blue = np.array([0.15, 0.35, 1.0])
    orange = np.array([1.0, 0.65, 0.05])
    both = nuclear_image[..., None] * blue + protein_image[..., None] * orange
    return np.clip(both, 0, 1)


def interval_plot(
    ax: Axes,
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    *,
    colors: Sequence[str] | None = None,
    reference: float | None = None,
    reference_name: str = "",
) -> None:
    """
    Draw estimates with their intervals, one row a name, first name on top.

    Parameters
    ----------
    values : sequence of float
        Point estimates.
    intervals : sequence of (low, high)
        95 % intervals of them.
    reference : float, optional
        A vertical line: chance, or the paper's value.
    """
    rows = np.arange(len(names))[::-1]
    if reference is not None:
        ax.axvline(reference, color="0.6", linestyle="--", linewidth=1, zorder=0)
        ax.annotate(
            reference_name, (reference, 1.0), xycoords=("data", "axes fraction"),
            fontsize="x-small", color="0.35", ha="center", va="bottom",
        )  # fmt: skip
    for i, (row, value, (low, high)) in enumerate(zip(rows, values, intervals, strict=True)):
        color = colors[i] if colors else PALETTE[0]
        ax.plot([low, high], [row, row], color=color, linewidth=2)
        ax.plot(value, row, "o", color=color, markersize=6)
    ax.set_yticks(rows, names)
    ax.set_ylim(-0.6, len(names) - 0.4)


def execution_record(profile: str, seed: int) -> None:
    """Display under which profile, on what and with which versions a notebook was executed."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"CPU, {usable_cores()} cores"
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    tell(f"*Executed under the `{profile}` profile, seed {seed}: {device}; {versions}.*")
