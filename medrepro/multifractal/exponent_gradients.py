"""Exponents of a map with the gradients written out: what `exponent` and `multi` are made of.

Large float32 maps on a CPU go through `exponent_loops`; everything else, above all on an accelerator, through PyTorch.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medrepro.multifractal.boxes import NestedBoxes
from medrepro.multifractal.maps import may_be_kept, split
from medrepro.multifractal.measure import HIGH, LOW, Extremes, Rescaling, planes_of
from medrepro.multifractal.tabulated import Reader

LOOPS_FROM = 1 << 18  # entries of a map from which compiled loops pay, their compilation included


class SlopeSettings(NamedTuple):
    """How an exponent is made from a map."""

    sides: tuple[int, ...]  # with a coefficient other than 0; the largest scale is always among them
    framed: bool  # zeros outside the map; otherwise it has been padded
    eps: float  # added to a mass
    over: Rescaling = "none"  # the map is rescaled first, unless ``none``
    channels: int | None = None  # C, if it is rescaled over the batch


class Exponents:
    r"""Exponents of the planes of a map, what is made of them, and the gradients.

    Coefficients of a slope sum to 0, so that one logarithm of a ratio serves two boxes:

    .. math:: \alpha = \sum_j c_j \log_2 \mu_j = \sum_j d_j \log_2 \frac{\mu_{j+1}}{\mu_j}, \qquad d_j = \sum_{i > j} c_i

    A factor on a measure leaves its exponent alone: a map is not stretched to [1, 256] but to [1/255, 256/255] of its
    span, which takes no product. Masses are then at least that of one entry, and eps would change nothing.
    """

    def __init__(
        self,
        planes: Tensor,
        c: Tensor,
        how: SlopeSettings,
        ends: Tensor | None = None,
        made: list[Tensor] | None = None,
    ) -> None:
        self.planes, self.how = planes, how
        self.c = c.tolist()
        self.d = [sum(self.c[j + 1 :]) for j in range(len(self.c) - 1)]
        self.factors = [c / math.log(2) for c in self.c]
        self.eps, self.least, self.shift = how.eps, None, None
        self.extremes = None if how.over == "none" else Extremes(planes, how.channels, ends)
        if self.extremes is not None:
            self.eps, self.least, self.shift = 0.0, self.extremes.least, self.extremes.span * (LOW / (HIGH - LOW))
        narrower = 0 if how.framed else how.sides[-1] - 1
        self.size = torch.Size([planes.shape[-2] - narrower, planes.shape[-1] - narrower])
        self.made = made or None

    def _boxes(self) -> NestedBoxes:
        return NestedBoxes(
            self.planes, len(self.planes), *self.planes.shape[-2:], self.how.sides, framed=self.how.framed
        )

    def masses(self) -> list[Tensor]:
        """Masses of all sides, made once."""
        if self.made is None:
            boxes = self._boxes()
            if self.least is None:
                boxes.block.copy_(self.planes)
            else:
                torch.sub(self.planes, self.least[:, None, None], out=boxes.block).add_(self.shift[:, None, None])
            self.made = boxes.masses(self.eps)
        return self.made

    def alpha(self) -> Tensor:
        """Exponents of all planes, shape (B C, H, W)."""
        masses = self.masses()
        out = torch.div(masses[1], masses[0]).log2_().mul_(self.d[0])
        for d, (smaller, larger) in zip(self.d[1:], pairwise(masses[1:])):
            out.add_(torch.div(larger, smaller).log2_(), alpha=d)
        return out

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and population variance of alpha over each plane, shape (B C,) each."""
        variance, mean = torch.var_mean(self.alpha(), (1, 2), correction=0)
        return mean, variance

    def entries(self, table: Tensor, step: float, *, plus_map: bool) -> Tensor:
        """Entries of a table that begins at 0, read off at alpha; with `plus_map` they are added to the planes."""
        entries = self.alpha().div_(step)
        places = entries.view(-1).clone()
        Reader(table, step, places, len(places)).values(places, entries.view(-1))
        return entries.add_(self.planes) if plus_map else entries

    def gradient(self, upstream: Tensor, *, to_c: bool) -> tuple[Tensor, Tensor | None]:
        """Gradients of planes and coefficients from that of alpha (B C, H, W), or of every alpha of a plane (B C, 1, 1)."""
        masses = self.masses()
        to_planes = torch.empty_like(self.planes)
        self._boxes().spread(upstream, masses, self.factors, to_planes)
        if self.extremes is not None:
            blocks = (split(part, self.extremes.count) for part in (self.planes, self.extremes.ends.t()))
            ties = [self.extremes.ties(block, ends) for block, ends in zip(*blocks, strict=True)]
            self.add_extremes(to_planes, to_planes.sum((1, 2)), torch.cat(ties, 1))
        return to_planes, self._to_c(masses, upstream) if to_c else None

    def gradient_of_moments(self, once: Tensor, twice: Tensor | None, *, to_c: bool) -> tuple[Tensor, Tensor | None]:
        """The same, where the gradient of alpha is once + twice alpha with numbers of each plane."""
        upstream = once[:, None, None]
        if twice is not None:
            upstream = self.alpha().mul_(twice[:, None, None]).add_(upstream)
        return self.gradient(upstream, to_c=to_c)

    def gradient_of_entries(
        self, table: Tensor, step: float, grad: Tensor, *, plus_map: bool, to_c: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The same from the gradient of `entries`, and the gradient of the table in float64."""
        places = self.alpha().div_(step).view(-1)
        reader, upstream = Reader(table, step, places, len(places)), torch.empty_like(grad)
        reader.gradient(places, grad.view(-1), upstream.view(-1))
        to_planes, to_c = self.gradient(upstream, to_c=to_c)
        return to_planes.add_(grad) if plus_map else to_planes, to_c, reader.counts

    def add_extremes(self, to_planes: Tensor, totals: Tensor, ties: Tensor) -> None:
        """Add the gradients of the extremes, from the sums of `to_planes` over each plane."""
        stretch = (totals * (LOW / (HIGH - LOW))).masked_fill_(self.extremes.no_gradient_to_span(), 0)
        self.extremes.add_gradient(to_planes, torch.stack([-totals - stretch, stretch]), ties)

    @staticmethod
    def _to_c(masses: list[Tensor], upstream: Tensor) -> Tensor:
        """Gradient of the coefficients, shape (J,), up to a constant along which their sum would move."""
        logs = (torch.div(larger, smaller).log2_() for smaller, larger in pairwise(masses))
        return coefficients_from(torch.stack([log.mul_(upstream).sum() for log in logs]))


def coefficients_from(to_d: Tensor) -> Tensor:
    """Gradient of the coefficients c from that of their sums d."""
    return F.pad(to_d.cumsum(0), (1, 0))


def exponents_of(
    planes: Tensor, c: Tensor, how: SlopeSettings, ends: Tensor | None = None, made: list[Tensor] | None = None
) -> Exponents:
    """The exponents of planes (B C, H, W), computed where they are computed fastest."""
    doubling = all(side & (side - 1) == 0 for side in how.sides)
    if planes.device.type == "cpu" and planes.dtype == torch.float32 and planes.numel() >= LOOPS_FROM and doubling:
        from medrepro.multifractal.exponent_loops import CompiledExponents  # imports Numba

        return CompiledExponents(planes, c, how, ends)
    return Exponents(planes, c, how, ends, made)


def keep(ctx, exponents: Exponents, c: Tensor, *more: Tensor) -> None:
    """Put aside what the backward pass needs: planes, two numbers for each, and the masses of small maps; and `more`."""
    ends = None if exponents.extremes is None else exponents.extremes.ends
    made = (exponents.made or ()) if may_be_kept(exponents.planes) else ()
    ctx.save_for_backward(exponents.planes, c, ends, *more, *made)
    ctx.how, ctx.more = exponents.how, len(more)


def again(ctx) -> tuple[Exponents, list[Tensor]]:
    """The same exponents in the backward pass, and `more`: large masses made anew are cheaper than stored and read."""
    planes, c, ends, *others = ctx.saved_tensors
    return exponents_of(planes, c, ctx.how, ends, others[ctx.more :]), others[: ctx.more]


class ExponentMap(torch.autograd.Function):
    """The map of exponents."""

    @staticmethod
    def forward(ctx, x: Tensor, c: Tensor, how: SlopeSettings) -> Tensor:  # noqa: D102
        exponents = exponents_of(planes_of(x), c, how)
        alpha = exponents.alpha()
        keep(ctx, exponents, c)
        ctx.shape = x.shape
        return alpha.view(*x.shape[:-2], *exponents.size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # noqa: D102
        to_planes, to_c = again(ctx)[0].gradient(planes_of(grad), to_c=ctx.needs_input_grad[1])
        return to_planes.view(ctx.shape), to_c, None


class PooledExponent(torch.autograd.Function):
    """Mean of alpha over every plane and, if asked for, its population variance there; (B, C) each."""

    @staticmethod
    def forward(  # noqa: D102
        ctx, x: Tensor, c: Tensor, how: SlopeSettings, with_variance: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        exponents = exponents_of(planes_of(x), c, how)
        ctx.mean, variance = exponents.moments()
        keep(ctx, exponents, c)
        ctx.shape = x.shape
        return ctx.mean.clone().view(x.shape[:2]), variance.view(x.shape[:2]) if with_variance else None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # noqa: D102
        ctx, to_mean: Tensor | None, to_variance: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None]:
        exponents, _ = again(ctx)
        pixels, twice = exponents.size.numel(), None
        once = torch.zeros_like(ctx.mean) if to_mean is None else to_mean.flatten() / pixels
        if to_variance is not None:
            twice = to_variance.flatten() * (2 / pixels)
            once = once - twice * ctx.mean
        to_planes, to_c = exponents.gradient_of_moments(once, twice, to_c=ctx.needs_input_grad[1])
        return to_planes.view(ctx.shape), to_c, None, None
