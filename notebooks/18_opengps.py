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
# # 18 · openGPS: how does a laboratory use deepGPS without installing it?
#
# The paper comes with a website, openGPS, on which anybody predicts a protein or hands in an image
# (its Fig. 5). Ours is a part of this package: one command starts it, on a laptop or for a whole institute.
# This chapter starts one, uses it as a visitor and as a program, and closes the loop that the paper
# only draws: an image that was handed in ends as a dataset that a model can be trained on.
#
# *About a minute on two cores; 2 GB of memory; no network: the server is on this machine. With
# Chromium and Playwright installed the chapter photographs its own pages.*
#
# **You will**
#
# - start a server, and predict proteins through its pages and from Python;
# - hand in an image, and compare it with what the model drew, cell by cell;
# - export what was handed in, and open it as a dataset like any other.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0
MODEL = "single-2"  # single-2, single-4 or all
N_BATCH = 24  # held-out proteins predicted at once, at most 100
SUBMITTED = "P13639"  # EEF2, of the paper's Fig. S9: the protein whose image is handed in
FIELD_SIZE_PX = 600  # of that image

# %%
import atexit
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from deepgps_core.dataset import Dataset
from deepgps_core.plotting import (
    draw_image,
    execution_record,
    panels,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.predictor import load_predictor
from deepgps_core.shipped import held_out_predictions
from deepgps_core.sources.embedded import embedded_proteins
from deepgps_core.sources.simulated import SimulationConfig, simulate_field
from deepgps_core.statistics import wilson_interval

use_book_style()

# %% [markdown]
# ## Inputs
#
# Sequences of proteins that the model was not trained on, with the places UniProt records; and one
# field of cells. Nobody has a microscope at hand in a book: the field is **simulated**, and stands for what
# a visitor would have measured.

# %%
test = held_out_predictions(MODEL).merge(
    embedded_proteins()[["protein_id", "gene", "sequence", "label"]], on="protein_id"
)
test = test[test["split"] == "test"].reset_index(drop=True)
batch = test.sample(min(N_BATCH, len(test)), random_state=SEED).reset_index(drop=True)
config = SimulationConfig(seed=SEED, field_size_px=FIELD_SIZE_PX)
field = simulate_field(("Cytoplasm",), SUBMITTED, 0, config).field  # (C, H, W)
tell(
    "| input | source | licence | rows |\n|---|---|---|---|\n"
    f"| sequences and places | SCL2205, from UniProt | CC BY 4.0 | {len(batch)} of {len(test)} "
    "held-out proteins |\n"
    f"| a field, {field.shape[1]} x {field.shape[2]} pixels, {field.dtype} | simulated here | MIT | 1 |"
)

# %% [markdown]
# ## One command
#
# `deepgps serve` starts the pages and a worker that predicts. Here it gets a folder of its own and any
# port that is free; by default it is <http://127.0.0.1:8000> and can be reached from this machine only.

# %%
data = Path(tempfile.mkdtemp())
program = [sys.executable, "-c", "from deepgps_core.cli import main; main()"]
command = ["serve", "--port", "0", "--data", str(data), "--model", MODEL]
started = time.perf_counter()
server = subprocess.Popen(
    [*program, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    env=os.environ | {"PYTHONUNBUFFERED": "1"},
)  # fmt: skip
atexit.register(server.terminate)
site = re.search(r"http://\S+", server.stdout.readline())[0].rstrip("/")
client = httpx.Client(base_url=site, timeout=60)
health = client.get("/api/health").json()
print(f"it answers: {health['status']}; {time.perf_counter() - started:.0f} s after the command")

# %% [markdown]
# ## Ask it from Python
#
# The pages and programs use the same functions. A program sends JSON to `/api/predictions`, gets an
# address back at once, and asks there until the job is done. Nothing waits on an open connection; if the
# server is restarted meanwhile, the job goes on.


# %%
def finished(job: dict) -> dict:
    """Ask for a job until it has ended."""
    while job["state"] in ("queued", "running"):
        time.sleep(0.1)
        job = client.get(job["links"]["self"]).json()
    return job


gene, sequence = test.set_index("protein_id").loc[batch["protein_id"][0], ["gene", "sequence"]]
answer = client.post("/api/predictions", json={"fasta": f">{gene}\n{sequence}", "model": MODEL})
print(answer.status_code, answer.json()["state"])
one = finished(answer.json())
pd.Series(one["result"]["proteins"][0], name="answer").drop("probabilities").to_frame()

# %% [markdown]
# ## What a visitor sees
#
# The same job has a page. Its address is its key: 192 random bits that nobody guesses, and whoever is
# given the link sees the result. Buttons switch the channels, a slider the contrast; everything can be
# taken home as CSV, PNG, 16-bit TIFF and a report that opens without the server.


# %%
def take_pictures(shots: list[tuple[str, int, int, str]]) -> list[np.ndarray]:
    """Photograph pages (path, width and height in px, color scheme); (H, W, 3) uint8 each."""
    from playwright.sync_api import sync_playwright

    pictures = []
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        for path, width, height, scheme in shots:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(site + path, wait_until="networkidle")
            pictures.append(np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")))
            page.close()
        browser.close()
    return pictures


def photograph(shots: list[tuple[str, int, int, str]], *, caption: str, alt: str) -> None:
    """Show pages side by side; without a browser, say where they are."""
    if not (CHROMIUM and find_spec("playwright")):
        tell(f"*No picture here: Chromium and Playwright are not installed. The page shows: {alt}*")
        return
    with ThreadPoolExecutor(1) as thread:  # Playwright waits in a thread of its own
        pictures = thread.submit(take_pictures, shots).result()
    sizes = [picture.shape[:2] for picture in pictures]  # (H, W) each
    fig, axes = plt.subplots(
        1, len(pictures), squeeze=False, width_ratios=[width for _, width in sizes],
        figsize=(sum(width for _, width in sizes) / 110, max(height for height, _ in sizes) / 110),
    )  # fmt: skip
    for ax, picture in zip(axes[0], pictures, strict=True):
        ax.imshow(picture, interpolation="antialiased")
        ax.axis("off")
    show(fig, caption=caption, alt=alt)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
photograph(
    [(one["links"]["page"] + "#labels", 960, 780, "light")],
    caption=f"The page of a prediction of {gene}: label, probability with the range over the ensemble, "
    "channel switches, and images, which were learned from simulated cells.",
    alt="A results page: a table with the label of one protein, bars of its probabilities, and three "
    "images.",
)

# %% [markdown]
# Is it the same prediction as that of the library, to the last digit that is shown?

# %% tags=["check"]
served = one["result"]["proteins"][0]["probabilities"]
direct = load_predictor(MODEL).predict({gene: sequence}).table.iloc[0]
assert all(abs(served[k] - direct[f"p_{k}"]) < 1e-3 for k in served), (served, direct)

# %% [markdown]
# ## Many at once
#
# Batch is the default: a FASTA file of up to a hundred proteins is one job. *Guess: how many times
# longer do many proteins take than one?*

# %%
fasta = "\n".join(f">{p}\n{s}" for p, s in zip(batch["protein_id"], batch["sequence"], strict=True))
started = time.perf_counter()
many = finished(client.post("/api/predictions", json={"fasta": fasta, "model": MODEL}).json())
seconds = time.perf_counter() - started
told = pd.DataFrame(many["result"]["proteins"]).merge(batch[["protein_id", "label"]],
                                                      on="protein_id", suffixes=("", "_recorded"))  # fmt: skip
right = told["label"] == told["label_recorded"]
span = wilson_interval(int(right.sum()), len(right))
sure = told["unsure"] == False  # noqa: E712
tell(
    f"{len(told)} proteins took {seconds:.1f} s. {int(right.sum())} labels are those that UniProt "
    f"records: {right.mean():.2f} (95 % interval {span.low:.2f} to {span.high:.2f}). Of the "
    f"{int(sure.sum())} that are not flagged *unsure*, {int(right[sure].sum())} are."
)

# %%
photograph(
    [("/predict?example=three", 390, 760, "light"), (many["links"]["page"], 390, 760, "dark")],
    caption="The form, and the result of the batch, on a phone: light, and in the dark.",
    alt="Two narrow screenshots: a form with a FASTA text, and a table of labels on dark ground.",
)

# %% [markdown]
# ## What it does not take
#
# A stranger's mistake gets a sentence beside its field. A stranger's malice meets the same checks:
# the {doc}`threat model </book/threat_model>` says which.

# %%
mistakes = {
    "a number in a sequence": {"fasta": ">mine\nMKK1LL"},
    "a mutation that does not fit": {"fasta": ">mine\nMKKLL", "mutations": "R2A"},
    "a text that calls itself an image": {
        "fasta": "MKKLL", "nucleus_images": [base64.b64encode(b"GIF89a, or so").decode()]
    },
}  # fmt: skip
for what, body in mistakes.items():
    answer = client.post("/api/predictions", json=body)
    print(f"{what}: {answer.status_code}", *answer.json()["errors"].items(), sep="\n    ")

# %% tags=["check"]
assert client.post("/api/predictions", json=mistakes["a number in a sequence"]).status_code == 400
assert client.get("/jobs/" + "A" * 32).status_code == 404, "a link was guessed"
policy = client.get("/").headers["Content-Security-Policy"]
assert "default-src 'none'" in policy and "unsafe" not in policy

# %% [markdown]
# ## How much can it take?
#
# `make bench ONLY=serving_load` starts a server with one worker, asks for one protein and for a
# hundred, and then lets fifty visitors who never rest loose on it for a minute. What it last gave:

# %%
recorded = {}
for path in sorted(Path("benchmarks/results").glob("serving_*.json")):
    found = json.loads(path.read_text(encoding="utf-8"))
    one = found["one_protein_s"]
    recorded[found["machine"]] = {
        "answers in all": f"{found['answers']:,}",
        "failed": f"{found['failed']:,}",
        "half of them within": f"{found['all']['p50_ms']:.0f} ms",
        "95 % of them within": f"{found['all']['p95_ms']:.0f} ms",
        "jobs accepted meanwhile": f"{found['jobs_accepted']:,}",
        "of these done": f"{found['jobs_ended'].get('done', 0):,}",
        "queue empty after": f"{found['drain_s']:.0f} s",
        "one protein": f"{one['median']:.2f} s, at most {one['worst']:.2f} s",
        "first one after the start": f"{found['first_prediction_s']:.1f} s",
        "a hundred proteins": f"{found['hundred_proteins_s']:.0f} s",
    }
if not recorded:
    tell("No result is kept here: `make bench ONLY=serving_load` measures it.")
pd.DataFrame(recorded)

# %% [markdown]
# ## Hand in an image
#
# Who has measured a protein hands in the field, the cell line and where it comes from. The server finds
# the nuclei, shows the model the same ones, and compares: measured channel against drawn channel.

# %%
buffer = io.BytesIO()
tifffile.imwrite(buffer, field)
submission = client.post("/api/submissions", json={
    "protein_id": SUBMITTED, "locations": "Cytoplasm", "cell_line": "simulated",
    "provenance": "Simulated by chapter 18; MIT licence.", "pixel_size_um": config.pixel_size_um,
    "model": MODEL, "image": base64.b64encode(buffer.getvalue()).decode(),
}).json()  # fmt: skip
compared = finished(submission)
result = compared["result"]["submissions"][0]
scores = result["scores"]
pd.DataFrame({"mean over cells": scores}).round(3)


# %%
def picture_of(channel: str, cell: int) -> np.ndarray:
    """Fetch one image of the comparison; (H, W) in [0, 1]."""
    answer = client.get(f"{compared['links']['self']}/images/0/{cell}/{channel}")
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("L")) / 255


n_cells = min(3, result["n_cells"])
titles = {"nucleus": "nucleus", "measured": "handed in", "protein": "drawn"}
fig, axes = panels(n_cells, 3, panel_inches=1.9)
for cell in range(n_cells):
    for ax, (channel, title) in zip(axes[cell], titles.items(), strict=True):
        draw_image(ax, picture_of(channel, cell), title=title if cell == 0 else "",
                   pixel_size_um=compared["result"]["pixel_size_um"])  # fmt: skip
show(
    fig,
    caption=f"{n_cells} of {result['n_cells']} cells of the field that was handed in, as the interface "
    f"serves them: nucleus, protein channel, and what {MODEL} draws beside the same nucleus. Both are "
    "simulated here, so that this says nothing about a cell. Scale bar 10 µm.",
    alt="Rows of three panels: a nucleus, the protein channel handed in, and the image drawn.",
)

# %%
tell(
    f"Predicted: *{result['label']}*, with a probability of {result['confidence']:.2f}. In the nucleus "
    f"lies {scores['nuclear_share_measured']:.0%} of the light that was handed in, and "
    f"{scores['nuclear_share_predicted']:.0%} of what was drawn. PSNR {scores['psnr_db']:.1f} dB, "
    f"SSIM {scores['ssim']:.2f}, r = {scores['pearson_r']:.2f}: what these see, and what they do not, "
    "is the subject of chapter 13."
)

# %%
photograph(
    [(compared["links"]["page"] + "#metrics", 960, 900, "light")],
    caption="The page of the submission: metrics, then what was handed in and what was drawn. The field "
    "that was handed in is simulated in this book.",
    alt="A page with a table of metrics for one submitted image, the whole field, and its cells.",
)

# %% [markdown]
# ## Close the loop
#
# Each submission can be taken home as a dataset folder; the operator exports all of them with
# `deepgps export-submissions`. It is the folder of chapter 02: `deepgps prepare` and `deepgps train`
# take it as they take OpenCell.

# %%
done = subprocess.run(
    [*program, "export-submissions", "mine", "--data", str(data)], cwd=data, capture_output=True,
    text=True, check=False,
)  # fmt: skip
print(done.stdout or done.stderr)
mine = Dataset(data / "mine")
origins = pd.read_csv(mine.path / "provenance.csv")
mine.proteins[["protein_id", "locations", "label", "cluster_30"]].join(
    origins[["cell_line", "provenance"]]
)

# %% tags=["check"]
assert mine.info.images == "measured", "what is handed in counts as measured"
assert (mine.read_field(mine.fields["field_id"][0]) == field).all(), "pixels changed on the way"
archive = client.get(f"{compared['links']['self']}/files/dataset.zip")
assert "dataset.yaml" in zipfile.ZipFile(io.BytesIO(archive.content)).namelist()

# %% [markdown]
# The field came back pixel by pixel. Note what the folder says: *measured*. We lied to the server, it had no
# way to know, and the next model would have learned from a simulation that calls itself a measurement. Only the
# column `provenance` tells. A loop that trains on what strangers hand in needs somebody who reads that column.

# %%
n_images = int(origins.shape[0])
tell(
    "```{admonition} What the paper says / What we see\n:class: important\n"
    "The paper describes openGPS with two modules, Predict and Submit (Fig. 5a to c), which together form "
    "*a positive feedback loop*. Its text reports neither how long a prediction takes nor what a submission is "
    "checked for; no retraining with a submission is shown.\n\n"
    f"Here: both modules, from a page and from a program. {len(told)} proteins in {seconds:.1f} s on this "
    f"machine; {int(right.sum())} of {len(right)} labels as recorded ({span.low:.2f} to {span.high:.2f}). "
    f"{n_images} image handed in, compared over {result['n_cells']} cells, exported, and opened again "
    "without a pixel lost.\n\n"
    "Verdict: the platform agrees with the description; the feedback loop can be built, and its weak point is the "
    "truth of what is handed in. Scaled down: small models, simulated images, one visitor.\n```"
)

# %%
client.close()
server.terminate()
print("stopped:", server.wait(30) is not None)
shutil.rmtree(data)

# %% [markdown]
# ## Recap
#
# - One command starts openGPS; a page and a program get the same answer, that of the library.
# - A batch is a job in a queue that survives a restart; its address is its key.
# - A submission is compared over the same nuclei, by the metrics of this book.
# - What was handed in becomes a dataset folder; whether it is true, no program can tell.
#
# ## Exercises
#
# 1. **Read.** Why does the form carry a token, while the interface takes none? What can a page on
#    another site make your browser send, and what not?
# 2. **Change.** Set `MODEL = "all"`. Which of its labels does the simulated field contradict?
# 3. **Build.** Hand in the same field twice, under two names of proteins, and export. How many fields
#    and how many proteins does the dataset have, and what would a split by proteins do with them?

# %% tags=["solution"]
# Two proteins share one field: a random split may train on the image it tests on. The export keeps
# both, because who was right is not for a program to decide. A check by content finds them:
twice = pd.DataFrame({"field_id": ["a_000", "b_000"], "sha256": [mine.fields["sha256"][0]] * 2})
twice[twice.duplicated("sha256", keep=False)]

# %%
execution_record(PROFILE, SEED)
