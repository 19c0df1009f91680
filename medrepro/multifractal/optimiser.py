"""Adam as the authors' framework writes it: epsilon enters before the bias correction (Martins, Coimbra, Renna 2025)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class KerasAdam(torch.optim.Optimizer):
    r"""Adam with the step of Keras.

    .. math:: \theta \leftarrow \theta - \eta\,\frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,\frac{m}{\sqrt{v} + \epsilon}

    Parameters
    ----------
    params
        Parameters, or groups of them, as for any optimiser.
    lr
        Learning rate; 1e-4 in every published run.
    betas
        Decay of the mean of gradients and of their squares.
    eps
        Added to sqrt(v), which is not yet corrected for its start at 0. `torch.optim.Adam` adds it after the correction;
        the two part where gradients are tiny.

    Raises
    ------
    ValueError
        A negative rate or epsilon, a beta outside [0, 1).

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimiser = KerasAdam([w], lr=0.1)
    >>> w.square().sum().backward()
    >>> optimiser.step()
    >>> round(w.item(), 4)
    0.9
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"expected lr >= 0, eps >= 0 and betas in [0, 1), got lr={lr}, eps={eps}, betas={betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of all parameters that have a gradient; the loss, if a closure computes it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_age: dict[int, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                by_age.setdefault(state["step"], []).append(parameter)
            for t, parameters in by_age.items():
                self._update(parameters, t, group)
        return loss

    def _update(self, parameters: list[Tensor], t: int, group: dict[str, Any]) -> None:
        """One update of parameters in their step t, all tensors in one call."""
        (beta_1, beta_2), gradients = group["betas"], [parameter.grad for parameter in parameters]
        means, squares = ([self.state[parameter][key] for parameter in parameters] for key in ("mean", "square"))
        torch._foreach_lerp_(means, gradients, 1 - beta_1)
        torch._foreach_mul_(squares, beta_2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta_2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        rate = group["lr"] * (1 - beta_2**t) ** 0.5 / (1 - beta_1**t)
        torch._foreach_addcdiv_(parameters, means, roots, -rate)
