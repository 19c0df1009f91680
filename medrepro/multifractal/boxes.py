"""Masses of square boxes around every pixel, placed as the authors' convolutions place them (commit 3b723cd).

One box side, differentiable twice: `box_mass`. Several sides at once, for the slope of log mass against log side:
`NestedBoxes`, where the boxes of sides 2, 4, 8, ... come from one another by additions.
"""

from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medrepro.multifractal.maps import expect_maps, one_of

Padding = Literal["zero", "reflect", "circular"]

PAD_MODE = {"zero": "constant", "reflect": "reflect", "circular": "circular"}


def pad_for_box(x: Tensor, side: int, *, padding: Padding = "zero") -> Tensor:
    """Pad rows and columns by (side - 1) // 2 before and side // 2 after, so that a valid box of `side` keeps the size.

    Reflection repeats no border pixel and needs more rows and columns than side // 2; a circular border needs as many.
    """
    one_of("padding", padding, tuple(PAD_MODE))
    if side < 1:
        raise ValueError(f"a box side is a positive number of pixels, got {side}")
    before, after = (side - 1) // 2, side // 2
    smallest = {"zero": 1, "reflect": after + 1, "circular": max(after, 1)}[padding]
    if min(x.shape[-2:]) < smallest:
        raise ValueError(
            f"a map of {x.shape[-2]} x {x.shape[-1]} pixels is too small for boxes of side {side} with "
            f"padding={padding!r}, which needs {smallest} x {smallest}: use padding='zero' or smaller scales"
        )
    return F.pad(x, (before, after, before, after), mode=PAD_MODE[padding])


def _running_sum(x: Tensor, side: int, dim: int) -> Tensor:
    """Sums over `side` neighbours along `dim`, at every place where they fit, by doubling: about log2(side) passes."""
    places = x.shape[dim] - side + 1
    total, start, span = None, 0, 1
    while True:
        if side & span:
            piece = x.narrow(dim, start, places)
            total = piece if total is None else total + piece
            start += span
        if 2 * span > side:
            return total
        length = x.shape[dim] - span
        x = x.narrow(dim, 0, length) + x.narrow(dim, span, length)
        span *= 2


def _box_sum(x: Tensor, side: int) -> Tensor:
    return _running_sum(_running_sum(x, side, -1), side, -2)


class _ValidBoxSum(torch.autograd.Function):
    """Box sums where the box fits; the transpose is the same sum of the gradient in a frame of side - 1 zeros."""

    @staticmethod
    def forward(ctx, x: Tensor, side: int) -> Tensor:
        ctx.side = side
        return x.clone() if side == 1 else _box_sum(x, side)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        frame = ctx.side - 1
        return _ValidBoxSum.apply(F.pad(grad, (frame, frame, frame, frame)), ctx.side), None


def box_mass(x: Tensor, side: int, *, padding: Padding = "zero") -> Tensor:
    r"""Mass of the box of `side` pixels around every pixel, in the placement of a 'SAME' convolution.

    .. math:: \mu(B_k(i, j)) = \sum_{a=i-\lfloor (k-1)/2 \rfloor}^{i+\lfloor k/2 \rfloor}
              \ \sum_{b=j-\lfloor (k-1)/2 \rfloor}^{j+\lfloor k/2 \rfloor} x(a, b)

    Parameters
    ----------
    x
        Measure, shape (B, C, H, W).
    side
        Box side k in pixels. Even boxes are nested around the corner to the lower right of the pixel, not around the
        pixel: side 2 covers i and i + 1, side 4 covers i - 1 to i + 2.
    padding
        What lies outside: ``zero`` (the authors' code), ``reflect`` or ``circular``.

    Returns
    -------
    Tensor
        Mass, shape (B, C, H, W), dtype and unit of `x`.

    Raises
    ------
    ValueError
        `side` below 1; a map too small for the padding.

    Notes
    -----
    Additions only, about 4 log2(side) an element; no running total over the image, which float32 would not bear.

    Examples
    --------
    >>> box_mass(torch.ones(1, 1, 3, 3), 2)[0, 0].tolist()
    [[4.0, 4.0, 2.0], [4.0, 4.0, 2.0], [2.0, 2.0, 1.0]]
    """
    expect_maps(x)
    return _ValidBoxSum.apply(pad_for_box(x, side, padding=padding), side)


def _window(x: Tensor, start: int, rows: int, columns: int) -> Tensor:
    return x[..., start : start + rows, start : start + columns]


def _doubled(sums: Tensor, span: int) -> Tensor:
    """Four boxes of side `span` make one of twice that side, in the shape of `sums`; the last rows are of no use."""
    flat, down, into = sums.view(-1), span * sums.shape[-1], torch.empty_like(sums)
    half = flat[:-span] + flat[span:]
    torch.add(half[:-down], half[down:], out=into.view(-1)[: len(half) - down])
    return into


class NestedBoxes:
    """Masses of boxes of several sides around every pixel of planes, and the transpose of that sum.

    Where sides are powers of two, rows lie one behind the other with the frame of zeros between them, and every addition
    is one pass over contiguous numbers: sums across the end of a row land where no box of interest begins.

    Parameters
    ----------
    like
        A tensor of the dtype and device of the planes.
    planes, rows, columns
        Number of planes, and their size.
    sides
        Box sides in pixels, ascending, the last at least 2.
    framed
        Zeros are set around a plane, so that there is a box around every pixel. Otherwise boxes must fit in the plane.
    """

    def __init__(
        self, like: Tensor, planes: int, rows: int, columns: int, sides: tuple[int, ...], *, framed: bool
    ) -> None:
        largest = sides[-1]
        self.sides, self.size = sides, (rows, columns)
        self.before = (largest - 1) // 2 if framed else 0
        frame = largest - 1 if framed else 0
        self.masses_size = rows + frame - largest + 1, columns + frame - largest + 1
        self.doubling = all(side & (side - 1) == 0 for side in sides)
        self.first = [(largest - 1) // 2 - (side - 1) // 2 for side in sides]  # where the box around pixel 0 begins
        self.like, self.padded_shape = like, (planes, rows + frame, columns + frame)
        # around the shares of the widest box there is room for the others: the transpose has its padding mirrored
        self.spread_shape = planes, rows + largest - 1, columns + largest - 1

    @cached_property
    def _padded(self) -> Tensor:
        return self.like.new_zeros(self.padded_shape)

    @property
    def block(self) -> Tensor:
        """Where to write the planes before `masses` is called, shape (planes, rows, columns)."""
        return _window(self._padded, self.before, *self.size)

    def masses(self, eps: float = 0.0) -> list[Tensor]:
        """Masses plus eps of the boxes of all sides, ascending, around every pixel."""
        sums, span, made = self._padded, 1, []
        for side in self.sides:
            if not self.doubling:
                sums = _box_sum(self._padded, side) if side > 1 else self._padded
            while self.doubling and span < side:
                sums, span = _doubled(sums, span), 2 * span
            made.append(_window(sums, self.first[len(made)], *self.masses_size))
        return [mass + eps for mass in made] if eps else made

    def spread(self, upstream: Tensor, masses: list[Tensor], factors: list[float], out: Tensor) -> None:
        """Gradient of the planes into `out`: the transpose of the sums, of factors_k * upstream / mass_k for every side k."""
        if not self.doubling:
            self._spread_one_by_one(upstream, masses, factors, out)
            return
        sums, span = self.like.new_zeros(self.spread_shape), self.sides[-1]
        for side, first, mass, factor in reversed(list(zip(self.sides, self.first, masses, factors, strict=True))):
            while span > max(side, 2):
                span //= 2
                sums = _doubled(sums, span)
            if side > 1:
                shares = _window(sums, first - self.before + side - 1, *self.masses_size)
                shares.addcdiv_(upstream, mass, value=factor)
        while span > 2:
            span //= 2
            sums = _doubled(sums, span)
        rows, columns = self.size
        half = sums[..., :columns] + sums[..., 1 : columns + 1]
        torch.add(half[:, :rows], half[:, 1 : rows + 1], out=out)
        if self.sides[0] == 1:
            start = self.first[0] - self.before
            _window(out, start, *self.masses_size).addcdiv_(upstream, masses[0], value=factors[0])

    def _spread_one_by_one(self, upstream: Tensor, masses: list[Tensor], factors: list[float], out: Tensor) -> None:
        total = self.like.new_zeros(self.padded_shape)
        for side, first, mass, factor in zip(self.sides, self.first, masses, factors, strict=True):
            spread = _box_sum(F.pad(upstream / mass * factor, (side - 1,) * 4), side)
            _window(total, first, *spread.shape[-2:]).add_(spread)
        out.copy_(_window(total, self.before, *self.size))
