"""Weights and inputs of the reference values: drawn by NumPy from numbered seeds, in the layout of the authors' framework."""

import numpy as np
import torch
from torch import Tensor, nn

from medrepro.multifractal.recalibration import FCA, SRM, ChannelSE, Mono, Multi, SpatialChannelSE


def draw(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * scale


def statistics(x: Tensor) -> tuple[float, float, float, float]:
    """Mean, population standard deviation, least and largest entry."""
    x = x.detach().double()
    return x.mean().item(), x.std(correction=0).item(), x.min().item(), x.max().item()


def _copy(tensor: Tensor, array: np.ndarray) -> None:
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(array.copy()))


def set_reference_weights(layer: nn.Module, channels: int, *, level: int = 0) -> nn.Module:
    """Weights of a recalibration at one encoder level, for the layers that the reference values cover."""
    if isinstance(layer, ChannelSE | FCA | Mono):
        hidden = channels // 2
        _copy(layer.gate.squeeze.weight, draw(200 + 2 * level, channels, hidden, scale=channels**-0.5).T)
        _copy(layer.gate.excite.weight, draw(201 + 2 * level, hidden, channels, scale=(2 / channels) ** 0.5).T)
    if isinstance(layer, SpatialChannelSE):
        _copy(layer.spatial.weight, draw(300 + level, channels, scale=channels**-0.5).reshape(1, channels, 1, 1))
    if isinstance(layer, SRM):
        _copy(layer.style, np.full(layer.style.shape, 0.5))
    if isinstance(layer, Multi):
        _copy(layer.centres, np.broadcast_to(np.linspace(-2, 2, 16), layer.centres.shape))
        _copy(layer.raw_precisions, np.broadcast_to(np.linspace(0.5, 2, 16), layer.centres.shape))
        _copy(layer.exponent.slope_weights, np.zeros(3))
    return layer
