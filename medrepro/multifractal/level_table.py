"""Multi without an axis of level sets in memory: a scalar function of alpha, tabulated and interpolated.

With level sets that all channels share, the response of Multi (Martins, Coimbra, Renna 2025, equations 23 to 25) is one
function of one number. It is computed by ordinary differentiable code on a grid of alpha and read off by linear
interpolation; the gradient of the grid is a weighted count of the map's. Neither time nor memory depends on Q.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

POINTS = 16384
BLOCK = 1 << 18  # entries that are worked on at a time on a CPU: their few maps fit in the cache


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


class _Places:
    """Grid point to the left of every value, and how far the value lies beyond it in steps, block after block."""

    def __init__(self, alpha: Tensor, low: Tensor, step: Tensor, points: int) -> None:
        self.flat = alpha.reshape(-1)
        self.low, self.scale, self.last = float(low), float(1 / step), points - 2
        self.size = min(BLOCK, max(1, len(self.flat))) if alpha.device.type == "cpu" else max(1, len(self.flat))
        self.room = torch.empty_like(self.flat[: self.size])

    def blocks(self, *others: Tensor) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
        """Left grid points, shares of a step beyond them, and the same block of other maps."""
        for block, *parts in zip(*(each.reshape(-1).split(self.size) for each in (self.flat, *others)), strict=True):
            beyond = torch.sub(block, self.low, out=self.room[: len(block)]).mul_(self.scale)
            left = beyond.long().clamp_(0, self.last)
            yield left, beyond.sub_(left), tuple(parts)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alpha: Tensor, table: Tensor, low: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, table, low, step)
        values = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        heights, rises = table.to(alpha.dtype), table.diff().to(alpha.dtype)
        for left, beyond, (out,) in _Places(alpha, low, step, len(table)).blocks(values):
            torch.index_select(heights, 0, left, out=out)
            out.addcmul_(rises.index_select(0, left), beyond)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        alpha, table, low, step = ctx.saved_tensors
        to_alpha = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        counts = torch.zeros(2, len(table), dtype=table.dtype, device=table.device)
        slopes = (table.diff() / step).to(alpha.dtype)
        for left, beyond, (upstream, out) in _Places(alpha, low, step, len(table)).blocks(grad, to_alpha):
            torch.mul(slopes.index_select(0, left), upstream, out=out)
            part = torch.zeros(2, len(table), dtype=alpha.dtype, device=alpha.device)
            part[0].scatter_add_(0, left, upstream)
            part[1].scatter_add_(0, left, beyond.mul_(upstream))
            counts += part
        return to_alpha, _shared(counts), None, None


def _shared(counts: Tensor) -> Tensor:
    """Weights of the grid points, from those of the intervals: all of it, and the part that goes to the right end."""
    everything, to_right = counts
    weights = everything - to_right
    weights[1:] += to_right[:-1]
    return weights


class _SoftCounts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alpha: Tensor, low: Tensor, step: Tensor, points: int) -> Tensor:
        ctx.save_for_backward(alpha, low, step)
        counts = torch.zeros(2, points, dtype=torch.float64, device=alpha.device)
        for left, beyond, _ in _Places(alpha, low, step, points).blocks():
            counts[0] += torch.bincount(left, None, points)
            counts[1] += torch.bincount(left, beyond, points)
        return _shared(counts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        alpha, low, step = ctx.saved_tensors
        to_alpha = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        slopes = (grad.diff() / step).to(alpha.dtype)
        for left, _, (out,) in _Places(alpha, low, step, len(grad)).blocks(to_alpha):
            torch.index_select(slopes, 0, left, out=out)
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
