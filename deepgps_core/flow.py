"""
A deepGPS that generates: conditional flow matching on the crop.

The published network answers with one picture, the pixelwise median of all that could be (its
loss is L1), and so with a blur. `FlowGPS` answers with samples: a velocity field carries noise
to a protein image, given the nucleus image and the sequence (Lipman et al. 2023, rectified
flow). What it knows of the sequence, and the label head, are those of `deepgps_core.model`.

Nothing of this is in the paper; its discussion asks for it ("still challenging to depict the
texture and details of proteins").
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepgps_core.dataset import InputError
from deepgps_core.fusions import ResidueBatch
from deepgps_core.losses import LABEL_LOSSES
from deepgps_core.model import DeepGPS, Prediction
from deepgps_core.samplers import (
    GOLDEN,
    Recorded,
    Velocity,
    colored,
    draw_classes,
    draw_noise,
    guided,
    image_key,
    integrate,
    shifted,
)
from deepgps_core.unet import check_image_size
from deepgps_core.velocity import FlowConfig, VelocityField

if TYPE_CHECKING:
    from deepgps_core.losses import Batch

__all__ = ["FlowConfig", "FlowGPS"]

#: Batches up to this size are replayed on a GPU, when there are more steps than recording costs;
#: larger ones keep it busy anyway.
RECORDED_AT_MOST, RECORDING_STEPS = 8, 3


class FlowGPS(DeepGPS):
    """
    The flow model: `head` reads the sequence, `field` is trained, `averaged` samples.

    Called as `DeepGPS` is, it answers with one sample for each nucleus.
    """

    config: FlowConfig

    def build_image_branch(self) -> None:
        """Make the velocity field, its moving average and the vector for "no sequence"."""
        self.field = VelocityField(self.config)
        self.averaged = copy.deepcopy(self.field).requires_grad_(False)
        self.no_sequence = torch.nn.Parameter(torch.zeros(self.config.hidden_dim))
        if self.config.condition == "label":
            self.places = torch.nn.Parameter(
                torch.randn(self.config.n_classes, self.config.hidden_dim)
            )
        #: steps taken and the seed of all noise; part of the state, so that resuming repeats them
        self.steps_taken = 0
        self.noise_seed = int(torch.randint(2**31, (), device="cpu"))
        # in a tuple, where no state dict finds it: a student is whole without its teacher
        self._teacher: tuple[FlowGPS, ...] = ()

    def get_extra_state(self) -> Tensor:
        """Return steps taken and noise seed, (2,), int64."""
        return torch.tensor([self.steps_taken, self.noise_seed])

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self.steps_taken, self.noise_seed = (int(value) for value in state)

    def compile(self, *args: object, **options: object) -> None:
        """Compile the field that is trained; noise stays outside."""
        self.field.compile(*args, **options)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average towards the weights after a training step."""
        self.steps_taken += 1
        # a short memory at first, or the average would remember the initial weights
        decay = min(self.config.ema_decay, (1 + self.steps_taken) / (10 + self.steps_taken))
        source, target = self.field.state_dict(), self.averaged.state_dict()
        floats = [name for name, tensor in target.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [target[name] for name in floats], [source[name] for name in floats], 1 - decay
        )

    def learn_from(self, teacher: FlowGPS) -> None:
        """Start from a teacher's weights, and be trained to take its strides in single steps."""
        own = self.state_dict()
        learned = {name: tensor for name, tensor in teacher.state_dict().items() if name in own}
        if any(learned[name].shape != own[name].shape for name in learned):
            raise InputError(
                f"teacher {self.config.teacher!r}: a network of another shape; "
                "give the student the same width, depth and patch_px."
            )
        learned["_extra_state"] = own["_extra_state"]
        self.load_state_dict(learned)
        self.field.load_state_dict(teacher.averaged.state_dict())
        self._teacher = (teacher.eval().requires_grad_(False),)

    def told(
        self, sequence: Tensor, logits: Tensor, keys: Sequence[str], numbers: Sequence[int],
        seed: int = 0, places: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """
        Return what the field is told in sampling, (B, hidden_dim).

        The projected vectors themselves; or the vectors of places: of those given as class numbers
        (B,), else drawn with the probabilities of the logits (B, C) as `samplers.draw_classes`
        does.
        """
        if self.config.condition == "sequence":
            return sequence
        if places is None:
            places = draw_classes(self.probabilities(logits.float()), keys, numbers, seed)
        return self.places[places].to(sequence.dtype)

    def _told_the_truth(self, batch: Batch, sequence: Tensor) -> Tensor:
        """Return what the field is told in training: of the true places, their mean vector."""
        if self.config.condition == "sequence":
            return sequence
        places = self._targets(batch)
        share = places / places.sum(dim=1, keepdim=True).clamp(min=1e-6)
        told = (share @ self.places).to(sequence.dtype)
        unknown = places.sum(dim=1, keepdim=True) == 0
        return torch.where(unknown, self.no_sequence.to(sequence.dtype), told)

    def _targets(self, batch: Batch) -> Tensor:
        """Return the places of each crop, (B, C); none where nothing is known."""
        if batch.targets is not None:
            return batch.targets
        n_classes = self.config.n_classes
        targets = torch.nn.functional.one_hot(batch.label.clamp(min=0), n_classes).float()
        return targets * (batch.label >= 0)[:, None]

    def velocity(
        self, nuclear_image: Tensor, sequence: Tensor, residues: ResidueBatch | None = None
    ) -> Velocity:
        """Return the velocity field for given nuclei (B, 1, H, W) and vectors (B, hidden_dim)."""
        field = self.field if self.training else self.averaged
        return lambda x, t: field(x, t, nuclear_image, sequence, residues)

    def without_sequence(
        self, sequence: Tensor, residues: ResidueBatch | None, rows: Tensor | None = None
    ) -> tuple[Tensor, ResidueBatch | None]:
        """Hide the sequence of the crops at `rows` (B,), by default of all."""
        if rows is None:
            rows = torch.ones(len(sequence), dtype=torch.bool, device=sequence.device)
        hidden = torch.where(rows[:, None], self.no_sequence.to(sequence.dtype), sequence)
        if residues is not None:
            residues = residues._replace(mask=residues.mask & ~rows[:, None])
        return hidden, residues

    def sample(
        self,
        nuclear_image: Tensor,
        sequence: Tensor,
        noise: Tensor,
        residues: ResidueBatch | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
    ) -> Tensor:
        """
        Turn noise into protein images, (B, 1, H, W) in [0, 1].

        `noise` (B, 1, H, W) is white, and colored here; `sequence` is what `told` gives,
        (B, hidden_dim); what is not given is as in the configuration.
        """
        config = self.config
        guidance = config.guidance if guidance is None else guidance
        velocity = self.velocity(nuclear_image, sequence, residues)
        if guidance != 1:
            hidden, of_none = self.without_sequence(sequence, residues)
            both = None
            if residues is not None and of_none is not None:
                pairs = zip(residues, of_none, strict=True)
                both = ResidueBatch(*(torch.cat(pair) for pair in pairs))
            told = torch.cat([sequence, hidden])
            velocity = guided(self.velocity(nuclear_image.repeat(2, 1, 1, 1), told, both), guidance)
        steps = steps or config.steps
        few = len(noise) <= RECORDED_AT_MOST and steps > RECORDING_STEPS
        if noise.is_cuda and few and not torch.is_grad_enabled():
            velocity = Recorded(velocity)
        x = integrate(
            velocity, colored(noise, config.coarse_noise), steps,
            solver or config.solver, config.time_shift,
        )  # fmt: skip
        return (x.float() * config.image_scale + config.image_center).clamp(0, 1)

    def forward(
        self,
        nuclear_image: Tensor,
        sequence_features: Tensor,
        point_clouds: Tensor | None = None,
        residues: ResidueBatch | None = None,
    ) -> Prediction:
        """Draw one sample for each nucleus, from noise that the nucleus' pixels decide."""
        height, width = nuclear_image.shape[2:]
        check_image_size(height, width, self.config.depth)
        if self.config.needs_residues and residues is None:
            raise InputError(
                f"this model's fusion, {self.config.fusion!r}, needs per-residue vectors; give "
                "them, or use a model with another fusion."
            )
        sequence, logits, _ = self.describe(sequence_features, point_clouds)
        keys = [image_key(image[0]) for image in nuclear_image]
        noise = draw_noise(keys, height, width)
        told = self.told(sequence, logits, keys, [0] * len(keys))
        return Prediction(self.sample(nuclear_image, told, noise.to(sequence), residues), logits)

    def _draws(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw noise, times and whose sequence to hide; the same for every held-out batch."""
        generator = torch.Generator(x.device)
        step = self.steps_taken if self.training else -1
        generator.manual_seed(self.noise_seed * 2**31 + step + 1)
        draw = partial(torch.rand, device=x.device, generator=generator)
        noise = torch.randn(x.shape, device=x.device, generator=generator)
        u = (draw(1) + GOLDEN * torch.arange(len(x), device=x.device)) % 1
        share = self.config.unconditional if self.training else 0.0
        return noise, shifted(u, self.config.time_shift), draw(len(x)) < share

    def matching_loss(
        self,
        batch: Batch,
        sequence: Tensor,
        noise: Tensor,
        t: Tensor,
        hide: Tensor | None = None,
    ) -> Tensor:
        """
        Compute the flow-matching loss of each crop, (B,): the mean squared error of the velocity.

        On the straight path from the colored `noise` (B, 1, H, W; given as white) to the image, at
        time `t` (B,), the velocity is image minus noise (Lipman et al. 2023, with no noise left at
        the end).
        """
        noise = colored(noise, self.config.coarse_noise)
        x1 = (batch.protein_image - self.config.image_center) / self.config.image_scale
        residues = batch.residues
        if hide is not None:
            sequence, residues = self.without_sequence(sequence, residues, hide)
        if self._teacher:
            x, wanted, t = self._stride(batch, x1, noise, t, hide)
        else:
            at = t[:, None, None, None]
            x, wanted = (1 - at) * noise + at * x1, x1 - noise
        error = self.velocity(batch.nuclear_image, sequence, residues)(x, t).float() - wanted
        return error.square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def _stride(
        self, batch: Batch, x1: Tensor, noise: Tensor, t: Tensor, hide: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let the teacher go from a point of the student's grid to the next; its mean velocity."""
        (teacher,) = self._teacher
        teacher.to(x1.device)
        grid, substeps = self.config.steps, self.config.teacher_steps
        shift = self.config.time_shift
        # the stretch of the student's grid in which t lies, on the clock before the shift
        number = (t * shift / (1 + (shift - 1) * t) * grid).floor().clamp(max=grid - 1)
        t, until = shifted(number / grid, shift), shifted((number + 1) / grid, shift)
        at, stride = (x[:, None, None, None] for x in (t, until - t))
        begin = (1 - at) * noise + at * x1
        sequence, residues = teacher.describe(batch.sequence_features)[0], batch.residues
        sequence = teacher._told_the_truth(batch, sequence)
        if hide is not None:
            sequence, residues = teacher.without_sequence(sequence, residues, hide)
        velocity = teacher.velocity(batch.nuclear_image, sequence, residues)
        # the solver's clock runs from 0 to 1 within the stride
        end = integrate(
            lambda x, clock: velocity(x, t + clock * (until - t)).float() * stride, begin, substeps
        )
        return begin, (end - begin) / stride, t

    def score(self, batch: Batch) -> tuple[Prediction, Tensor, Tensor]:
        """
        Return logits, and the flow-matching and the label loss of each crop, (B,).

        The prediction's image is the target: none is drawn in training.
        """
        sequence, logits, _ = self.describe(batch.sequence_features)
        noise, t, hide = self._draws(batch.protein_image)
        told = self._told_the_truth(batch, sequence)
        image_loss = self.matching_loss(batch, told, noise, t, hide if self.training else None)
        label_loss = LABEL_LOSSES[self.config.label_loss](
            logits.float(), batch.label, self._targets(batch), self.head.class_weight
        )
        return Prediction(batch.protein_image, logits), image_loss, label_loss
