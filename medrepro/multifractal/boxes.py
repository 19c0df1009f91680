"""Masses of square boxes around every pixel, placed as the authors' convolutions place them (commit 3b723cd).

One box side, differentiable twice: `box_mass`. Several sides at once, for the slope of log mass against log side:
`NestedBoxes`, where the boxes of sides 2, 4, 8, ... come from one another by additions.
"""

import math
from functools import cached_property
from typing import Literal, NamedTuple

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


Addition = tuple[Tensor, Tensor, Tensor]  # one, other, and where their sum goes


class _Sums(NamedTuple):
    """How masses of a block are made."""

    block: Tensor  # where its planes are written
    additions: list[Addition]
    made: list[Tensor]  # sums of every side
    windows: list[Tensor]  # those of boxes around pixels


class _Transposed(NamedTuple):
    """How gradients of masses are spread over a block."""

    stages: list[
        tuple[list[Addition], Tensor | None]
    ]  # additions, and where the shares of the next side are then added
    columns: Addition
    rows: tuple[Tensor, Tensor]  # their sum is the gradient


class NestedBoxes:
    """Masses of boxes of several sides around every pixel of a block of planes, and the transpose of that sum.

    The buffers are made when first needed and used for one block after the other. Where sides are powers of two, rows lie one behind
    the other with the frame of zeros between them, and every addition is one pass over contiguous numbers: sums across the
    end of a row land where no box of interest begins.

    Parameters
    ----------
    like
        A tensor of the dtype and device of the blocks.
    planes, rows, columns
        Largest number of planes in a block, and their size.
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
        self._sums_of, self._transposed_of = {}, {}

    @cached_property
    def _padded(self) -> Tensor:
        return self.like.new_zeros(self.padded_shape)

    @cached_property
    def _spreading(self) -> Tensor:
        return self.like.new_zeros(self.spread_shape)

    @cached_property
    def _zero(self) -> Tensor:
        return self.like.new_zeros(())

    @cached_property
    def _kept(self) -> list[Tensor]:
        return [self.like.new_empty(math.prod(self.padded_shape)) for _ in self.sides]

    @cached_property
    def _rooms(self) -> list[Tensor]:
        return [self.like.new_empty(math.prod(self.spread_shape)) for _ in range(2)]

    def block(self, n: int) -> Tensor:
        """Where to write the next `n` planes before `masses` is called, shape (n, rows, columns)."""
        return self._sums(n).block

    def masses(self, n: int, eps: float = 0.0) -> list[Tensor]:
        """Masses plus eps of the boxes of all sides, ascending, around every pixel; they hold until the next call."""
        _, additions, made, windows = self._sums(n)
        if not self.doubling:
            padded = self._padded[:n]
            made = [_box_sum(padded, side) if side > 1 else padded.clone() for side in self.sides]
            windows = self._windows(made)
        elif self.sides[0] == 1:
            made[0].copy_(self._padded[:n])
        for one, other, into in additions:
            torch.add(one, other, out=into)
        if eps:
            for sums in made:
                sums.add_(eps)
        return windows

    def spread(self, upstream: Tensor, masses: list[Tensor], factors: list[float], out: Tensor) -> None:
        """Gradient of the block into `out`: the transpose of the sums, of factors_k * upstream / mass_k for every side k."""
        if not self.doubling:
            self._spread_one_by_one(upstream, masses, factors, out)
            return
        stages, columns, rows = self._transposed(len(upstream))
        for number, (additions, window) in enumerate(stages, 1):
            for one, other, into in additions:
                torch.add(one, other, out=into)
            if number == 1:
                torch.addcdiv(self._zero, upstream, masses[-1], value=factors[-1], out=window)
            elif window is not None:
                window.addcdiv_(upstream, masses[-number], value=factors[-number])
        one, other, into = columns
        torch.add(one, other, out=into)
        torch.add(*rows, out=out)
        if self.sides[0] == 1:
            _window(out, self.first[0] - self.before, *self.masses_size).addcdiv_(upstream, masses[0], value=factors[0])

    def _windows(self, made: list[Tensor]) -> list[Tensor]:
        """Sums of the boxes around pixels, of every side."""
        return [_window(sums, start, *self.masses_size) for sums, start in zip(made, self.first)]

    def _sums(self, n: int) -> _Sums:
        """The additions that make masses of `n` planes: views of the buffers, the same for one block after the other."""
        if n not in self._sums_of:
            block = _window(self._padded[:n], self.before, *self.size)
            sums, span, additions, made = self._padded[:n], 1, [], []
            for side, into in zip(self.sides, self._kept, strict=True) if self.doubling else ():
                while span < side:
                    more, sums = self._doubled(sums, span, into if 2 * span == side else self._rooms[1])
                    additions += more
                    span *= 2
                made.append(sums if side > 1 else into[: sums.numel()].view_as(sums))
            self._sums_of[n] = _Sums(block, additions, made, self._windows(made))
        return self._sums_of[n]

    def _transposed(self, n: int) -> _Transposed:
        """The additions of `spread`: those before the shares of each side, from the largest down, and the last two."""
        if n not in self._transposed_of:
            sums, span, stages = self._spreading[:n], self.sides[-1], []
            for side, first in zip(self.sides[::-1], self.first[::-1], strict=True):
                additions = []
                while span > max(side, 2):
                    span //= 2
                    more, sums = self._doubled(sums, span, self._rooms[1])
                    additions += more
                shares = _window(sums, first - self.before + side - 1, *self.masses_size) if side > 1 else None
                stages.append((additions, shares))
            additions = []
            while span > 2:
                span //= 2
                more, sums = self._doubled(sums, span, self._rooms[1])
                additions += more
            flat, (rows, columns) = sums.view(-1), self.size
            half = self._rooms[0][: len(flat)].view(sums.shape)
            upper, lower = half[:, :rows, :columns], half[:, 1 : rows + 1, :columns]
            self._transposed_of[n] = _Transposed(
                [*stages, (additions, None)], (flat[:-1], flat[1:], half.view(-1)[:-1]), (upper, lower)
            )
        return self._transposed_of[n]

    def _doubled(self, sums: Tensor, span: int, into: Tensor) -> tuple[list[Addition], Tensor]:
        """Four boxes of side `span` make one of twice that side, in the shape of `sums`; the last rows are of no use."""
        flat, down = sums.view(-1), span * sums.shape[-1]
        half = self._rooms[0][: len(flat) - span]
        additions = [(flat[:-span], flat[span:], half), (half[:-down], half[down:], into[: len(half) - down])]
        return additions, into[: len(flat)].view(sums.shape)

    def _spread_one_by_one(self, upstream: Tensor, masses: list[Tensor], factors: list[float], out: Tensor) -> None:
        total = torch.zeros_like(self._padded[: len(upstream)])
        for side, first, mass, factor in zip(self.sides, self.first, masses, factors, strict=True):
            spread = _box_sum(F.pad(upstream / mass * factor, (side - 1,) * 4), side)
            _window(total, first, *spread.shape[-2:]).add_(spread)
        out.copy_(_window(total, self.before, *self.size))
