"""
From noise to samples: the ordinary differential equation of a flow, solved in few steps.

A flow is a velocity field v(x, t) that carries noise at t = 0 to images at t = 1. Two solvers
are enough for paths as straight as those of conditional flow matching (Lipman et al. 2023; Liu
et al. 2023), and they are thirty lines; `torchcfm`, `flow_matching` and `diffusers` would bring
schedulers, pipelines and further packages of which nothing else would be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from deepgps_core.dataset import InputError

#: x (B, C, H, W) and t (B,) -> velocity (B, C, H, W)
Velocity = Callable[[Tensor, Tensor], Tensor]
SOLVERS = ("euler", "heun")
#: Successive multiples of it, modulo 1, cover [0, 1) evenly from the first few on.
GOLDEN = 0.6180339887498949


def shifted(u: Tensor, shift: float) -> Tensor:
    """
    Map [0, 1] onto itself with smaller steps near 0 (Esser et al. 2024), for a shift above 1.

    Averaged over all pixels of a nucleus, noise is small: where a protein goes is settled early on
    the way, and equal steps would walk past the fork.

    Examples
    --------
    >>> shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist()
    [0.0, 0.25, 1.0]
    """
    return u / (shift - (shift - 1) * u)


def integrate(
    velocity: Velocity, noise: Tensor, steps: int, solver: str = "euler", shift: float = 1.0
) -> Tensor:
    """
    Follow a velocity field from t = 0 to t = 1.

    Parameters
    ----------
    velocity : callable
        Takes x (B, C, H, W) and t (B,).
    noise : Tensor, shape (B, C, H, W)
        Where to begin.
    steps : int
        At least 1.
    solver : str
        "euler" asks for one velocity a step; "heun" for two, and its error falls with the square
        of the step.
    shift : float
        1 for equal steps; more for smaller ones at the beginning, see `shifted`.

    Returns
    -------
    x : Tensor, shape (B, C, H, W)

    Raises
    ------
    InputError
        If the solver is unknown or there is no step.

    Examples
    --------
    >>> integrate(lambda x, t: torch.ones_like(x), torch.zeros(1, 1, 1, 1), 4).item()
    1.0
    """
    if solver not in SOLVERS or steps < 1:
        raise InputError(
            f"sampler: solver {solver!r} with {steps} steps; choose {' or '.join(SOLVERS)} and at "
            "least 1 step."
        )
    x, grid = noise, shifted(torch.arange(steps + 1) / steps, shift).tolist()
    for begin, end in zip(grid, grid[1:], strict=False):
        t, step = x.new_full((len(x),), begin), end - begin
        slope = velocity(x, t)
        if solver == "heun":
            slope = (slope + velocity(x + step * slope, t + step)) / 2
        x = x + step * slope
    return x


class Recorded:
    """
    A velocity field on a GPU, answering at once from its third call on.

    A small batch waits for Python, which launches some two hundred kernels a step. The first call
    does so, the second records them (CUDA graph), and all later ones replay the recording: the
    same kernels on the same numbers. Inputs keep their shapes; the field must not wait for the
    GPU, and no gradient passes.
    """

    def __init__(self, velocity: Velocity) -> None:
        self.velocity = velocity
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm = False

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if not self.warm:  # libraries choose their kernels before the recording
            self.warm = True
            return self.velocity(x, t)
        if self.graph is None:
            self._record(x, t)
        assert self.graph is not None
        self.x.copy_(x)
        self.t.copy_(t)
        self.graph.replay()
        return self.said.clone()

    def _record(self, x: Tensor, t: Tensor) -> None:
        self.x, self.t, graph = x.clone(), t.clone(), torch.cuda.CUDAGraph()
        stream = _recording_stream(x.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # other threads of a server may use the GPU meanwhile
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.said = self.velocity(self.x, self.t)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = graph


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a device on which fields are recorded."""
    return torch.cuda.Stream(device)


def guided(of_both: Velocity, guidance: float) -> Velocity:
    """
    Combine two velocity fields by classifier-free guidance (Ho and Salimans 2022).

    ``without + guidance * (with - without)``: 1 is the field with the sequence itself, 0 the one
    without, more than 1 exaggerates what the sequence says. `of_both` answers for a batch given
    twice, first with the sequence and then without: one call of the network for both.
    """

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        told, untold = of_both(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
        return untold + guidance * (told - untold)

    return velocity


def image_key(image: np.ndarray | Tensor) -> str:
    """
    Name an image by its content, rounded to 8 bits: equal on every device and in every batch.

    Parameters
    ----------
    image : ndarray or Tensor, shape (H, W)
        Intensities in [0, 1].
    """
    array = image.detach().cpu().float().numpy() if isinstance(image, Tensor) else image
    gray = np.rint(np.asarray(array, dtype=np.float32) * 255).astype(np.int16)
    return hashlib.sha256(gray.tobytes()).hexdigest()[:16]


def draw_noise(keys: Sequence[str], height: int, width: int, seed: int = 0) -> Tensor:
    """
    Draw standard normal noise for images, each from a generator of its own.

    Parameters
    ----------
    keys : sequence of str
        What each image is of, such as protein, nucleus and number of the sample: the same key and
        seed give the same noise, whatever else is drawn, in whichever batch.
    height, width : int
    seed : int

    Returns
    -------
    noise : Tensor, shape (N, 1, height, width), dtype float32
        On the CPU.
    """
    out = torch.empty(len(keys), 1, height, width)
    generator = torch.Generator()
    for image, key in zip(out, keys, strict=True):
        generator.manual_seed(_number_of(key, seed))
        image.normal_(generator=generator)
    return out


def colored(noise: Tensor, coarse: float) -> Tensor:
    """
    Give noise more of the coarse frequencies, of which images have most.

    White noise has as much of every frequency; images vary far more from one side to the other
    than from pixel to pixel. On the way from noise to image, where in the cell the protein goes
    would be settled very early, by averages over many noisy pixels, which a network hardly learns
    to read: its samples then all agree. (Others add an offset or a pyramid of noise for the same
    reason.)

    Parameters
    ----------
    noise : Tensor, shape (..., H, W)
        White, of variance 1.
    coarse : float
        Share of the variance whose amplitude falls with frequency (one over it), in [0, 1]; the
        rest stays white. The constant counts as one cycle an image.

    Returns
    -------
    noise : Tensor, shape (..., H, W), dtype float32
        Of variance 1, in the mean over pixels and draws.
    """
    if not coarse:
        return noise
    height, width = noise.shape[-2:]
    by_row = torch.fft.fftfreq(height, device=noise.device)[:, None] * height
    by_column = torch.fft.fftfreq(width, device=noise.device) * width
    power = torch.hypot(by_row, by_column).clamp(min=1) ** -2
    gain = (1 - coarse + coarse * power / power.mean()).sqrt()[:, : width // 2 + 1]
    with torch.autocast(noise.device.type, enabled=False):
        return torch.fft.irfft2(torch.fft.rfft2(noise.float()) * gain, s=(height, width))


def _number_of(key: str, seed: int) -> int:
    """Turn a name into a number of 63 bits."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def draw_classes(
    probabilities: Tensor, keys: Sequence[str], numbers: Sequence[int], seed: int = 0
) -> Tensor:
    """
    Draw a class for each sample, so that the samples of one key share them out as they should.

    Systematic sampling: one number in [0, 1) for each key, and from it steps of the golden ratio,
    which fill the interval evenly. Of n samples a class gets its probability times n, within one
    or two.

    Parameters
    ----------
    probabilities : Tensor, shape (N, C), dtype float
        Rows sum to 1.
    keys : sequence of str
        What each sample is of, without its number.
    numbers : sequence of int
        Of each sample among those of its key.

    Returns
    -------
    classes : Tensor, shape (N,), dtype int64
        On the probabilities' device.
    """
    first = torch.tensor([_number_of(f"class/{key}", seed) / 2**63 for key in keys])
    u = (first + GOLDEN * torch.tensor(list(numbers))) % 1
    edges = probabilities.float().cpu().cumsum(dim=1)[:, :-1]
    return (u[:, None] >= edges).sum(dim=1).to(probabilities.device)
