"""Adam as the authors' framework writes it: epsilon enters before the bias correction (Martins, Coimbra, Renna 2025)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


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
                    state["age"] = 0
                    state["step"] = torch.zeros((), device=parameter.device)  # the same, where the kernel reads it
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["age"] += 1
                by_age.setdefault(state["age"], []).append(parameter)
            for t, parameters in by_age.items():
                self._update(parameters, t, group)
        return loss

    def _update(self, parameters: list[Tensor], t: int, group: dict[str, Any]) -> None:
        """One update of parameters in their step t, all in one pass of torch's own kernel."""
        beta_1, beta_2 = group["betas"]
        means, squares, steps = ([self.state[p][key] for p in parameters] for key in ("mean", "square", "step"))
        adam(
            parameters,
            [parameter.grad for parameter in parameters],
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=beta_1,
            beta2=beta_2,
            lr=group["lr"],
            weight_decay=0.0,
            # torch's Adam adds epsilon to the corrected root: with this one the step is that of Keras
            eps=group["eps"] / math.sqrt(1 - beta_2**t),
            maximize=False,
        )
