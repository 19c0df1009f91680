"""Multi without an axis of level sets in memory: a scalar function of alpha, tabulated and interpolated.

With level sets that all channels share, the response of Multi (Martins, Coimbra, Renna 2025, equations 23 to 25) is one
function of one number. It is computed by the exact form on a grid of alpha and read off by linear
interpolation; the gradient of the grid is a weighted count of the map's. Neither time nor memory depends on Q.
"""

import torch
from torch import Tensor

from medrepro.multifractal.exponent_gradients import SlopeSettings, again, exponents_of, keep
from medrepro.multifractal.maps import blocks_of_planes
from medrepro.multifractal.measure import planes_of
from medrepro.multifractal.tabulated import Reader, read

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


def _places(block: Tensor, low: Tensor, step: Tensor, room: Tensor) -> Tensor:
    """Places of a block of a map, flat, in `room`."""
    return torch.sub(block.reshape(-1), low, out=room[: block.numel()]).div_(step)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alpha: Tensor, table: Tensor, low: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, table, low, step)
        values = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        blocks = blocks_of_planes(alpha)
        reader, room = _reader(table, step, blocks[0])
        for block, out in zip(blocks, blocks_of_planes(values), strict=True):
            reader.values(_places(block, low, step, room), out.view(-1))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        alpha, table, low, step = ctx.saved_tensors
        to_alpha = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        parts = [blocks_of_planes(part) for part in (alpha, grad, to_alpha)]
        reader, room = _reader(table, step, parts[0][0])
        for block, upstream, out in zip(*parts, strict=True):
            reader.gradient(_places(block, low, step, room), upstream.reshape(-1), out.view(-1))
        return to_alpha, reader.counts.to(table.dtype), None, None


def _reader(table: Tensor, step: Tensor | float, block: Tensor) -> tuple[Reader, Tensor]:
    """A reader of the table for blocks of at most this size, and room for places."""
    return Reader(table, step, block, block.numel()), block.new_empty(block.numel())


class LevelMap(torch.autograd.Function):
    """A tabulated function of the exponents of a map, without a map of exponents in memory.

    The table holds the function at 0, step, 2 step, ...; with `plus_map` its value is added to the map itself.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx, x: Tensor, c: Tensor, how: SlopeSettings, table: Tensor, step: float, plus_map: bool
    ) -> Tensor:
        exponents = exponents_of(planes_of(x), c, how)
        entries = exponents.entries(table, step, plus_map=plus_map)
        keep(ctx, exponents, c, table)
        ctx.step, ctx.plus_map = step, plus_map
        return entries.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None, Tensor, None, None]:  # noqa: D102
        exponents, (table,) = again(ctx)
        to_planes, to_c, to_table = exponents.gradient_of_entries(
            table, ctx.step, planes_of(grad), plus_map=ctx.plus_map, to_c=ctx.needs_input_grad[1]
        )
        return to_planes.view(grad.shape), to_c, None, to_table.to(table.dtype), None, None


class _SoftCounts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alpha: Tensor, low: Tensor, step: Tensor, points: int) -> Tensor:
        ctx.save_for_backward(alpha, low, step)
        blocks = blocks_of_planes(alpha)
        reader, room = _reader(alpha.new_zeros(points, dtype=torch.float64), step, blocks[0])
        ones = torch.ones_like(room)
        for block in blocks:
            places = _places(block, low, step, room)
            reader.count(reader.left_of(places), ones[: len(places)], places)
        return reader.counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        alpha, low, step = ctx.saved_tensors
        to_alpha = torch.empty_like(alpha, memory_format=torch.contiguous_format)
        blocks = blocks_of_planes(alpha)
        reader, room = _reader(grad, step, blocks[0])
        for block, out in zip(blocks, blocks_of_planes(to_alpha), strict=True):
            read(reader.slopes, reader.left_of(_places(block, low, step, room)), out.view(-1))
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
