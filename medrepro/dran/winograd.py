"""3 x 3 convolution by Winograd's minimal filtering F(4 x 4, 3 x 3), on a CPU, with gradients.

A tile of 4 x 4 outputs takes 36 products for each pair of channels instead of 144 [1]_. Tiles are filtered in runs that
fit into the cache: transformed by `winograd_loops`, multiplied in 36 matrix products, transformed back.

References
----------
.. [1] Lavin, Gray. Fast algorithms for convolutional neural networks. CVPR 2016.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# kernel transform along one axis, for the points 0, 1, -1, 2, -2, infinity
KERNEL = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24

RUN = 64  # tiles filtered at once: 36 x 64 x 64 floats are 0.6 MB; 128 measured no faster, 256 slower
LEAST_CHANNELS = 48  # below, or in smaller maps, the library's convolution is as fast
LEAST_PIXELS = 256

LEAK = 0.2  # slope of the leaky ReLU of a gate

After = Literal["relu", "gate"]
AFTER: dict[After | None, Callable[[Tensor], Tensor]] = {None: lambda y: y, "relu": F.relu_, "gate": lambda y: gated(y)}


def conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reflect: bool = False, after: After | None = None
) -> Tensor:
    """Convolution with 3 x 3 kernels, border 1, stride 1; with kernels of its own for each sample where asked for.

    Parameters
    ----------
    x
        Shape (B, C, H, W).
    weight
        Shape (B or 1, O, C, 3, 3).
    bias
        Shape (B or 1, O).
    reflect
        Reflect the border instead of filling it with zeros.
    after
        For inference, done with an output while it is in the cache: ``relu``, or ``gate``, see `gated`.

    Returns
    -------
    Tensor
        Shape (B, O, H, W), or (B, O / 2, H, W) if gated; channels last where Winograd's form is used: in float32 or
        float64 on a CPU outside autocast, from 48 channels and 256 pixels on. Elsewhere the library's convolution is
        called. The results agree up to rounding, a few parts in a million of the largest output.
    """
    if not worthwhile(x, weight) or (after == "gate" and x.dtype == torch.float64):
        return AFTER[after](_library(x, weight, bias, reflect))
    bias = x.new_zeros(1, weight.shape[1]) if bias is None else bias
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    if after is None and torch.is_grad_enabled():
        return _Differentiable.apply(nhwc, weight, bias, reflect).permute(0, 3, 1, 2)
    return _filtered(nhwc.detach(), weight.detach(), bias.detach(), reflect, after).permute(0, 3, 1, 2)


def gated(both: Tensor) -> Tensor:
    """Leaky ReLU of the first half of the channels (B, 2 C, H, W) times the sigmoid of the second."""
    feature, mask = both.chunk(2, 1)
    return F.leaky_relu(feature, LEAK) * torch.sigmoid(mask)


def worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv3x3` takes Winograd's form for these maps and kernels (B or 1, O, C, 3, 3)."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and min(weight.shape[1:3]) >= LEAST_CHANNELS
        and x.shape[2] * x.shape[3] >= LEAST_PIXELS
    )


def _library(x: Tensor, weight: Tensor, bias: Tensor | None, reflect: bool) -> Tensor:
    padding = 0 if reflect else 1
    x = F.pad(x, (1, 1, 1, 1), mode="reflect") if reflect else x
    if len(weight) == 1:
        return F.conv2d(x, weight[0], None if bias is None else bias[0], padding=padding)
    biases = [None] * len(x) if bias is None else bias.unbind()
    return torch.cat([F.conv2d(x[i : i + 1], weight[i], biases[i], padding=padding) for i in range(len(x))])


@cache
def _kernel_transform(dtype: torch.dtype) -> Tensor:
    """Transform of kernels along both axes, (36, 9)."""
    return torch.tensor(np.kron(KERNEL, KERNEL), dtype=dtype)


@cache
def _factors(dtype: torch.dtype) -> np.ndarray:
    """The factors of the other transforms, of the maps' type."""
    return torch.tensor([2, 4, 5, 8], dtype=dtype).numpy()


def _spectrum(weight: Tensor) -> Tensor:
    """Kernels (O, C, 3, 3) in Winograd's domain, shape (36, C, O)."""
    out, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(9, channels * out)
    return (_kernel_transform(weight.dtype) @ taps).view(36, channels, out)


def _runs(rows: int, columns: int, like: Tensor, *channels: int) -> Iterator[tuple[int, list[Tensor]]]:
    """The first tile of each run over the outputs of a map, and room (36, tiles, C) for each number of channels."""
    tiles = -(-rows // 4) * -(-columns // 4)
    rooms = [like.new_empty(36 * min(RUN, tiles) * c) for c in channels]
    for first in range(0, tiles, RUN):
        n = min(RUN, tiles - first)
        yield first, [room[: 36 * n * c].view(36, n, c) for room, c in zip(rooms, channels, strict=True)]


def _correlate(
    x: Tensor, spectrum: Tensor, bias: Tensor, pad: int, *, reflect: bool = False, after: After | None = None
) -> Tensor:
    """Map (H, W, C) with a border of `pad` pixels and the kernels of `_spectrum`."""
    from medrepro.dran import winograd_loops as loops  # imports Numba

    purpose = {None: loops.PLAIN, "relu": loops.RELU, "gate": loops.GATE}[after]
    height, width, channels = x.shape[0] + 2 * pad - 2, x.shape[1] + 2 * pad - 2, spectrum.shape[2]
    y = x.new_empty(height, width, channels // 2 if after == "gate" else channels)
    columns, factors = -(-width // 4), _factors(x.dtype)
    for first, (tiles, products) in _runs(height, width, x, x.shape[2], channels):
        loops.input_tiles(x.numpy(), first, columns, pad, reflect, factors, tiles.numpy())
        torch.bmm(tiles, spectrum, out=products)
        loops.output_tiles(products.numpy(), first, columns, bias.numpy(), purpose, factors, y.numpy())
    return y


def _filtered(x: Tensor, weight: Tensor, bias: Tensor, reflect: bool, after: After | None = None) -> Tensor:
    """The convolution of a batch (B, H, W, C), shape (B, H, W, O)."""
    spectra = [_spectrum(one) for one in weight]
    maps = [
        _correlate(one, spectra[i % len(spectra)], bias[i % len(bias)], 1, reflect=reflect, after=after)
        for i, one in enumerate(x)
    ]
    return maps[0][None] if len(maps) == 1 else torch.stack(maps)


def _weight_gradient(x: Tensor, grad: Tensor, reflect: bool) -> Tensor:
    """Gradient of one sample's kernels, shape (O, C, 3, 3), from its map (H, W, C) and that of the output."""
    from medrepro.dran import winograd_loops as loops

    (height, width, out), channels = grad.shape, x.shape[2]
    columns, factors, total = -(-width // 4), _factors(x.dtype), x.new_zeros(36, channels, out)
    for first, (tiles, products) in _runs(height, width, x, channels, out):
        loops.input_tiles(x.numpy(), first, columns, 1, reflect, factors, tiles.numpy())
        loops.gradient_tiles(grad.numpy(), first, columns, factors, products.numpy())
        total.baddbmm_(tiles.transpose(1, 2), products)
    taps = _kernel_transform(x.dtype).T @ total.view(36, -1)
    return taps.view(3, 3, channels, out).permute(3, 2, 0, 1)


def _input_gradient(spectrum: Tensor, grad: Tensor, reflect: bool) -> Tensor:
    """Gradient of one sample's map; what reached the reflected border is added where it came from."""
    none = grad.new_zeros(spectrum.shape[2])
    if not reflect:
        return _correlate(grad, spectrum, none, 1)
    g = _correlate(grad, spectrum, none, 2)
    for one in (g.transpose(0, 1), g):
        one[2] += one[0]
        one[-3] += one[-1]
    return g[1:-1, 1:-1]


class _Differentiable(torch.autograd.Function):
    """Forward by the library, backward by Winograd's form.

    Rounding in a forward pass flips the ReLUs of inputs near zero, which moves gradients far more than the rounding of
    a backward pass, and the library's channels-last form takes as long.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, reflect: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.reflect, ctx.biases = reflect, len(bias)
        return _library(x.permute(0, 3, 1, 2), weight, bias, reflect).permute(0, 2, 3, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            turned = [_spectrum(one.flip(2, 3).transpose(0, 1)) for one in weight]
            grad_x = torch.empty_like(x)
            for i, g in enumerate(grad):
                grad_x[i] = _input_gradient(turned[i % len(turned)], g, ctx.reflect)
        if ctx.needs_input_grad[1]:
            each = (_weight_gradient(one, g, ctx.reflect) for one, g in zip(x, grad, strict=True))
            grad_weight = torch.stack(list(each)) if len(weight) == len(x) else sum(each)[None]
        grad_bias = grad.sum((1, 2))
        return grad_x, grad_weight, grad_bias if ctx.biases == len(x) else grad_bias.sum(0, keepdim=True), None
