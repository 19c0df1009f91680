"""Exponents of large maps on a CPU: loops over rows, compiled when first needed (Numba) and kept for the next process.

PyTorch makes a pass over memory for every addition. Here a plane goes through once: the rows of each sum that are still
needed wait in the first-level cache, and what an exponent is for (a map, a mean, an entry of a table) is done as soon as
it is known. For float32 and box sides that are powers of two; `Exponents` does the same in PyTorch, for all else.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from medrepro.multifractal.exponent_gradients import Exponents, coefficients_from
from medrepro.multifractal.tabulated import Reader

MAP, MEAN, TABLE = 0, 1, 2  # what an exponent is for

#: Polynomial of log2(1 + t) / t on [sqrt(1/2) - 1, sqrt(2) - 1], lowest power first: within 2e-8 in exact arithmetic.
LOG2 = tuple(
    np.float32(coefficient)
    for coefficient in (
        1.442695, -0.721347333, 0.48091061, -0.360704828, 0.287918324, -0.23892034, 0.215669859, -0.207421035, 0.126148466
    )
)  # fmt: skip
ONE, ZERO, NAN, INFINITY = (np.float32(value) for value in (1, 0, np.nan, np.inf))
ROOT, MANTISSA = np.int32(0x3F3504F3), np.int32(23)  # bits of sqrt(1/2); bits of a fraction
SHARE = 1 << 15  # entries worth a thread of their own

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
part = njit(nogil=True, error_model="numpy", fastmath={"contract"}, no_cpython_wrapper=True)
part_sum = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"}, no_cpython_wrapper=True)

# Rows are named by where they begin in one flat workspace w: views of an array would be counted, and compile slowly.


@part
def _log2(x):
    """Binary logarithm of a float32 that is no denormal number, within two units in the last place."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(np.int32(bits - ROOT) >> MANTISSA)
    t = np.int32(bits - np.int32(exponent << MANTISSA)).view(np.float32) - ONE
    p = LOG2[8]
    p = p * t + LOG2[7]
    p = p * t + LOG2[6]
    p = p * t + LOG2[5]
    p = p * t + LOG2[4]
    p = p * t + LOG2[3]
    p = p * t + LOG2[2]
    p = p * t + LOG2[1]
    p = p * t + LOG2[0]
    return np.float32(exponent) + p * t if ZERO < x < INFINITY else (INFINITY if x > ZERO else NAN)


@part
def _add(w, one, other, into, n):
    for x in range(n):
        w[np.uintp(into + x)] = w[np.uintp(one + x)] + w[np.uintp(other + x)]


@part_sum
def _sum(w, row, n):
    total = ZERO
    for x in range(n):
        total += w[np.uintp(row + x)]
    return total


@part
def _next_row(planes, p, q, before, least, shift, w, side, height, width):
    """Take row q of a plane in its frame of zeros, as a measure, and complete the sums over 2, 4, 8, ... rows."""
    y, columns = q - before, planes.shape[2]
    row = (q & (side - 1)) * width
    if 0 <= y < planes.shape[1]:
        for x in range(columns):
            w[np.uintp(row + before + x)] = planes[p, y, x] - least + shift
    else:
        for x in range(width):
            w[np.uintp(row + x)] = ZERO
    for level in range(height):
        start = q - (2 << level) + 1
        one, other = start & (side - 1), (start + (1 << level)) & (side - 1)
        here = level * side
        _add(w, (here + one) * width, (here + other) * width, (here + side + one) * width, width)


@part
def _masses(w, r, levels, first, eps, side, width, scratch, masses, columns):
    """Masses plus eps of the boxes of all sides around the pixels of row r."""
    for j in range(len(levels)):
        level, mass = levels[j], masses + j * columns
        source = (level * side + ((r + first[j]) & (side - 1))) * width + first[j]
        for step in range(level - 1):
            into = scratch + (step & 1) * width
            _add(w, source, source + (1 << step), into, columns + (1 << level) - (2 << step))
            source = into
        if level == 0:
            for x in range(columns):
                w[np.uintp(mass + x)] = w[np.uintp(source + x)] + eps
        else:
            other = source + (1 << (level - 1))
            for x in range(columns):
                w[np.uintp(mass + x)] = w[np.uintp(source + x)] + w[np.uintp(other + x)] + eps


@part
def _alpha(w, masses, d, alpha, columns):
    """Exponents of a row: logarithms of the ratios of neighbouring masses, weighted by d."""
    for j in range(len(d)):
        smaller, weight = masses + j * columns, d[j]
        larger = smaller + columns
        for x in range(columns):
            before = w[np.uintp(alpha + x)] if j else ZERO
            w[np.uintp(alpha + x)] = before + _log2(w[np.uintp(larger + x)] / w[np.uintp(smaller + x)]) * weight


@part
def _left_of(place, last):
    """Grid point to the left of a place, the first or the last but one outside; 0 for what is no number."""
    if not place > ZERO:
        return 0
    return np.int64(place) if place < last else last


@compiled
def forward(planes, least, shift, eps, levels, first, d, purpose, out, moments, table, plus_map):
    """Exponents of planes (n, H, W), written out (`MAP`), averaged (`MEAN`) or read off a table (`TABLE`).

    Parameters
    ----------
    least, shift
        Subtracted from and then added to every plane, shape (n,).
    eps
        Added to a mass.
    levels, first
        Binary logarithms of box sides, ascending, and where in the widest box each begins.
    d
        Weights of the logarithms of neighbouring masses' ratios; for a table in units of its step.
    purpose
        What to do with an exponent.
    out
        Exponents, or entries of the table, shape (n, H', W'); for `MEAN` only its shape counts.
    moments
        Sums of alpha - 2 and its square over every plane, shape (n, 2); filled for `MEAN`.
    table
        Heights and rises, shape (2, points - 1).
    plus_map
        Whether planes are added to the entries of the table.
    """
    height, side = levels[-1], 1 << levels[-1]
    rows, columns = out.shape[1], out.shape[2]
    before, width = (side - 1) // 2 if rows == planes.shape[1] else 0, columns + side - 1
    scratch = (height + 1) * side * width
    masses = scratch + 2 * width
    alpha = masses + len(levels) * columns
    w = np.zeros(alpha + columns, np.float32)
    last = table.shape[1] - 1
    for p in range(len(planes)):
        for q in range(rows + side - 1):
            _next_row(planes, p, q, before, least[p], shift[p], w, side, height, width)
            r = q - side + 1
            if r < 0:
                continue
            _masses(w, r, levels, first, eps, side, width, scratch, masses, columns)
            _alpha(w, masses, d, alpha, columns)
            if purpose == MAP:
                for x in range(columns):
                    out[p, r, x] = w[np.uintp(alpha + x)]
            elif purpose == MEAN:  # about 2, where sums of either sign stay small
                for x in range(columns):
                    w[np.uintp(alpha + x)] -= np.float32(2)
                moments[p, 0] += _sum(w, alpha, columns)
                for x in range(columns):
                    w[np.uintp(alpha + x)] *= w[np.uintp(alpha + x)]
                moments[p, 1] += _sum(w, alpha, columns)
            else:
                for x in range(columns):
                    place = w[np.uintp(alpha + x)]
                    left = _left_of(place, last)
                    entry = table[0, left] + table[1, left] * (place - np.float32(left))
                    out[p, r, x] = entry + planes[p, r, x] if plus_map else entry


@compiled
def backward(
    planes, least, shift, eps, levels, first, d, purpose, grad, of_planes, factors, table, plus_map, ends,
    out, counts, to_d, totals, ties,
):  # fmt: skip
    """Gradients of what `forward` gives.

    Parameters
    ----------
    grad
        Gradient of `out` of `forward`; for `MEAN` only its shape counts.
    of_planes
        For `MEAN`: the gradient of a plane's exponents is of_planes[p, 0] + of_planes[p, 1] alpha, shape (n, 2).
    factors
        Derivatives of alpha by the natural logarithms of the masses.
    table
        Slopes of the table, shape (1, points - 1).
    ends
        Extremes of every plane's group, shape (n, 2), if they are to be counted; else of length 0.
    out
        Gradient of the planes, here and below filled in.
    counts
        Gradient of the table, shape (points,), float64.
    to_d
        Gradient of `d`, float64, in units of alpha; of length 0 if it is not wanted.
    totals
        Sums of the gradient (without that of `plus_map`) over each plane, shape (n,), if there are `ends`.
    ties
        How often the extremes occur in each plane, shape (n, 2).
    """
    height, side = levels[-1], 1 << levels[-1]
    rows, columns = grad.shape[1], grad.shape[2]
    before, width = (side - 1) // 2 if rows == planes.shape[1] else 0, columns + side - 1
    slots = side - 1
    scratch = (height + 1) * side * width
    masses = scratch + 2 * width
    alpha = masses + len(levels) * columns
    given = alpha + columns
    # shares of the masses, and gradients of the sums over 1, 2, 4, ... rows and columns: with zeros to their left
    wide = width + side
    shares = given + columns
    spread = shares + len(levels) * side * wide
    w = np.zeros(spread + (height + 1) * side * wide, np.float32)
    last = table.shape[1] - 1
    for p in range(len(planes)):
        w[shares:] = ZERO
        for q in range(rows + 2 * side - 2):
            if q < rows + side - 1:
                _next_row(planes, p, q, before, least[p], shift[p], w, side, height, width)
            y = q - side + 1
            if y < 0:
                continue
            if y < rows:
                _masses(w, y, levels, first, eps, side, width, scratch, masses, columns)
                if purpose == TABLE or (purpose == MEAN and of_planes[p, 1] != ZERO):
                    _alpha(w, masses, d, alpha, columns)
                if purpose == MAP:
                    for x in range(columns):
                        w[np.uintp(given + x)] = grad[p, y, x]
                elif purpose == MEAN:
                    for x in range(columns):
                        w[np.uintp(given + x)] = of_planes[p, 0] + of_planes[p, 1] * w[np.uintp(alpha + x)]
                else:
                    for x in range(columns):
                        place, upstream = w[np.uintp(alpha + x)], grad[p, y, x]
                        left = _left_of(place, last)
                        w[np.uintp(given + x)] = table[0, left] * upstream
                        to_right = (place - np.float32(left)) * upstream
                        counts[left] += upstream - to_right
                        counts[left + 1] += to_right
                for j in range(len(to_d)):
                    smaller, larger = masses + j * columns, masses + (j + 1) * columns
                    for x in range(columns):
                        w[np.uintp(scratch + x)] = (
                            _log2(w[np.uintp(larger + x)] / w[np.uintp(smaller + x)]) * w[np.uintp(given + x)]
                        )
                    to_d[j] += _sum(w, scratch, columns)
            for j in range(len(levels)):
                share, mass = shares + (j * side + (y & slots)) * wide + side + first[j], masses + j * columns
                if y < rows:
                    for x in range(columns):
                        w[np.uintp(share + x)] = factors[j] * w[np.uintp(given + x)] / w[np.uintp(mass + x)]
                else:
                    for x in range(columns):
                        w[np.uintp(share + x)] = ZERO
            _spread(w, shares, y, levels, first, spread, side, wide)
            r = y - before
            if 0 <= r < planes.shape[1]:
                row = spread + (y & slots) * wide + side + before
                if len(ends):
                    totals[p] += _sum(w, row, planes.shape[2])
                    _count(planes, p, r, ends, ties)
                for x in range(planes.shape[2]):
                    out[p, r, x] = w[np.uintp(row + x)] + grad[p, r, x] if plus_map else w[np.uintp(row + x)]


@part
def _spread(w, shares, y, levels, first, spread, side, wide):
    """Gradients of the sums over 2^l rows and columns that end at row y, for every l, the widest first."""
    slots, j = side - 1, len(levels) - 1
    for level in range(levels[-1], -1, -1):
        into = spread + (level * side + (y & slots)) * wide
        if level < levels[-1]:
            by, above = 1 << level, spread + (level + 1) * side * wide
            one, other = above + (y & slots) * wide, above + ((y - by) & slots) * wide
            for x in range(side, wide):
                w[np.uintp(into + x)] = (w[np.uintp(one + x)] + w[np.uintp(other + x)]) + (
                    w[np.uintp(one + x - by)] + w[np.uintp(other + x - by)]
                )
        if j >= 0 and levels[j] == level:
            row = shares + (j * side + ((y - first[j]) & slots)) * wide
            for x in range(side, wide):
                w[np.uintp(into + x)] = (
                    w[np.uintp(row + x)] + w[np.uintp(into + x)] if level < levels[-1] else w[np.uintp(row + x)]
                )
            j -= 1


@part
def _count(planes, p, r, ends, ties):
    least, most = 0, 0
    for x in range(planes.shape[2]):
        least += planes[p, r, x] == ends[p, 0]
        most += planes[p, r, x] == ends[p, 1]
    ties[p, 0] += least
    ties[p, 1] += most


class CompiledExponents(Exponents):
    """`Exponents` by compiled loops, for contiguous float32 planes on a CPU."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        sides, zeros = self.how.sides, torch.zeros(len(self.planes))
        least, shift = (zeros, zeros) if self.least is None else (self.least, self.shift)
        levels = np.array([side.bit_length() - 1 for side in sides])
        first = np.array([(sides[-1] - 1) // 2 - (side - 1) // 2 for side in sides])
        self._of_planes = self.planes.numpy(), least.numpy(), shift.numpy()
        self._of_all = np.float32(self.eps), levels, first

    def _forward(
        self, purpose: int, out: Tensor, moments: Tensor | None = None, table: Tensor | None = None,
        *, unit: float = 1.0, plus_map: bool = False,
    ) -> None:  # fmt: skip
        d = np.array(self.d, np.float32) / np.float32(unit)
        moments = np.zeros((0, 2)) if moments is None else moments.numpy()
        table = np.zeros((2, 0), np.float32) if table is None else table.numpy()

        def work(part: slice) -> None:
            of_planes = (values[part] for values in self._of_planes)
            given = out.numpy()[part], moments[part], table, plus_map
            forward(*of_planes, *self._of_all, d, purpose, *given)

        self._in_parts(work)

    def _backward(
        self, purpose: int, grad: Tensor, of_planes: Tensor | None = None, table: Tensor | None = None,
        *, unit: float = 1.0, plus_map: bool = False, to_c: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
        d, factors = np.array(self.d, np.float32) / np.float32(unit), np.array(self.factors, np.float32)
        n, points = len(self.planes), 0 if table is None else table.shape[1] + 1
        of_planes = np.zeros((0, 2), np.float32) if of_planes is None else of_planes.numpy()
        table = np.zeros((1, 0), np.float32) if table is None else table.numpy()
        ends = np.zeros((0, 2), np.float32) if self.extremes is None else self.extremes.ends.t().contiguous().numpy()
        to_planes = self._new(n, self.planes.shape[1:])
        totals, ties = torch.zeros(n), torch.zeros(n, 2, dtype=torch.long)

        def work(part: slice) -> tuple[np.ndarray, np.ndarray]:
            sums = np.zeros(points), np.zeros(len(d) if to_c else 0)  # for the table and for d
            read = (values[part] for values in self._of_planes)
            given = grad.numpy()[part], of_planes[part], factors, table, plus_map, ends[part]
            made = to_planes.numpy()[part], *sums, totals.numpy()[part], ties.numpy()[part]
            backward(*read, *self._of_all, d, purpose, *given, *made)
            return sums

        sums = self._in_parts(work)
        if self.extremes is not None:
            self.add_extremes(to_planes, totals, ties.t())
        to_table, to_d = (torch.from_numpy(sum(parts)) for parts in zip(*sums, strict=True))
        return to_planes, coefficients_from(to_d.float()) if to_c else None, to_table

    def _in_parts(self, work: Callable[[slice], Any]) -> list[Any]:
        """What `work` returns for a part of the planes for each of PyTorch's threads, if there is enough to do for them."""
        n = len(self.planes)
        parts = max(1, min(torch.get_num_threads(), n, self.planes.numel() // SHARE))
        first, *others = (slice(n * part // parts, n * (part + 1) // parts) for part in range(parts))
        if not others:
            return [work(first)]
        with ThreadPoolExecutor(len(others)) as pool:
            elsewhere = [pool.submit(work, part) for part in others]
            return [work(first), *(done.result() for done in elsewhere)]

    def _new(self, n: int, size: tuple[int, int] | None = None) -> Tensor:
        """Room for n planes; NumPy asks for large pages of memory, and to touch small ones takes longer than the loops."""
        return torch.from_numpy(np.empty((n, *(size or self.size)), np.float32))

    def alpha(self) -> Tensor:
        """Exponents of all planes, shape (B C, H, W)."""
        out = self._new(len(self.planes))
        self._forward(MAP, out)
        return out

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and population variance of alpha over each plane, shape (B C,) each."""
        moments = torch.zeros(len(self.planes), 2, dtype=torch.float64)
        self._forward(MEAN, self._new(0), moments)
        apart, square = moments.div_(self.size.numel()).unbind(1)
        return (apart + 2).float(), (square - apart.square()).clamp_(min=0).float()

    def entries(self, table: Tensor, step: float, *, plus_map: bool) -> Tensor:
        """Entries of a table that begins at 0, read off at alpha; with `plus_map` they are added to the planes."""
        out, reader = self._new(len(self.planes)), Reader(table, step, self.planes, 0)
        heights_and_rises = torch.stack([reader.heights[:-1], reader.rises])
        self._forward(TABLE, out, table=heights_and_rises, unit=step, plus_map=plus_map)
        return out

    def gradient(self, upstream: Tensor, *, to_c: bool) -> tuple[Tensor, Tensor | None]:
        """Gradients of planes and coefficients from that of alpha (B C, H, W)."""
        return self._backward(MAP, upstream, to_c=to_c)[:2]

    def gradient_of_moments(self, once: Tensor, twice: Tensor | None, *, to_c: bool) -> tuple[Tensor, Tensor | None]:
        """The same, where the gradient of alpha is once + twice alpha with numbers of each plane."""
        of_planes = torch.stack([once, torch.zeros_like(once) if twice is None else twice], 1)
        return self._backward(MEAN, self._new(0), of_planes, to_c=to_c)[:2]

    def gradient_of_entries(
        self, table: Tensor, step: float, grad: Tensor, *, plus_map: bool, to_c: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The same from the gradient of `entries`, and the gradient of the table in float64."""
        slopes = Reader(table, step, self.planes, 0).slopes[None]
        return self._backward(TABLE, grad, table=slopes, unit=step, plus_map=plus_map, to_c=to_c)
