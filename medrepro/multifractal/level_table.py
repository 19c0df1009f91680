"""Multi without an axis of level sets in memory: a scalar function of alpha, tabulated and interpolated.

With level sets that all channels share, the response of Multi (Martins, Coimbra, Renna 2025, equations 23 to 25) is one
function of one number. It is computed by the exact form on a grid of alpha and read off by linear
interpolation; the gradient of the grid is a weighted count of the map's. Neither time nor memory depends on Q.
"""

import torch
from torch import Tensor

from medrepro.multifractal.maps import blocks_of_planes

POINTS = 16384


def grid_of(alpha: Tensor, *, bounds: tuple[float, float] | None = None, points: int = POINTS) -> tuple[Tensor, Tensor]:
    """Grid over the values of a map: its first point and its step, two scalars.

    Parameters
    ----------
    alpha
        Map whose range is covered where no `bounds` are given.
    bounds
        Ends of the grid, if they are known beforehand. Values outside are extrapolated.
    points
        Points of the grid, at least 2.

    Returns
    -------
    tuple of Tensor
        First point and step, without gradient, in the dtype of `alpha`. The interpolation of a function g is off by at
        most max |g''| step^2 / 8 (on [0, 6] that is 1.7e-8 max |g''|), and where g has a kink, between the two grid
        points around it, by at most a quarter of step times the change of slope.
    """
    with torch.no_grad():
        low, high = torch.aminmax(alpha) if bounds is None else (alpha.new_tensor(bound) for bound in bounds)
        return low, (high - low).clamp_min(1e-3) / (points - 1)


def _places(alpha: Tensor, low: Tensor, step: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Grid point to the left of every value of a block, flat, and how far the value lies beyond it in steps."""
    beyond = (alpha - low).div_(step).flatten()
    left = beyond.floor().clamp_(0, points - 2)
    return left.int(), beyond.sub_(left)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alpha: Tensor, table: Tensor, low: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, table, low, step)
        values = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        heights, rises = table.to(alpha.dtype), table.diff().to(alpha.dtype)
        for block, out in zip(blocks_of_planes(alpha), blocks_of_planes(values), strict=True):
            left, beyond = _places(block, low, step, len(table))
            torch.mul(rises.index_select(0, left), beyond, out=out.view(-1)).add_(heights.index_select(0, left))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        alpha, table, low, step = ctx.saved_tensors
        to_alpha = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        to_table = torch.zeros_like(table)
        slopes = (table.diff() / step).to(alpha.dtype)
        parts = (blocks_of_planes(part) for part in (alpha, grad, to_alpha))
        for block, upstream, out in zip(*parts, strict=True):
            left, beyond = _places(block, low, step, len(table))
            upstream = upstream.reshape(-1)
            torch.mul(slopes.index_select(0, left), upstream, out=out.view(-1))
            _spread(to_table, left, upstream, beyond.mul_(upstream))
        return to_alpha, to_table, None, None


def _spread(counts: Tensor, left: Tensor, weight: Tensor, to_right: Tensor) -> None:
    """Add the weight of every value to `counts`, `to_right` of it to the grid point to its right, the rest to its left."""
    left = left.long()
    sums = [part.new_zeros(len(counts)).scatter_add_(0, left, part).to(counts.dtype) for part in (weight, to_right)]
    counts += sums[0] - sums[1]
    counts[1:] += sums[1][:-1]


class _SoftCounts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alpha: Tensor, low: Tensor, step: Tensor, points: int) -> Tensor:
        ctx.save_for_backward(alpha, low, step)
        counts = torch.zeros(points, dtype=torch.float64, device=alpha.device)
        for block in blocks_of_planes(alpha):
            left, beyond = _places(block, low, step, points)
            _spread(counts, left, torch.ones_like(beyond), beyond)
        return counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        alpha, low, step = ctx.saved_tensors
        to_alpha = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        slopes = (grad.diff() / step).to(alpha.dtype)
        for block, out in zip(blocks_of_planes(alpha), blocks_of_planes(to_alpha), strict=True):
            out.view(-1).copy_(slopes.index_select(0, _places(block, low, step, len(grad))[0]))
        return to_alpha, None, None, None


def interpolate(alpha: Tensor, table: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """Values of a tabulated function at every entry of a map, linear between grid points.

    Parameters
    ----------
    alpha
        Map, shape (B, C, H, W).
    table
        Function at low, low + step, ..., shape (points,). Gradients reach both.
    low, step
        From `grid_of`.

    Examples
    --------
    >>> alpha = torch.tensor([[[[0.25, 1.5]]]])
    >>> interpolate(alpha, torch.tensor([0.0, 1.0, 4.0]), torch.tensor(0.0), torch.tensor(1.0)).tolist()
    [[[[0.25, 2.5]]]]
    """
    return _Interpolate.apply(alpha, table, low, step)


def soft_counts(alpha: Tensor, low: Tensor, step: Tensor, *, points: int = POINTS) -> Tensor:
    """How often each grid point occurs in a map, a value between two being shared by its distances; shape (points,).

    The sum over the map of an interpolated function is then the sum over the grid of function times counts.

    Examples
    --------
    >>> soft_counts(torch.tensor([[[[0.25, 2.0]]]]), torch.tensor(0.0), torch.tensor(1.0), points=3).tolist()
    [0.75, 0.25, 1.0]
    """
    return _SoftCounts.apply(alpha, low, step, points)
