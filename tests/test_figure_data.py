"""What was plotted comes back as a table; pictures and guides do not."""

from __future__ import annotations

import base64
import io
import re
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from deepgps_core import plotting
from deepgps_core.figure_data import MAX_ROWS, figure_data


def drawn(fig: Figure) -> pd.DataFrame:
    """Draw as `show` does, then read back."""
    fig.savefig(io.BytesIO())
    plt.close(fig)
    return figure_data(fig)


def test_lines_and_points_come_back_as_plotted() -> None:
    """x and y of curves and scatters are those that were given, under the legend's names."""
    fig, ax = plt.subplots()
    x, y = np.linspace(0, 1, 7), np.linspace(0, 1, 7) ** 2
    ax.plot(x, y, label="square")
    ax.scatter(y, x, label="root")
    ax.axhline(0.5, label="guide")
    ax.axline((0, 0), slope=1)
    ax.set_title("curves")
    table = drawn(fig)
    assert set(table["panel"]) == {"curves"} and set(table["series"]) == {"square", "root"}
    square, root = (table[table["series"] == s] for s in ("square", "root"))
    assert np.allclose(square["x"].astype(float), x) and np.allclose(square["y"].astype(float), y)
    assert np.allclose(root["x"].astype(float), y) and set(root["mark"]) == {"point"}


def test_intervals_stand_beside_their_names() -> None:
    """A row of `interval_plot` is its estimate and both ends, with the name on the axis."""
    fig, ax = plt.subplots()
    plotting.interval_plot(ax, ["ours", "chance"], [0.7, 0.5], [(0.6, 0.8), (0.45, 0.55)])
    table = drawn(fig)
    ours = table[table["y"] == "ours"]
    assert sorted(ours["x"].astype(float)) == [0.6, 0.7, 0.8]
    assert set(table["y"]) == {"ours", "chance"}


@pytest.mark.parametrize("horizontal", [False, True])
def test_bars_are_heights_by_name(horizontal: bool) -> None:
    """Bars come back with their category and their length, lying or standing."""
    fig, ax = plt.subplots()
    (ax.barh if horizontal else ax.bar)(["a", "b"], [3, 5])
    table = drawn(fig).set_index("y" if horizontal else "x")
    value = table["x" if horizontal else "y"]
    assert (value["a"], value["b"]) == (3, 5)


def test_error_bars_and_bands_have_their_ends() -> None:
    """The ends of error bars and the border of a band are among the rows."""
    fig, ax = plt.subplots()
    ax.errorbar([1.0], [2.0], yerr=[0.5], fmt="o")
    ax.fill_between([0.0, 1.0], [0.0, 0.25], [1.0, 0.75], label="spread")
    table = drawn(fig)
    ends = table.loc[table["mark"] == "interval", "y"].astype(float)
    assert sorted(ends) == [1.5, 2.5]
    band = table[table["mark"] == "band"]
    corners = set(zip(band["x"].astype(float), band["y"].astype(float), strict=True))
    assert corners == {(0, 0), (1, 0.25), (1, 0.75), (0, 1)}


def test_a_matrix_is_data_and_a_micrograph_is_not() -> None:
    """Cells of a confusion matrix come back by name; a cell image gives no row."""
    matrix = np.array([[8.0, 2.0], [3.0, 7.0]])
    fig, (left, right) = plt.subplots(1, 2)
    left.imshow(matrix)
    left.set_xticks([0, 1], ["said A", "said B"])
    left.set_yticks([0, 1], ["is A", "is B"])
    plotting.draw_image(right, np.zeros((104, 104)), pixel_size_um=0.2)
    table = drawn(fig).set_index(["y", "x"])["value"]
    assert len(table) == 4
    assert table["is A", "said B"] == 2 and table["is B", "said A"] == 3


def test_dense_drawings_are_left_out_whole() -> None:
    """More marks than the limit give no table rather than half a one."""
    fig, ax = plt.subplots()
    ax.plot(np.arange(MAX_ROWS + 1))
    assert drawn(fig).empty


def test_show_links_the_numbers() -> None:
    """The link in the caption holds exactly the table; a picture alone has none."""
    fig, ax = plt.subplots()
    ax.plot([0, 1], [1 / 3, 2 / 3])
    with mock.patch.object(plotting, "display") as display:
        plotting.show(fig, caption="c", alt="a")
    markup = display.call_args.args[0].data
    content = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', markup)
    assert content
    table = pd.read_csv(io.BytesIO(base64.b64decode(content[1])))
    assert table["y"].tolist() == [0.33333, 0.66667]

    fig, axes = plotting.panels(1, 1)
    plotting.draw_image(axes[0, 0], np.zeros((104, 104)))
    with mock.patch.object(plotting, "display") as display:
        plotting.show(fig, caption="c", alt="a")
    assert "csv" not in display.call_args.args[0].data
