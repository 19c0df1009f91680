"""3 x 3 convolution by Winograd's minimal filtering F(4 x 4, 3 x 3), on a CPU, with gradients.

A tile of 4 x 4 outputs takes 36 products for each pair of channels instead of 144 [1]_. Tiles are filtered in runs that
fit into the cache: gather, transform, 36 matrix products, transform back, each one call.

References
----------
.. [1] Lavin, Gray. Fast algorithms for convolutional neural networks. CVPR 2016.
"""

from collections.abc import Callable, Iterator
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

RUN = 64  # tiles filtered at once: 36 x 64 x 64 floats are 0.6 MB; 128 measured no faster, 256 slower
LEAST_CHANNELS = 48  # below, or in smaller maps, the library's convolution is as fast
LEAST_PIXELS = 256

After = Callable[[Tensor], Tensor]


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
        For inference: applied to the output while it is in the cache, pixel by pixel, on tensors (..., O); it may
        change its argument and the number of channels.

    Returns
    -------
    Tensor
        Shape (B, O, H, W), channels last where Winograd's form is used: in float32 or float64 on a CPU outside
        autocast, from 48 channels and 256 pixels on. Elsewhere the library's convolution is called. The results agree
        up to rounding, a few parts in a million of the largest output.
    """
    if not worthwhile(x, weight):
        y = _library(x, weight, bias, reflect)
        return y if after is None else after(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    bias = x.new_zeros(1, weight.shape[1]) if bias is None else bias
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    if after is None and torch.is_grad_enabled():
        y = _Differentiable.apply(nhwc, weight, bias, reflect)
    else:
        y = _filtered(nhwc, weight, bias, reflect, after)
    return y.permute(0, 3, 1, 2)


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
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Input along one axis (6, 6); kernel (36, 9) and output (16, 36) along both."""
    return tuple(torch.tensor(one, dtype=dtype) for one in (INPUT, np.kron(KERNEL, KERNEL), np.kron(OUTPUT, OUTPUT)))


def _spectrum(weight: Tensor) -> Tensor:
    """Kernels (O, C, 3, 3) in Winograd's domain, shape (36, C, O)."""
    out, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(9, channels * out)
    return (_transforms(weight.dtype)[1] @ taps).view(36, channels, out)


def _tiles(x: Tensor, pad: int) -> tuple[int, int]:
    """Rows and columns of 4 x 4 tiles that cover every output of a map (H, W, C) with a border."""
    rows, columns = (-(-(side + 2 * pad - 2) // 4) for side in x.shape[:2])
    return rows, columns


def _spectra(x: Tensor, pad: int, reflect: bool) -> Iterator[tuple[slice, Tensor]]:
    """Transformed input tiles of a map (H, W, C), some rows of tiles at once: the rows, and (36, tiles, C)."""
    channels = x.shape[2]
    rows, columns = _tiles(x, pad)
    down = max(1, RUN // columns)
    transform = _transforms(x.dtype)[0]
    strip = x.new_zeros(4 * down + 2, 4 * columns + 2, channels)  # input rows of a run, with the border
    line = strip.stride(0)
    for first in range(0, rows, down):
        r = slice(first, min(rows, first + down))
        _fill(strip, x, 4 * first - pad, pad, reflect)
        lines = strip.as_strided((r.stop - first, 6, line), (4 * line, line, 1))
        half = torch.matmul(transform, lines)  # (tile rows, 6, columns and channels)
        shape = (6, 6, r.stop - first, columns, channels)
        taps = half.as_strided(shape, (line, channels, 6 * line, 4 * channels, 1)).reshape(6, 6, -1)
        yield r, torch.matmul(transform, taps).view(36, -1, channels)


def _fill(strip: Tensor, x: Tensor, top: int, pad: int, reflect: bool) -> None:
    """Input rows from `top` on, which may be outside, with the columns' border."""
    height, width, _ = x.shape
    low, high = max(0, top), min(height, top + len(strip))
    inner = strip[:, pad : pad + width]
    inner[: low - top].zero_()
    inner[low - top : high - top] = x[low:high]
    inner[high - top :].zero_()
    if not reflect:
        return
    for outside, source in ((-1, 1), (height, height - 2)):
        if 0 <= outside - top < len(strip):
            inner[outside - top] = x[source]
    strip[:, 0], strip[:, width + 1] = strip[:, 2], strip[:, width - 1]


def _correlate(
    x: Tensor,
    spectrum: Tensor,
    bias: Tensor | None,
    pad: int,
    *,
    reflect: bool = False,
    after: After | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """Map (H, W, C) with the kernels of `_spectrum`, shape (4 rows, 4 columns, O) of tiles, written to `into`."""
    rows, columns = _tiles(x, pad)
    out, back = spectrum.shape[2], _transforms(x.dtype)[2]
    y = x.new_empty(4 * rows, 4 * columns, out) if into is None else into
    blocks = y.view(rows, 4, columns, 4, y.shape[2])
    repeated = None if bias is None else bias.repeat(columns * max(1, RUN // columns))
    for r, tiles in _spectra(x, pad, reflect):
        products = torch.bmm(tiles, spectrum).view(36, -1)
        part = back @ products if repeated is None else torch.addmm(repeated[: products.shape[1]], back, products)
        part = part.view(4, 4, r.stop - r.start, columns, out)
        blocks[r] = (part if after is None else after(part)).permute(2, 0, 3, 1, 4)
    return y


def _filtered(x: Tensor, weight: Tensor, bias: Tensor, reflect: bool, after: After | None = None) -> Tensor:
    """The convolution of a batch (B, H, W, C), shape (B, H, W, O)."""
    spectra = [_spectrum(one) for one in weight]
    rows, columns = _tiles(x[0], 1)
    out = weight.shape[1] if after is None else after(x.new_zeros(1, weight.shape[1])).shape[1]
    y = x.new_empty(len(x), 4 * rows, 4 * columns, out)
    for i, one in enumerate(x):
        kernels, start = spectra[i % len(spectra)], bias[i % len(bias)]
        _correlate(one, kernels, start, 1, reflect=reflect, after=after, into=y[i])
    return y[:, : x.shape[1], : x.shape[2]].contiguous()


def _weight_gradient(x: Tensor, grad: Tensor, reflect: bool) -> Tensor:
    """Gradient of one sample's kernels, shape (O, C, 3, 3), from its map (H, W, C) and that of the output."""
    out, channels = grad.shape[2], x.shape[2]
    rows, columns = _tiles(x, 1)
    short = 4 * rows - grad.shape[0], 4 * columns - grad.shape[1]
    blocks = (F.pad(grad, (0, 0, 0, short[1], 0, short[0])) if any(short) else grad).view(rows, 4, columns, 4, out)
    total, back = x.new_zeros(36, channels, out), _transforms(x.dtype)[2]
    for r, tiles in _spectra(x, 1, reflect):
        products = back.T @ blocks[r].permute(1, 3, 0, 2, 4).reshape(16, -1)
        total.baddbmm_(tiles.transpose(1, 2), products.view(36, -1, out))
    taps = _transforms(x.dtype)[1].T @ total.view(36, -1)
    return taps.view(3, 3, channels, out).permute(3, 2, 0, 1)


def _input_gradient(spectrum: Tensor, grad: Tensor, reflect: bool) -> Tensor:
    """Gradient of one sample's map; what reached the reflected border is added where it came from."""
    if not reflect:
        return _correlate(grad, spectrum, None, 1)[: grad.shape[0], : grad.shape[1]]
    g = _correlate(grad, spectrum, None, 2)[: grad.shape[0] + 2, : grad.shape[1] + 2]
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
