"""3 x 3 convolution by Winograd's minimal filtering F(4 x 4, 3 x 3), on a CPU, with gradients.

A tile of 4 x 4 outputs takes 36 products for each pair of channels instead of 144 [1]_. Tiles are filtered in runs that
fit into the cache: gather, transform, 36 matrix products, transform back, each one call.

References
----------
.. [1] Lavin, Gray. Fast algorithms for convolutional neural networks. CVPR 2016.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# input, kernel and output transform along one axis, for the points 0, 1, -1, 2, -2, infinity
INPUT = np.array([
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
])  # fmt: skip
KERNEL = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

RUN = 128  # tiles filtered at once: 36 x 128 x 64 floats are 1.2 MB
LEAST_CHANNELS = 32  # below, or in smaller maps, the library's convolution is as fast
LEAST_PIXELS = 256


def conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reflect: bool = False, relu: bool = False
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
    relu
        Set negative outputs to zero.

    Returns
    -------
    Tensor
        Shape (B, O, H, W), channels last where Winograd's form is used: in float32 on a CPU outside autocast, from 32
        channels and 256 pixels on. Elsewhere the library's convolution is called. The results agree up to rounding, a
        few parts in a million of the largest output.
    """
    if not _worthwhile(x, weight):
        return _library(x, weight, bias, reflect, relu)
    bias = x.new_zeros(1, weight.shape[1]) if bias is None else bias
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    y = (
        _Winograd.apply(nhwc, weight, bias, reflect, relu)
        if torch.is_grad_enabled()
        else _filtered(nhwc, weight, bias, reflect, relu)
    )
    return y.permute(0, 3, 1, 2)


def _worthwhile(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and min(weight.shape[1:3]) >= LEAST_CHANNELS
        and x.shape[2] * x.shape[3] >= LEAST_PIXELS
    )


def _library(x: Tensor, weight: Tensor, bias: Tensor | None, reflect: bool, relu: bool) -> Tensor:
    padding = 0 if reflect else 1
    x = F.pad(x, (1, 1, 1, 1), mode="reflect") if reflect else x
    if len(weight) == 1:
        y = F.conv2d(x, weight[0], None if bias is None else bias[0], padding=padding)
    else:
        biases = [None] * len(x) if bias is None else bias.unbind()
        parts = [F.conv2d(x[i : i + 1], weight[i], biases[i], padding=padding) for i in range(len(x))]
        y = torch.cat(parts)
    return F.relu(y) if relu else y


@cache
def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Both axes at once: input (36, 36), kernel (36, 9), output (16, 36)."""
    return tuple(torch.from_numpy(np.kron(one, one)).float() for one in (INPUT, KERNEL, OUTPUT))


def _spectrum(weight: Tensor) -> Tensor:
    """Kernels (O, C, 3, 3) in Winograd's domain, shape (36, C, O)."""
    out, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(9, channels * out)
    return (_transforms()[1] @ taps).view(36, channels, out)


def _padded(x: Tensor, pad: int, reflect: bool) -> Tensor:
    """Map (H, W, C) with its border, and zeros below and right so that 4 x 4 tiles cover every output."""
    height, width, channels = x.shape
    rows, columns = (-(-(side + 2 * pad - 2) // 4) for side in (height, width))
    full = x.new_zeros(4 * rows + 2, 4 * columns + 2, channels)
    full[pad : pad + height, pad : pad + width] = x
    if reflect:
        full[0], full[height + 1] = full[2], full[height - 1]
        full[:, 0], full[:, width + 1] = full[:, 2], full[:, width - 1]
    return full


def _runs(rows: int, columns: int) -> Iterator[tuple[slice, slice, int]]:
    """Rectangles of tiles, at most `RUN` tiles where possible, with their number of tiles."""
    across = min(columns, RUN)
    down = max(1, RUN // across)
    for row in range(0, rows, down):
        for column in range(0, columns, across):
            r, c = slice(row, min(rows, row + down)), slice(column, min(columns, column + across))
            yield r, c, (r.stop - r.start) * (c.stop - c.start)


def _gathered(full: Tensor, r: slice, c: slice) -> Tensor:
    """Transformed input tiles of a run, shape (36, tiles, C)."""
    line, step = full.stride(0), full.stride(1)
    shape = (6, 6, r.stop - r.start, c.stop - c.start, full.shape[2])
    tiles = full.as_strided(
        shape, (line, step, 4 * line, 4 * step, 1), full.storage_offset() + 4 * (r.start * line + c.start * step)
    )
    return (_transforms()[0] @ tiles.reshape(36, -1)).view(36, -1, full.shape[2])


def _correlate(
    x: Tensor, spectrum: Tensor, bias: Tensor | None, pad: int, *, reflect: bool = False, relu: bool = False
) -> Tensor:
    """Map (H, W, C) with the kernels of `_spectrum`, shape (H + 2 pad - 2, W + 2 pad - 2, O)."""
    full, out = _padded(x, pad, reflect), spectrum.shape[2]
    rows, columns = (full.shape[0] - 2) // 4, (full.shape[1] - 2) // 4
    y, back = x.new_empty(rows, 4, columns, 4, out), _transforms()[2]
    for r, c, tiles in _runs(rows, columns):
        products = torch.bmm(_gathered(full, r, c), spectrum).view(36, tiles * out)
        part = back @ products if bias is None else torch.addmm(bias.repeat(tiles), back, products)
        part = part.relu_() if relu else part
        y[r, :, c] = part.view(4, 4, r.stop - r.start, c.stop - c.start, out).permute(2, 0, 3, 1, 4)
    return y.view(4 * rows, 4 * columns, out)[: x.shape[0] + 2 * pad - 2, : x.shape[1] + 2 * pad - 2]


def _filtered(x: Tensor, weight: Tensor, bias: Tensor, reflect: bool, relu: bool) -> Tensor:
    """The convolution of a batch (B, H, W, C), shape (B, H, W, O)."""
    spectra = [_spectrum(one) for one in weight]
    parts = [
        _correlate(one, spectra[i % len(spectra)], bias[i % len(bias)], 1, reflect=reflect, relu=relu)
        for i, one in enumerate(x)
    ]
    return torch.stack(parts) if len(parts) > 1 else parts[0][None].contiguous()


def _weight_gradient(x: Tensor, grad: Tensor, reflect: bool) -> Tensor:
    """Gradient of one sample's kernels, shape (O, C, 3, 3), from its map (H, W, C) and that of the output."""
    full, out, channels = _padded(x, 1, reflect), grad.shape[2], x.shape[2]
    rows, columns = (full.shape[0] - 2) // 4, (full.shape[1] - 2) // 4
    blocks = F.pad(grad, (0, 0, 0, 4 * columns - grad.shape[1], 0, 4 * rows - grad.shape[0]))
    blocks = blocks.view(rows, 4, columns, 4, out)
    total, back = x.new_zeros(36, channels, out), _transforms()[2]
    for r, c, tiles in _runs(rows, columns):
        products = back.T @ blocks[r, :, c].permute(1, 3, 0, 2, 4).reshape(16, -1)
        total.baddbmm_(_gathered(full, r, c).transpose(1, 2), products.view(36, tiles, out))
    taps = _transforms()[1].T @ total.view(36, -1)
    return taps.view(3, 3, channels, out).permute(3, 2, 0, 1)


def _input_gradient(spectrum: Tensor, grad: Tensor, reflect: bool) -> Tensor:
    """Gradient of one sample's map; what reached the reflected border is added where it came from."""
    if not reflect:
        return _correlate(grad, spectrum, None, 1)
    g = _correlate(grad, spectrum, None, 2)
    for one in (g.transpose(0, 1), g):
        one[2] += one[0]
        one[-3] += one[-1]
    return g[1:-1, 1:-1]


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, reflect: bool, relu: bool) -> Tensor:
        y = _filtered(x, weight, bias, reflect, relu)
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.reflect, ctx.biases = reflect, len(bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight, y = ctx.saved_tensors
        grad = grad.contiguous() if y is None else grad * (y > 0)
        per_sample = len(weight) > 1 or len(x) == 1
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            turned = [_spectrum(one.flip(2, 3).transpose(0, 1)) for one in weight]
            grad_x = torch.stack([_input_gradient(turned[i % len(turned)], g, ctx.reflect) for i, g in enumerate(grad)])
        if ctx.needs_input_grad[1]:
            each = (_weight_gradient(one, g, ctx.reflect) for one, g in zip(x, grad, strict=True))
            grad_weight = torch.stack(list(each)) if per_sample else sum(each)[None]
        grad_bias = grad.sum((1, 2))
        return grad_x, grad_weight, grad_bias if ctx.biases == len(x) else grad_bias.sum(0, keepdim=True), None, None
