"""The response of Multi to exponents (Martins, Coimbra, Renna 2025, equations 23 to 25): exact, in blocks of pixels.

The Q memberships of a pixel exist for one block of pixels at a time, and the backward pass is written out.
`Multi.memberships` and `Multi.response` say the same in the words of the equations.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1 << 18  # memberships of a block on a CPU: the few maps of them in use fit in the cache
KEPT = 1 << 20  # memberships that may wait for the backward pass; of larger maps they are made again


class Levels(NamedTuple):
    """The Q level sets and what is made of their memberships p_q; each of shape (Q,).

    The response is H~ = sigmoid(S), with S the sum over q of relu(A_q p_q + B_q), or the relu of that sum.
    """

    centres: Tensor  # h_q
    precisions: Tensor  # s_q^2, not negative
    scale: Tensor  # A_q; gamma_q of a batch norm over everything but q
    shift: Tensor  # B_q; beta_q of that batch norm


class _Memberships:
    """Memberships p (Q, n) of block after block of a vector of exponents."""

    def __init__(self, alpha: Tensor, centres: Tensor, precisions: Tensor, kept: list[Tensor] | None = None) -> None:
        self.alpha, self.centres, self.precisions = alpha, centres[:, None], precisions[:, None]
        levels = len(centres)
        count = BLOCK // levels if alpha.device.type == "cpu" else len(alpha)
        self.count = max(1, min(count, len(alpha)))
        self.kept = (kept or []) if len(alpha) * levels <= KEPT else None
        self.rooms = [alpha.new_empty(levels, self.count) for _ in range(3 if self.kept is None else 2)]

    def blocks(self, *vectors: Tensor) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Memberships of a block, with the same block of exponents and of other vectors."""
        made = bool(self.kept)
        for number, (alpha, *parts) in enumerate(
            zip(*(v.split(self.count) for v in (self.alpha, *vectors)), strict=True)
        ):
            if made:
                yield self.kept[number], (alpha, *parts)
                continue
            p = self.of(
                alpha, self.room(2, len(alpha)) if self.kept is None else torch.empty_like(self.room(0, len(alpha)))
            )
            if self.kept is not None:
                self.kept.append(p)
            yield p, (alpha, *parts)

    def of(self, alpha: Tensor, p: Tensor) -> Tensor:
        """Softmax over q of -s_q^2 (alpha - h_q)^2; the smallest distance is taken off first, so that it cannot vanish."""
        torch.sub(alpha, self.centres, out=p).square_().mul_(self.precisions)
        torch.sub(p.amin(0), p, out=p).exp_()
        return p.mul_(p.sum(0).reciprocal_())

    def room(self, number: int, n: int) -> Tensor:
        """Room for another map of memberships, shape (Q, n)."""
        return self.rooms[number] if n == self.count else self.rooms[number][:, :n]


def _moments(levels: _Memberships, counts: Tensor | None, total: int) -> tuple[Tensor, Tensor]:
    """Mean and population variance of every membership over pixels, or over values that occur `counts` times."""
    pilot, first, second = None, 0.0, 0.0
    for p, (_, *weights) in levels.blocks(*(() if counts is None else (counts,))):
        if pilot is None:
            pilot = p.mean(1)  # near the mean: nothing is lost where the variance is small
        apart = torch.sub(p, pilot[:, None], out=levels.room(0, p.shape[1]))
        if weights:
            weighted = torch.mul(apart, weights[0], out=levels.room(1, p.shape[1]))
            sums = weighted.sum(1), weighted.mul_(apart).sum(1)
        else:
            sums = apart.sum(1), torch.linalg.vector_norm(apart, dim=1).square_()
        first, second = first + sums[0].double(), second + sums[1].double()
    first, second = first / total, second / total
    return (first + pilot).to(pilot.dtype), (second - first * first).clamp_min(0).to(pilot.dtype)


class _Response(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        alpha: Tensor,
        counts: Tensor | None,
        centres: Tensor,
        precisions: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float | None,
        per_q: bool,
        total: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        levels = _Memberships(alpha, centres, precisions)
        mean, variance, gain = torch.zeros_like(scale), torch.ones_like(scale), torch.ones_like(scale)
        if eps is not None:
            mean, variance = _moments(levels, counts, total)
            gain = torch.rsqrt(variance + eps)
        a = (scale * gain)[:, None]
        b = shift[:, None] - a * mean[:, None]
        response = torch.empty_like(alpha)
        for p, (_, out) in levels.blocks(response):
            if per_q:
                torch.sum(torch.mul(p, a, out=levels.room(0, p.shape[1])).add_(b).relu_(), 0, out=out)
            else:
                out.copy_(p.t().mv(a[:, 0])).add_(b.sum()).relu_()
            out.sigmoid_()
        ctx.save_for_backward(alpha, counts, centres, precisions, mean, gain, a, b, response, *(levels.kept or ()))
        ctx.settings = eps is not None, per_q, total
        ctx.mark_non_differentiable(mean, variance)
        return response, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        alpha, counts, centres, precisions, mean, gain, a, b, response, *kept = ctx.saved_tensors
        normed, per_q, total = ctx.settings
        levels = _Memberships(alpha, centres, precisions, kept)
        to_sum = grad * response * (1 - response)
        if not per_q:
            to_sum = to_sum * (response > 0.5)

        def to_levels(p: Tensor, upstream: Tensor) -> Tensor:
            """Gradient of A_q p_q + B_q in a block."""
            if not per_q:
                return upstream
            u = torch.mul(p, a, out=levels.room(0, p.shape[1])).add_(b)
            return torch.gt(u, 0, out=levels.room(1, p.shape[1])).mul_(upstream)

        once, with_p = 0.0, 0.0
        for p, (_, upstream) in levels.blocks(to_sum):
            e = to_levels(p, upstream)
            once = once + e.sum(-1).double()
            with_p = with_p + (torch.mul(e, p, out=levels.room(0, p.shape[1])).sum(1) if per_q else p @ e).double()
        once, with_p = (once + torch.zeros_like(with_p)).to(a.dtype), with_p.to(a.dtype)
        around = (with_p - mean * once) * gain  # with a batch norm: the sum of e times the standardised membership
        to_scale, to_shift = around if normed else with_p, once
        from_variance = a[:, 0] * gain * around / total
        from_mean = a[:, 0] * once / total - from_variance * mean
        to_alpha, to_counts = torch.empty_like(alpha), None if counts is None else torch.empty_like(alpha)
        weights = () if counts is None else (counts, to_counts)
        to_h, to_w = 0.0, 0.0
        for p, (values, upstream, out, *weight) in levels.blocks(to_sum, to_alpha, *weights):
            to_p = torch.mul(to_levels(p, upstream), a, out=levels.room(1, p.shape[1]))
            if normed:
                through = torch.mul(p, from_variance[:, None], out=levels.room(0, p.shape[1])).add_(from_mean[:, None])
                to_p.sub_(through.mul_(weight[0]) if weight else through)
            if normed and weight:
                to_mean, to_variance = -a[:, 0] * once, -0.5 * a[:, 0] * gain * around
                weight[1].copy_((to_mean @ p + to_variance @ (p - mean[:, None]).square_()) / total)
            along = torch.mul(to_p, p, out=levels.room(0, p.shape[1])).sum(0)
            to_logits = to_p.sub_(along).mul_(p)
            # of -s_q^2 (alpha - h_q)^2: its gradients are products with powers of alpha - h_q, taken about the middle
            middle = values.mean()
            x, h = values - middle, centres - middle
            zeroth, first, second = to_logits.sum(1), to_logits @ x, to_logits @ (x * x)
            to_h = to_h + (2 * precisions * (first - h * zeroth)).double()
            to_w = to_w - (second - 2 * h * first + h * h * zeroth).double()
            by_level = torch.stack([precisions, precisions * h]) @ to_logits
            torch.sub(by_level[1], x * by_level[0], out=out).mul_(2)
        return (
            to_alpha,
            to_counts,
            to_h.to(alpha.dtype),
            to_w.to(alpha.dtype),
            to_scale,
            to_shift,
            None,
            None,
            None,
        )


def response(
    alpha: Tensor,
    levels: Levels,
    *,
    per_q: bool,
    eps: float | None = None,
    counts: Tensor | None = None,
    total: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""H~ of exponents, exact; memory and gradients without an axis of level sets.

    .. math:: p_q = \frac{e^{-s_q^2 (\alpha - h_q)^2}}{\sum_{q'} e^{-s_{q'}^2 (\alpha - h_{q'})^2}}, \qquad
              \tilde H = \sigma\Big(\sum_q \delta(A_q p_q + B_q)\Big) \ \text{or}\
              \sigma\Big(\delta\Big(\sum_q A_q p_q + B_q\Big)\Big)

    Parameters
    ----------
    alpha
        Exponents, any shape.
    levels
        The level sets, one set for all channels.
    per_q
        ReLU on every level before the sum, as the authors' code; otherwise after it, as equation 24.
    eps
        If given, p_q is batch-normed over all pixels, with this epsilon, scale and shift being gamma and beta.
    counts, total
        How often each exponent occurs and the sum of that, if `alpha` is a grid; else every entry counts once.

    Returns
    -------
    tuple of Tensor
        H~ in the shape of `alpha`, entries in [1/2, 1); mean and population variance of every p_q, shape (Q,), without
        gradient (0 and 1 without `eps`).

    Examples
    --------
    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> h, *_ = response(torch.tensor([1.0, 3.0]), Levels(zero, one, one, zero), per_q=False)  # one level: p = 1
    >>> [round(value, 4) for value in h.tolist()]
    [0.7311, 0.7311]
    """
    flat = alpha.reshape(-1)
    parts = (part.to(flat.dtype) for part in levels)
    h, mean, variance = _Response.apply(flat, counts, *parts, eps, per_q, total or flat.numel())
    return h.view(alpha.shape), mean, variance
