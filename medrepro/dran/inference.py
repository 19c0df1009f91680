"""Denoise images with a trained network: batch norm at test time, self-ensemble, tiles (Sharif, Naqvi, Biswas 2020).

The authors' inference never leaves training mode, so that batch norm uses the statistics of the one test image; here
that is ``statistics="image"``, and running statistics are the default.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from medrepro.dran.network import DRAN

Predict = Callable[[Tensor], Tensor]

STATISTICS = ("running", "image")
ATTENTIONS = ("whole", "tile")


def denoise(
    model: nn.Module,
    image: np.ndarray,
    *,
    value_range: tuple[float, float] | None = None,
    statistics: str = "running",
    ensemble: bool = False,
    tile: int | None = None,
    attention: str = "whole",
) -> np.ndarray:
    """Denoised image in the type and range of the noisy one.

    Parameters
    ----------
    model
        Predicts the noise of an image in [-1, 1], e.g. a `DRAN`.
    image
        Noisy image, shape (H, W) for a grey model, (H, W, C) else; uint8, or floats in `value_range`.
    value_range
        Black and white of `image`: (0, 255) for uint8, which needs no mention, (0, 1) for floats if not given. Noise
        may exceed it.
    statistics
        Batch norm by ``running`` statistics, or by those of this ``image``, as the authors' code does.
    ensemble
        Average over the eight flips and rotations: eight times the work, exactly equivariant.
    tile
        Side of tiles in pixels, for images that do not fit into memory; see `tiled`.
    attention
        Of tiles: ``whole`` or ``tile``, see `tiled`.

    Returns
    -------
    ndarray
        Same shape; uint8 for uint8 (`to_uint8`'s rounding), else float32 clipped to `value_range`.

    Raises
    ------
    ValueError
        NaN; values far outside `value_range`; channels that the model does not take; a side below 2; tiles together
        with ``statistics="image"``.
    """
    _among("statistics", statistics, STATISTICS)
    if tile is not None and statistics == "image":
        raise ValueError("tiles have statistics of their own: use statistics='running' with tile")
    v, (low, high) = _network_input(model, image, value_range)
    predict: Predict = model if tile is None else lambda x: tiled(model, x, tile=tile, attention=attention)
    if ensemble:
        predict = self_ensemble(predict)
    with torch.no_grad(), batch_norm(model, statistics):
        result = ((v - predict(v))[0].permute(1, 2, 0).cpu().numpy() + 1) / 2
    result = np.clip(result.reshape(image.shape), 0, 1)
    if image.dtype == np.uint8:
        return np.floor(255 * result + 0.5).astype(np.uint8)
    return (low + (high - low) * result).astype(np.float32)


def denoise_batch(model: nn.Module, noisy: Tensor, *, statistics: str = "running") -> Tensor:
    """Denoised images, not clipped, of noisy ones (B, C, H, W) with intensities in [0, 1]."""
    _among("statistics", statistics, STATISTICS)
    v = 2 * noisy - 1
    with torch.no_grad(), batch_norm(model, statistics):
        parts = v.split(1) if statistics == "image" else [v]
        noise = torch.cat([model(part) for part in parts])
    return (v - noise + 1) / 2


@contextmanager
def batch_norm(model: nn.Module, statistics: str) -> Iterator[None]:
    """Within, batch norm uses its ``running`` statistics or those of the batch (``image``); none are updated."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if statistics == "image" and not norms:
        raise ValueError("a fused network holds running statistics only: use statistics='running'")
    modes = [(module, module.training) for module in model.modules()]
    tracked = [norm.track_running_stats for norm in norms]
    model.eval()
    try:
        if statistics == "image":
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, flag in zip(norms, tracked, strict=True):
            norm.track_running_stats = flag


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Recompute running statistics as the plain average over batches, e.g. 50 after training; returns their number.

    Parameters
    ----------
    model
        Network with batch norm; its statistics are replaced, its mode is kept.
    batches
        Noisy images in [-1, 1], each (B, C, H, W).

    Raises
    ------
    ValueError
        There is no batch.
    """
    listed = list(batches)
    if not listed:
        raise ValueError("recalibration needs at least one batch of noisy images")
    torch.optim.swa_utils.update_bn(listed, model)
    return len(listed)


def self_ensemble(predict: Predict) -> Predict:
    """Predictor averaged over the eight symmetries of the square: it commutes with flips and quarter turns."""

    def averaged(image: Tensor) -> Tensor:
        total = torch.zeros_like(image)
        for turns in range(4):
            turned = torch.rot90(image, turns, (2, 3))
            total += torch.rot90(predict(turned), -turns, (2, 3))
            total += torch.rot90(predict(turned.flip(3)).flip(3), -turns, (2, 3))
        return total / 8

    return averaged


def tiled(model: DRAN, image: Tensor, *, tile: int = 256, halo: int | None = None, attention: str = "whole") -> Tensor:
    """Predicted noise, computed tile by tile.

    Parameters
    ----------
    model
        The network, fused or not, in eval mode.
    image
        Shape (B, C, H, W), in [-1, 1].
    tile
        Side of the part of a tile that is kept, in pixels.
    halo
        Pixels around it that are computed and dropped; `DRAN.radius` if not given, which loses nothing.
    attention
        ``whole``: the attention of the whole image, gathered layer by layer over the tiles, so that the result is that
        of the whole image. ``tile``: each tile has its own, one pass, and the result differs a little.

    Raises
    ------
    ValueError
        `tile` below 2; `halo` negative; unknown `attention`.

    Notes
    -----
    Layer n's attention needs the mean of its input, so ``whole`` walks n layers for the nth of N attentions: about
    (N + 1) / 2 times the work of one pass. Memory stays that of one tile.
    """
    _among("attention", attention, ATTENTIONS)
    halo = model.radius if halo is None else halo
    if tile < 2 or halo < 0:
        raise ValueError(f"tile is {tile}, halo is {halo}: tiles are at least 2 pixels wide, halos not negative")
    parts = list(_tiles(image.shape[2:], tile, halo))
    a = _whole_attention(model, image, parts) if attention == "whole" else None
    noise = torch.empty_like(image)
    for outer, inner, place in parts:
        noise[(..., *place)] = model(image[(..., *outer)], attention=a)[(..., *inner)]
    return noise


def _whole_attention(model: DRAN, image: Tensor, parts: list) -> Tensor:
    """Attention of every dynamic convolution over the whole image, from tiles, shape (N, B, K)."""
    known = image.new_empty(0, len(image), model.kernels)
    area = image.shape[2] * image.shape[3]
    for n in range(model.num_attentions):
        sums = 0
        for outer, inner, _ in parts:
            sums = sums + model.layer_input(image[(..., *outer)], known)[(..., *inner)].sum((2, 3), keepdim=True)
        layer = model.blocks[n // model.num_layers % len(model.blocks)][n % model.num_layers]
        known = torch.cat([known, layer.attention(sums / area)[None]])
    return known


def _tiles(size: tuple[int, int], tile: int, halo: int) -> Iterator[tuple[tuple, tuple, tuple]]:
    """Slices of every tile: with halo in the image, its core in itself, its core in the image."""
    axes = []
    for side in size:
        starts = list(range(0, side, tile))
        if len(starts) > 1 and side - starts[-1] + halo < 2:  # a last tile of one pixel has nothing to reflect
            starts.pop()
        axis = []
        for start, stop in zip(starts, [*starts[1:], side], strict=True):
            first, last = max(0, start - halo), min(side, stop + halo)
            axis.append((slice(first, last), slice(start - first, stop - first), slice(start, stop)))
        axes.append(axis)
    for row in axes[0]:
        for column in axes[1]:
            yield tuple(zip(row, column, strict=True))


def _network_input(model: nn.Module, image: np.ndarray, value_range: tuple | None) -> tuple[Tensor, tuple]:
    """Image as (1, C, H, W) in [-1, 1] and its range."""
    image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(f"an image has shape (H, W) or (H, W, C), got {image.shape}")
    channels, wanted = (1 if image.ndim == 2 else image.shape[2]), getattr(model, "in_channels", None)
    if wanted not in (None, channels):
        raise ValueError(
            f"the image of shape {image.shape} has {channels} channel(s), the model takes {wanted}: use a model "
            f"built with in_channels={channels}, or stack or average the channels"
        )
    if image.dtype == np.uint8:
        low, high = (0, 255) if value_range is None else value_range
    elif np.issubdtype(image.dtype, np.floating):
        low, high = (0.0, 1.0) if value_range is None else value_range
    else:
        raise ValueError(f"the image is of type {image.dtype}: give uint8, or floats with their value_range")
    if not np.isfinite(image).all():
        raise ValueError("the image has NaN or infinite entries: mend them before denoising")
    # choice: noise may leave the range by its own width at one pixel in 200
    least, most = np.quantile(image, [0.005, 0.995])
    if high <= low or least < 2 * low - high or most > 2 * high - low:
        raise ValueError(
            f"values from {least:.4g} to {most:.4g} do not fit value_range ({low}, {high}): name the range"
        )
    scaled = (image.astype(np.float32) - low) / (high - low) * 2 - 1
    place = next(model.parameters(), next(model.buffers(), torch.zeros(())))
    return torch.from_numpy(np.atleast_3d(scaled)).permute(2, 0, 1)[None].to(place.device, torch.float32), (low, high)


def _among(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(known)}")
