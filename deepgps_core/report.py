"""
A report of predictions as one HTML page: no script, no file beside it, light and dark.

Everything that came from a user is escaped, and the page forbids itself to load or run anything.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from deepgps_core.calibration import UNSURE_BELOW
from deepgps_core.mutations import CHANGE_THRESHOLD
from deepgps_core.predict import Predicted
from deepgps_core.predictor import ModelInfo

#: Nuclei shown of each protein; all are in the TIFF.
SHOWN_NUCLEI = 4
#: Samples shown beside the first nucleus; all are in the TIFF.
SHOWN_SAMPLES = 8
#: Proteins shown with images; all are in predictions.csv.
SHOWN_PROTEINS = 200
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root{color-scheme:light dark;--ink:#1a1d21;--soft:#565d66;--page:#fff;--card:#f5f6f8;
--line:#d5d9de;--bar:#0b63a5;--rail:#dfe3e8;--warn:#8a4b00;--warnbg:#fff3e0}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a9b0b8;--page:#14171a;--card:#1e2226;
--line:#3a4047;--bar:#5aa9e6;--rail:#333a41;--warn:#ffc078;--warnbg:#3a2a12}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:64rem;
margin:0 auto;padding:1.5rem 1rem 3rem;overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2rem 0 .6rem}
h3{font-size:1.05rem;margin:0}
p{margin:.4rem 0}.soft{color:var(--soft);font-size:.92rem}
.notice{border-left:4px solid var(--warn);background:var(--warnbg);padding:.6rem .9rem;
margin:1rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:1rem;
margin:0 0 1rem}
.flag{color:var(--warn);background:var(--warnbg);border:1px solid;border-radius:4px;
padding:0 .4rem;font-size:.85rem;white-space:nowrap}
.two{display:grid;grid-template-columns:minmax(14rem,1fr) 2fr;gap:1rem;margin-top:.6rem}
@media(max-width:40rem){.two{grid-template-columns:1fr}}
.p{display:grid;grid-template-columns:7.5rem 1fr 3rem;gap:.5rem;align-items:center;
font-size:.92rem}
.rail{background:var(--rail);height:.7rem;border-radius:3px}
.bar{background:var(--bar);height:100%;border-radius:3px}
.num{text-align:right;font-variant-numeric:tabular-nums}
.row{display:flex;flex-wrap:wrap;gap:.5rem;margin:0 0 .5rem}
figure{margin:0}figcaption{font-size:.8rem;color:var(--soft)}
img{width:112px;height:auto;background:#000;display:block;border-radius:3px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);
overflow-wrap:normal}
td.num,th.num{text-align:right}
"""


def png_bytes(image: np.ndarray) -> bytes:
    """Return an image in [0, 1], (H, W) or (H, W, 3), as an 8-bit PNG."""
    buffer = io.BytesIO()
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def overlay(nuclear_image: np.ndarray, protein_image: np.ndarray) -> np.ndarray:
    """Return nucleus in blue and protein in orange, (H, W, 3): told apart by all readers."""
    blue, orange = np.array([0.15, 0.35, 1.0]), np.array([1.0, 0.65, 0.05])
    return np.clip(nuclear_image[..., None] * blue + protein_image[..., None] * orange, 0, 1)


def _picture(image: np.ndarray, alt: str, caption: str) -> str:
    data = base64.b64encode(png_bytes(image)).decode()
    return (
        f'<figure><img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _bars(row: pd.Series, labels: Sequence[str]) -> str:
    parts = []
    for name in labels:
        p = float(row[f"p_{name}"])
        parts.append(
            f'<div class="p"><span>{html.escape(name)}</span><span class="rail" aria-hidden="true">'
            f'<span class="bar" style="display:block;width:{100 * p:.1f}%"></span></span>'
            f'<span class="num">{p:.2f}</span></div>'
        )
    return "".join(parts)


def _flag(row: pd.Series) -> str:
    return ' <span class="flag">unsure</span>' if row["unsure"] else ""


def _pictures(predicted: Predicted, number: int, name: str) -> str:
    """Return nucleus, prediction and overlay beside each of the first nuclei."""
    images, nuclei = predicted.images_by_nucleus, predicted.nuclear_images
    if images is None or nuclei is None:
        images, nuclei = predicted.images[:, None], predicted.nuclear_image[None]
    rows = []
    for k in range(min(SHOWN_NUCLEI, len(nuclei))):
        drawn = images[number, k]
        rows.append(
            '<div class="row">'
            + _picture(nuclei[k], f"nucleus {k + 1}", f"nucleus {k + 1}")
            + _picture(drawn, f"predicted image of {name}, nucleus {k + 1}", "predicted protein")
            + _picture(overlay(nuclei[k], drawn), f"overlay of {name}, nucleus {k + 1}", "overlay")
            + "</div>"
        )
    return "".join(rows) + _samples(predicted, number, name)


def _samples(predicted: Predicted, number: int, name: str) -> str:
    """Return the first samples beside the first nucleus, and how much all of them differ."""
    if predicted.samples is None:
        return ""
    drawn = predicted.samples[number, 0]  # (S, H, W)
    spread = drawn.std(axis=0)
    shown = "".join(
        _picture(image, f"sample {k + 1} of {name}, nucleus 1", f"sample {k + 1}")
        for k, image in enumerate(drawn[:SHOWN_SAMPLES])
    )
    # stretched: standard deviations are small beside intensities
    return (
        f'<p class="soft">The predicted image above is the mean of {len(drawn)} samples; nucleus 1 '
        f"again, one by one, and where they differ (brightest: {spread.max():.2f}):</p>"
        f'<div class="row">{shown}'
        + _picture(spread / max(float(spread.max()), 1e-6), f"spread of {name}", "spread")
        + "</div>"
    )


def _card(predicted: Predicted, number: int, info: ModelInfo) -> str:
    row = predicted.table.iloc[number]
    name = str(row["protein_id"])
    members = (
        f"Members of the ensemble: {row['confidence_low']:.2f} to {row['confidence_high']:.2f}."
        if info.n_members > 1 else "One model: no members to disagree."
    )  # fmt: skip
    return (
        f'<section class="card"><h3>{html.escape(name)}{_flag(row)}</h3>'
        f'<p class="soft">{row["n_residues"]} residues; predicted: '
        f"<strong>{html.escape(str(row['predicted_label']))}</strong>. {members}</p>"
        f'<div class="two"><div>{_bars(row, info.labels)}</div>'
        f"<div>{_pictures(predicted, number, name)}</div></div></section>"
    )


def _table(frame: pd.DataFrame) -> str:
    numeric = {name: pd.api.types.is_float_dtype(frame[name]) for name in frame.columns}
    kind = {name: ' class="num"' if number else "" for name, number in numeric.items()}
    head = "".join(f"<th scope=col{kind[name]}>{html.escape(name)}</th>" for name in frame.columns)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind[name]}>{html.escape(f'{value:.2f}' if numeric[name] else str(value))}</td>"
            for name, value in ((str(key), row[key]) for key in row)
        )
        + "</tr>"
        for row in frame.rename(columns=str).to_dict("records")
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        "</div>"
    )


def _how_sure(info: ModelInfo) -> str:
    """Say what the probabilities mean and how good the model was on other proteins."""
    scores = info.card.get("labels", {})
    text = (
        f"<p>A prediction is marked <em>unsure</em> if the likeliest label has a probability below "
        f"{UNSURE_BELOW}, or if a member of the ensemble prefers another label.</p>"
    )
    if not scores:
        return text + "<p>This model's probabilities have not been calibrated.</p>"
    of = {k: f"{v[0]:.2f} ({v[1]:.2f} to {v[2]:.2f})" for k, v in scores.items()
          if isinstance(v, list)}  # fmt: skip
    return text + (
        f"<p>On {scores['n_test']} proteins of homology clusters it was not trained on: the "
        f"likeliest label is right for {of['accuracy']} of them, AUROC {of['auroc']}; calibration "
        f"error {of['ece']}. Of those it is sure of, {of['accuracy_sure']} are right; of the "
        f"others, {of['accuracy_unsure']}. (95 % intervals.)</p>"
    )


def _mutations(mutations: pd.DataFrame | None) -> str:
    if mutations is None or not len(mutations):
        return ""
    shown = mutations.drop(columns=["n_residues"]).rename(columns=lambda c: c.replace("_", " "))
    return (
        "<h2>Mutations</h2>"
        + _table(shown)
        + '<p class="soft">change: of the probability of the label that moved most; low and high: '
        "least and most change among the ensemble's members. A change is called if it is at least "
        f"{CHANGE_THRESHOLD} and all members agree on its direction. A threshold is a convention, "
        "not a test.</p>"
    )


def render_report(
    predicted: Predicted, info: ModelInfo, *, mutations: pd.DataFrame | None = None
) -> str:
    """
    Return the report of a prediction as one HTML page.

    Parameters
    ----------
    predicted : Predicted
    info : ModelInfo
        Of the model that made it.
    mutations : DataFrame, optional
        As `mutations.compare_mutants` returns it.
    """
    table, n = predicted.table, len(predicted.table)
    counts = table["predicted_label"].value_counts()
    summary = ", ".join(f"{html.escape(str(name))} {k}" for name, k in counts.items())
    cards = "".join(_card(predicted, number, info) for number in range(min(n, SHOWN_PROTEINS)))
    if n > SHOWN_PROTEINS:
        cards = (
            f'<p class="soft">The first {SHOWN_PROTEINS} of {n:,} proteins are shown; all are in '
            f"predictions.csv, their images in images/.</p>{cards}"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>deepGPS report: {n} protein{'s' * (n != 1)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>Where {n} protein{'s go' if n != 1 else ' goes'}</h1>"
        f'<p class="soft">Model: {html.escape(info.title)}. Nucleus: '
        f"{html.escape(predicted.nuclei_source or 'the image that was given')}. Images at "
        f"{predicted.pixel_size_um:.3f} &micro;m a pixel.</p>"
        f'<p class="notice">{html.escape(info.notice)}</p>'
        f"<p>Predicted: {summary}. {int(table['unsure'].sum())} of {n} marked unsure.</p>"
        f"<h2>How to read it</h2>{_how_sure(info)}{_mutations(mutations)}"
        f"<h2>Proteins</h2>{cards}</main></body></html>\n"
    )
