"""
The numbers behind a figure, read back from what was drawn.

Every figure of the book can be taken along as a table. It is gathered from the figure itself, so
it holds what is seen, in the figure's own words; micrographs and densely colored images are left
out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import AxLine, Line2D

#: Images with more cells, or without ticks, are pictures; others a confusion matrix or a heat map.
MAX_CELLS = 2_500
#: Rows kept; what is drawn more densely is left to the notebook.
MAX_ROWS = 4_000
COLUMNS = ("panel", "series", "mark", "x", "y", "value")


def figure_data(fig: Figure) -> pd.DataFrame:
    """
    Return what is drawn in a figure as a long table.

    Returns
    -------
    table : DataFrame
        One row a mark, columns panel (its title, or its number from 1), series (its name in the
        legend, or empty), mark ("line", "point", "interval", "band", "bar" or "cell"), x and y in
        the axes' units, or the label that stands there on an axis of names, and value (of a
        cell). No rows where the figure shows pictures only, or more than `MAX_ROWS` marks.
    """
    rows: list[tuple[Any, ...]] = []
    for number, ax in enumerate(fig.axes, start=1):
        if not ax.get_visible() or getattr(ax, "_colorbar", None) is not None:
            continue  # a color scale repeats the cells
        if ax.images and not len(ax.get_xticks()):
            continue  # a picture, perhaps with a scale bar
        panel = ax.get_title(loc="left") or ax.get_title() or str(number)
        names = _names_on(ax)
        for series, mark, x, y, value in _marks(ax):
            rows.append((
                panel.replace("\n", " "), series, mark, _named(x, names["x"]),
                _named(y, names["y"]), value,
            ))  # fmt: skip
    if len(rows) > MAX_ROWS:
        rows = []
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.drop(columns=[c for c in ("series", "value") if not table[c].ne("").any()])


def as_csv(table: pd.DataFrame) -> str:
    """Return the table as CSV, five digits a number."""
    shown = table.map(lambda value: f"{value:.5g}" if isinstance(value, float) else value)
    return shown.to_csv(index=False, lineterminator="\n")


def _names_on(ax: Axes) -> dict[str, dict[float, str]]:
    """Return the words at the ticks of each axis; none where the ticks are numbers."""
    found = {}
    for which, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        texts = [label.get_text().replace("\n", " ") for label in axis.get_ticklabels()]
        places = axis.get_ticklocs()
        words = any(text and not _is_number(text) for text in texts)
        same = words and len(texts) == len(places)
        found[which] = dict(zip(map(float, places), texts, strict=True)) if same else {}
    return found


def _is_number(text: str) -> bool:
    digits = text.replace("\N{MINUS SIGN}", "-").replace("$\\mathdefault{", "").rstrip("}$%")
    return digits.startswith("10^") or digits.replace(".", "").lstrip("-").isdigit()


def _named(value: float, names: dict[float, str]) -> float | str:
    return names.get(float(value)) or float(value)


def _marks(ax: Axes) -> Iterator[tuple[str, str, float, float, Any]]:
    """Yield series, mark, x, y and value of everything drawn in data coordinates."""
    for line in ax.lines:
        yield from _of_line(line, ax)
    for drawn in ax.collections:
        series = _series(drawn)
        if isinstance(drawn, PathCollection):
            yield from _of_points(drawn.get_offsets(), series, "point")
        elif isinstance(drawn, LineCollection):
            for segment in drawn.get_segments():
                yield from _of_points(segment, series, "interval")
        elif isinstance(drawn, PolyCollection):
            for path in drawn.get_paths():
                yield from _of_points(path.vertices, series, "band")
    for container in ax.containers:
        if isinstance(container, BarContainer):
            for bar in container.patches:
                x, y = bar.get_x() + bar.get_width() / 2, bar.get_height()
                if container.orientation == "horizontal":
                    x, y = bar.get_width(), bar.get_y() + bar.get_height() / 2
                yield _series(container), "bar", x, y, ""
    for image in ax.images:
        yield from _of_image(image)


def _of_points(points: Any, series: str, mark: str) -> Iterator[tuple[str, str, float, float, Any]]:
    for x, y in np.ma.filled(np.ma.asarray(points, dtype=float), np.nan):
        yield series, mark, float(x), float(y), ""


def _of_line(line: Line2D, ax: Axes) -> Iterator[tuple[str, str, float, float, Any]]:
    if isinstance(line, AxLine) or line.get_transform() != ax.transData:
        return  # guides such as axhline, and scale bars, are no data
    mark = "point" if line.get_linestyle() in ("None", "none", "", " ") else "line"
    if mark == "point" and line.get_marker() in ("None", "none", "", " ", None):
        return
    x, y = (np.asarray(v) for v in line.get_data(orig=False))
    for one, other in zip(x, y, strict=True):
        yield _series(line), mark, float(one), float(other), ""


def _of_image(image: AxesImage) -> Iterator[tuple[str, str, float, float, Any]]:
    values = image.get_array()
    if values is None or values.ndim != 2 or values.size > MAX_CELLS:
        return
    left, right, bottom, top = image.get_extent()
    height, width = values.shape
    xs = left + (np.arange(width) + 0.5) * (right - left) / width
    ys = top + (np.arange(height) + 0.5) * (bottom - top) / height
    for row, y in enumerate(ys):
        for column, x in enumerate(xs):
            yield "", "cell", float(x), float(y), float(np.ma.filled(values[row, column], np.nan))


def _series(artist: Any) -> str:
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label.replace("\n", " ")
