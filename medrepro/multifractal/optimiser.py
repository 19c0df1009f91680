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
            (beta_1, beta_2), lr, eps = group["betas"], group["lr"], group["eps"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                t, mean, square = state["step"], state["mean"], state["square"]
                mean.lerp_(parameter.grad, 1 - beta_1)
                square.mul_(beta_2).addcmul_(parameter.grad, parameter.grad, value=1 - beta_2)
                rate = lr * (1 - beta_2**t) ** 0.5 / (1 - beta_1**t)
                parameter.addcdiv_(mean, square.sqrt().add_(eps), value=-rate)
        return loss
