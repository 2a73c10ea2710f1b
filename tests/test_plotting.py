"""No figure without caption and alt text; the same figure gives the same bytes."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from deepgps_core import plotting


def shown(**texts: str) -> str:
    """Return the HTML that `show` displays."""
    fig, axes = plotting.panels(1, 1)
    plotting.draw_image(axes[0, 0], np.eye(32), pixel_size_um=0.206, scale_bar_um=2)
    with mock.patch.object(plotting, "display") as display:
        plotting.show(fig, **texts)
    return display.call_args.args[0].data


def test_caption_and_alt_are_escaped_and_present() -> None:
    """Both texts stand in the figure, safe against markup in names."""
    markup = shown(caption="a <b> & c", alt='says "x" > y')
    assert "<figcaption>a &lt;b&gt; &amp; c</figcaption>" in markup
    assert 'alt="says &quot;x&quot; &gt; y"' in markup


@pytest.mark.parametrize("texts", [{"caption": "", "alt": "a"}, {"caption": "a", "alt": " "}])
def test_missing_text_is_refused(texts: dict[str, str]) -> None:
    """An empty caption or alt text raises."""
    with pytest.raises(ValueError, match="caption"):
        shown(**texts)


def test_same_figure_same_bytes() -> None:
    """Nothing of the time or machine enters a picture."""
    assert shown(caption="c", alt="a") == shown(caption="c", alt="a")


def test_composite_colors_tell_the_channels_apart() -> None:
    """Nucleus alone is blue, protein alone is orange, nothing is black."""
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    nucleus = plotting.channel_composite(one, zero)[0, 0]
    protein = plotting.channel_composite(zero, one)[0, 0]
    assert nucleus.argmax() == 2 and protein.argmax() == 0
    assert plotting.channel_composite(zero, zero).max() == 0
