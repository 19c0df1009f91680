"""Exponents of a map block by block of planes, with the gradients written out: what `exponent` and `multi` are made of.

On a CPU all but input and output stays in cache. The backward pass makes the masses of large maps anew.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medrepro.multifractal.boxes import NestedBoxes
from medrepro.multifractal.maps import may_be_kept, planes_in_a_block, split
from medrepro.multifractal.measure import HIGH, LOW, Extremes, Rescaling, planes_of


class SlopeSettings(NamedTuple):
    """How an exponent is made from a map."""

    sides: tuple[int, ...]  # with a coefficient other than 0; the largest scale is always among them
    framed: bool  # zeros outside the map; otherwise it has been padded
    eps: float  # added to a mass
    over: Rescaling = "none"  # the map is rescaled first, unless ``none``
    channels: int | None = None  # C, if it is rescaled over the batch


class Exponents:
    r"""Exponents of a map, block by block of planes: on a CPU all but input and output stays in cache.

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
        self.extremes = None if how.over == "none" else Extremes(planes, how.channels, ends)
        self.c = c.tolist()
        self.d = [sum(self.c[j + 1 :]) for j in range(len(self.c) - 1)]
        self.count = planes_in_a_block(planes)
        self.boxes = NestedBoxes(planes, self.count, *planes.shape[-2:], how.sides, framed=how.framed)
        self.size = self.boxes.masses_size
        self.made = made or None  # masses of all planes, where they fit into one block and wait for the backward pass

    def blocks(self, *others: Tensor) -> Iterator[tuple[list[Tensor], tuple[Tensor, ...]]]:
        """Masses of block after block, with the same blocks of other tensors."""
        parts = [split(part, self.count) for part in (self.planes, *others)]
        if self.made is not None:
            yield self.made, others
            return
        eps, offset = self.how.eps, None
        if self.extremes is not None:
            eps, offset = 0.0, self.extremes.span * (LOW / (HIGH - LOW))
            parts += [split(part, self.count) for part in (self.extremes.least, offset)]
        for block, *rest in zip(*parts, strict=True):
            measure = self.boxes.block(len(block))
            if offset is None:
                measure.copy_(block)
            else:
                more, least = rest.pop(), rest.pop()
                torch.sub(block, least[:, None, None], out=measure).add_(more[:, None, None])
            masses = self.boxes.masses(len(block), eps if self._matters(eps, block) else 0.0)
            if may_be_kept(self.planes):
                self.made = masses
            yield masses, tuple(rest)

    @staticmethod
    def _matters(eps: float, block: Tensor) -> bool:
        """Whether eps moves a mass by more than rounding does; a look at the entries saves a pass for every box side."""
        if not eps or block.device.type != "cpu":  # elsewhere the look would wait for the device
            return eps > 0
        return not block.amin().item() * torch.finfo(block.dtype).eps >= eps

    def alpha(self, masses: list[Tensor], out: Tensor, *, unit: float = 1.0) -> Tensor:
        """Exponents of a block in units of `unit`, into `out`."""
        torch.div(masses[1], masses[0], out=out).log2_().mul_(self.d[0] / unit)
        for d, (smaller, larger) in zip(self.d[1:], pairwise(masses[1:])):
            out.add_(torch.div(larger, smaller).log2_(), alpha=d / unit)
        return out

    def to_c(self, masses: list[Tensor], upstream: Tensor) -> Tensor:
        """Gradient of the coefficients, shape (J,), up to a constant along which their sum would move."""
        logs = (torch.div(larger, smaller).log2_() for smaller, larger in pairwise(masses))
        along = torch.stack([log.mul_(upstream).sum() for log in logs])
        return F.pad(along.cumsum(0), (1, 0))

    def gradient(
        self, upstream: Callable[..., Tensor], others: Sequence[Tensor], *, to_c: bool, plus_first: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of planes and coefficients, from the gradient `upstream` makes of masses and blocks of `others`.

        With `plus_first` the first of `others` is added to that of the planes.
        """
        to_planes = torch.empty_like(self.planes)
        factors = [c / math.log(2) for c in self.c]
        totals, ties, coefficients = [], [], []
        if self.extremes is not None:
            others = (self.planes, self.extremes.ends.t(), *others)
        for masses, (out, *parts) in self.blocks(to_planes, *others):
            if self.extremes is not None:
                ties.append(self.extremes.ties(*parts[:2]))
                parts = parts[2:]
            given = upstream(masses, *parts)
            if to_c:
                coefficients.append(self.to_c(masses, given))
            self.boxes.spread(given, masses, factors, out)
            if self.extremes is not None:
                totals.append(out.sum((1, 2)))
            if plus_first:
                out.add_(parts[0])
        if self.extremes is not None:
            total = torch.cat(totals)
            stretch = (total * (LOW / (HIGH - LOW))).masked_fill_(self.extremes.no_gradient_to_span(), 0)
            self.extremes.add_gradient(to_planes, torch.stack([-total - stretch, stretch]), torch.cat(ties, 1))
        return to_planes, sum(coefficients) if to_c else None


def keep(ctx, exponents: Exponents, c: Tensor, *more: Tensor) -> None:
    """Put aside what the backward pass needs: planes, two numbers for each, and the masses of small maps; and `more`."""
    ends = None if exponents.extremes is None else exponents.extremes.ends
    ctx.save_for_backward(exponents.planes, c, ends, *more, *(exponents.made or ()))
    ctx.how, ctx.more = exponents.how, len(more)


def again(ctx) -> tuple[Exponents, list[Tensor]]:
    """The same exponents in the backward pass, and `more`: large masses made anew are cheaper than stored and read."""
    planes, c, ends, *others = ctx.saved_tensors
    return Exponents(planes, c, ctx.how, ends, others[ctx.more :]), others[: ctx.more]


class ExponentMap(torch.autograd.Function):
    """The map of exponents."""

    @staticmethod
    def forward(ctx, x: Tensor, c: Tensor, how: SlopeSettings) -> Tensor:  # noqa: D102
        exponents = Exponents(planes_of(x), c, how)
        alpha = x.new_empty(len(exponents.planes), *exponents.size)
        for masses, (out,) in exponents.blocks(alpha):
            exponents.alpha(masses, out)
        keep(ctx, exponents, c)
        ctx.shape = x.shape
        return alpha.view(*x.shape[:-2], *exponents.size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # noqa: D102
        same = lambda masses, upstream: upstream
        to_planes, to_c = again(ctx)[0].gradient(same, [planes_of(grad)], to_c=ctx.needs_input_grad[1])
        return to_planes.view(ctx.shape), to_c, None


class PooledExponent(torch.autograd.Function):
    """Mean of alpha over every plane and, if asked for, its population variance there; (B, C) each, no map of alpha."""

    @staticmethod
    def forward(  # noqa: D102
        ctx, x: Tensor, c: Tensor, how: SlopeSettings, with_variance: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        exponents = Exponents(planes_of(x), c, how)
        alpha, means, variances = x.new_empty(exponents.count, *exponents.size), [], []
        for masses, (block,) in exponents.blocks(exponents.planes):
            out = exponents.alpha(masses, alpha[: len(block)])
            means.append(out.mean((1, 2)))
            if with_variance:
                norm = torch.linalg.vector_norm(out.sub_(means[-1][:, None, None]), dim=(1, 2))
                variances.append(norm.square_().div_(out[0].numel()))
        keep(ctx, exponents, c)
        ctx.shape, ctx.mean = x.shape, torch.cat(means)
        variance = torch.cat(variances).view(x.shape[:2]) if with_variance else None
        return ctx.mean.clone().view(x.shape[:2]), variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # noqa: D102
        ctx, to_mean: Tensor | None, to_variance: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None]:
        exponents, _ = again(ctx)
        pixels = exponents.size[0] * exponents.size[1]
        once = torch.zeros_like(ctx.mean) if to_mean is None else to_mean.flatten() / pixels
        if to_variance is None:
            upstream, of_planes = lambda masses, once: once, [once]
        else:
            twice = to_variance.flatten() * (2 / pixels)
            alpha = once.new_empty(exponents.count, *exponents.size)
            upstream = lambda masses, once, twice: exponents.alpha(masses, alpha[: len(once)]).mul_(twice).add_(once)
            of_planes = [once - twice * ctx.mean, twice]
        of_planes = [part[:, None, None] for part in of_planes]
        to_planes, to_c = exponents.gradient(upstream, of_planes, to_c=ctx.needs_input_grad[1])
        return to_planes.view(ctx.shape), to_c, None, None
