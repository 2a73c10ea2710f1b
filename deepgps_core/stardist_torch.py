"""
StarDist's network in PyTorch: a twin of the Keras model, for machines without TensorFlow.

The layers, paddings and activations are those that ``stardist.models.StarDist2D`` builds from
its configuration (csbdeep's U-Net block behind the strided "grid" convolutions), so that
weights move between the two in both directions: trained here on a GPU, used through
StarDist's own API. Left out: more than one class, other backbones, batch normalization.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import max_pool2d, relu

#: One convolution's weights in Keras's order of axes: kernel (h, w, in, out), bias (out,).
KerasWeights = Sequence[tuple[np.ndarray, np.ndarray]]


def _conv(channels_in: int, channels_out: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, padding=size // 2)


class StarDistNet(nn.Module):
    """
    The StarDist network: one channel in, object probability and radii on a coarser grid out.

    Parameters
    ----------
    n_rays : int
        Directions in which the distance to the outline is predicted.
    grid : int
        Power of two by which the outputs are coarser than the image.
    n_filter_base, n_depth, n_features : int
        Width of the first level, number of poolings, and width of the last 3 x 3 convolution.

    Notes
    -----
    Source: ``StarDist2D._build`` of stardist 0.9.2 and ``unet_block`` of csbdeep 0.8.2.
    """

    def __init__(
        self,
        n_rays: int = 32,
        grid: int = 2,
        n_filter_base: int = 24,
        n_depth: int = 3,
        n_features: int = 128,
    ) -> None:
        super().__init__()
        self.n_poolings = grid.bit_length() - 1
        self.n_depth = n_depth
        width = [n_filter_base * 2**level for level in range(n_depth + 1)]
        before = [1] + [n_filter_base] * (2 * self.n_poolings)
        self.strided = nn.ModuleList(
            _conv(a, b) for a, b in zip(before[:-1], before[1:], strict=True)
        )
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels = before[-1]
        for level in range(n_depth):
            self.down += [_conv(channels, width[level]), _conv(width[level], width[level])]
            channels = width[level]
        self.middle = nn.ModuleList(
            [_conv(channels, width[n_depth]), _conv(width[n_depth], channels)]
        )
        for level in reversed(range(n_depth)):
            self.up += [
                _conv(channels + width[level], width[level]),
                _conv(width[level], width[max(0, level - 1)]),
            ]
            channels = width[max(0, level - 1)]
        self.features = _conv(channels, n_features)
        self.probability = _conv(n_features, 1, size=1)
        self.distance = _conv(n_features, n_rays, size=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StarDistNet:
        """Build the network that StarDist's ``config.json`` describes."""
        return cls(
            n_rays=config["n_rays"],
            grid=config["grid"][0],
            n_filter_base=config["unet_n_filter_base"],
            n_depth=config["unet_n_depth"],
            n_features=config["net_conv_after_unet"],
        )

    def convolutions(self) -> list[nn.Conv2d]:
        """Return all convolutions in the order of the Keras model's layers."""
        inner = [*self.strided, *self.down, *self.middle, *self.up]
        return [*inner, self.features, self.probability, self.distance]  # type: ignore[list-item]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Predict from normalized images.

        Parameters
        ----------
        image : Tensor, shape (B, 1, H, W)
            H and W divisible by grid x 2^depth.

        Returns
        -------
        logits : Tensor, shape (B, 1, H / grid, W / grid)
            Object probability before the sigmoid, which the Keras model includes.
        distances : Tensor, shape (B, n_rays, H / grid, W / grid)
            Pixels of the full-size image.
        """
        hidden = image
        for i in range(self.n_poolings):
            for layer in self.strided[2 * i : 2 * i + 2]:
                hidden = relu(layer(hidden))
            hidden = max_pool2d(hidden, 2)  # H, W -> H / 2, W / 2
        skips = []
        for level in range(self.n_depth):
            for layer in self.down[2 * level : 2 * level + 2]:
                hidden = relu(layer(hidden))
            skips.append(hidden)
            hidden = max_pool2d(hidden, 2)  # H, W -> H / 2, W / 2
        for layer in self.middle:
            hidden = relu(layer(hidden))
        for step in range(self.n_depth):
            hidden = nn.functional.interpolate(hidden, scale_factor=2.0)  # H / 2, W / 2 -> H, W
            hidden = torch.cat([hidden, skips.pop()], dim=1)
            for layer in self.up[2 * step : 2 * step + 2]:
                hidden = relu(layer(hidden))
        hidden = relu(self.features(hidden))
        return self.probability(hidden), self.distance(hidden)

    def keras_weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (kernel, bias) of each convolution with Keras's order of axes, float32."""
        return [
            (
                layer.weight.detach().float().cpu().numpy().transpose(2, 3, 1, 0),
                layer.bias.detach().float().cpu().numpy(),  # type: ignore[union-attr]
            )
            for layer in self.convolutions()
        ]

    def load_keras_weights(self, weights: KerasWeights) -> None:
        """
        Copy (kernel, bias) pairs, as `keras_weights` returns them, into the network.

        Raises
        ------
        ValueError
            If their number or a shape is not this network's.
        """
        layers = self.convolutions()
        if len(layers) != len(weights):
            raise ValueError(f"{len(weights)} convolutions given, the network has {len(layers)}")
        with torch.no_grad():
            for layer, (kernel, bias) in zip(layers, weights, strict=True):
                moved = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
                if moved.shape != layer.weight.shape:
                    raise ValueError(f"kernel {kernel.shape} for weights {layer.weight.shape}")
                layer.weight.copy_(moved)
                layer.bias.copy_(torch.from_numpy(bias))  # type: ignore[union-attr]


def read_keras_h5(path: Path | str) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    Read the convolutions of a Keras weights file (the older HDF5 layout that StarDist writes).

    Returns
    -------
    weights : list of (kernel, bias)
        float32, in the order of the layers; needs h5py but neither Keras nor TensorFlow.
    """
    import h5py

    weights = []
    with h5py.File(path, "r") as archive:
        names = [
            name.decode() if isinstance(name, bytes) else name
            for name in archive.attrs["layer_names"]
        ]
        for name in names:
            stored = archive[name].attrs["weight_names"]
            if len(stored):
                kernel, bias = (np.asarray(archive[name][key], dtype=np.float32) for key in stored)
                weights.append((kernel, bias))
    return weights


def load_network(folder: Path | str) -> StarDistNet:
    """
    Load the twin of a StarDist model folder (``config.json`` and ``weights_best.h5``).

    Returns
    -------
    network : StarDistNet
        In evaluation mode, on the CPU.
    """
    folder = Path(folder)
    network = StarDistNet.from_config(json.loads((folder / "config.json").read_text()))
    network.load_keras_weights(read_keras_h5(folder / "weights_best.h5"))
    return network.eval()


class TorchStarDist:
    """
    From a normalized image to outlines, as ``StarDist2D.predict_instances`` goes, without Keras.

    Thresholding, suppression of overlapping candidates and geometry are StarDist's own code.

    Parameters
    ----------
    folder : Path or str
        A StarDist model folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = load_network(folder).to(self.device)
        self.thresholds = json.loads((Path(folder) / "thresholds.json").read_text())

    @torch.inference_mode()
    def predict_instances(
        self,
        image: np.ndarray,
        prob_thresh: float | None = None,
        nms_thresh: float | None = None,
        scale: float | None = None,
    ) -> dict[str, np.ndarray]:
        """
        Find objects in an image (H, W), float32.

        Returns
        -------
        found : dict of str to ndarray
            points (n, 2), prob (n,) and coord (n, 2, n_rays), in pixels of `image`.
        """
        from scipy.ndimage import zoom
        from stardist import dist_to_coord
        from stardist.nms import non_maximum_suppression_sparse

        scaled = image if scale is None else zoom(image, scale, order=1)
        grid = 2**self.network.n_poolings
        step = grid * 2**self.network.n_depth
        padded = np.pad(scaled, [(0, -side % step) for side in scaled.shape], mode="reflect")
        batch = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))[None, None]
        logits, distances = self.network(batch.to(self.device))
        probability = logits[0, 0].sigmoid().cpu().numpy()
        radii = distances[0].movedim(0, -1).clamp(min=1e-3).cpu().numpy()
        threshold = self.thresholds["prob"] if prob_thresh is None else prob_thresh
        chosen = probability > threshold
        points = np.argwhere(chosen) * grid
        inside = (points < scaled.shape).all(axis=1)  # not in what was padded
        points, kept, distance, _ = non_maximum_suppression_sparse(
            radii[chosen][inside], probability[chosen][inside], points[inside],
            nms_thresh=self.thresholds["nms"] if nms_thresh is None else nms_thresh,
        )  # fmt: skip
        back = 1.0 if scale is None else 1.0 / scale
        points = points * back
        coord = dist_to_coord(distance, points, scale_dist=(back, back))
        return {"points": points, "prob": kept, "coord": coord}


def save_as_stardist(
    network: StarDistNet, folder: Path | str, thresholds: Mapping[str, float]
) -> None:
    """
    Write a network as a model folder that StarDist's own API loads.

    Parameters
    ----------
    folder : Path or str
        ``config.json``, ``thresholds.json`` and ``weights_best.h5`` are written into it; the
        weights in half precision, which Keras widens again on loading.
    thresholds : mapping
        ``prob`` and ``nms``, as ``StarDist2D.optimize_thresholds`` finds them.

    Notes
    -----
    Needs TensorFlow: the file is laid out by Keras itself.
    """
    from stardist.models import Config2D, StarDist2D

    folder = Path(folder)
    config = Config2D(
        grid=(2**network.n_poolings,) * 2,
        n_rays=network.distance.out_channels,
        unet_n_filter_base=network.down[0].out_channels,
        unet_n_depth=network.n_depth,
        net_conv_after_unet=network.features.out_channels,
    )
    model = StarDist2D(config, name=folder.name, basedir=str(folder.parent))
    layers = [layer for layer in model.keras_model.layers if layer.weights]
    for layer, pair in zip(layers, network.keras_weights(), strict=True):
        layer.set_weights(list(pair))
    whole = folder / "weights_whole.h5"
    model.keras_model.save_weights(str(whole))
    _halve(whole, folder / "weights_best.h5")
    whole.unlink()
    (folder / "thresholds.json").write_text(json.dumps(dict(thresholds)) + "\n")


def _halve(whole: Path, half: Path) -> None:
    import h5py

    def copy(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            target.create_dataset(name, data=item[()].astype(np.float16))
        else:
            target.require_group(name).attrs.update(item.attrs)

    with h5py.File(whole, "r") as source, h5py.File(half, "w") as target:
        target.attrs.update(source.attrs)
        source.visititems(copy)
