"""KerasAdam against its rule written out in NumPy."""

import copy

import numpy as np
import pytest
import torch

from medrepro.multifractal.optimiser import KerasAdam


def by_hand(start: np.ndarray, gradients: list[np.ndarray], lr: float, eps: float) -> np.ndarray:
    theta, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        theta = theta - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + eps)
    return theta


def steps(optimiser: torch.optim.Optimizer, parameter: torch.nn.Parameter, gradients: list[np.ndarray]) -> np.ndarray:
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimiser.step()
    return parameter.detach().numpy()


def random_case(scale: float) -> tuple[torch.nn.Parameter, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((3, 4)), [scale * rng.standard_normal((3, 4)) for _ in range(20)]
    return torch.nn.Parameter(torch.from_numpy(start.copy())), start, gradients


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-7])
@pytest.mark.parametrize(("lr", "eps"), [(1e-4, 1e-7), (1e-2, 1e-3)])
def test_steps_follow_the_rule(scale, lr, eps):
    """1e-12: float64, the same operations."""
    parameter, start, gradients = random_case(scale)
    assert steps(KerasAdam([parameter], lr, eps=eps), parameter, gradients) == pytest.approx(
        by_hand(start, gradients, lr, eps), abs=1e-12
    )


def test_differs_from_torch_adam_where_gradients_are_tiny():
    moved = {}
    for scale in (1.0, 1e-7):
        ours, _, gradients = random_case(scale)
        theirs = copy.deepcopy(ours)
        a = steps(KerasAdam([ours], 1e-2), ours, gradients)
        b = steps(torch.optim.Adam([theirs], 1e-2, eps=1e-7), theirs, gradients)
        moved[scale] = np.abs(a - b).max()
    assert moved[1.0] < 1e-5
    assert moved[1e-7] > 1e-2


def test_a_parameter_without_gradient_stays():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    first.sum().backward()
    KerasAdam([first, second], 0.1).step()
    assert first.tolist() == pytest.approx([0.9, 0.9], abs=1e-5)
    assert second.tolist() == [1, 1]


def test_state_survives_a_round_trip():
    parameter, start, gradients = random_case(1.0)
    optimiser = KerasAdam([parameter], 1e-2)
    steps(optimiser, parameter, gradients[:10])
    fresh = KerasAdam([parameter], 1.0)
    fresh.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    assert steps(fresh, parameter, gradients[10:]) == pytest.approx(by_hand(start, gradients, 1e-2, 1e-7), abs=1e-12)


def test_closure_is_evaluated_with_gradients():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimiser = KerasAdam([parameter], 0.1)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == 1
    assert parameter.item() < 1


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"eps": -1.0}, {"betas": (0.9, 1.0)}])
def test_faults_say_what_was_expected(settings):
    with pytest.raises(ValueError, match=r"expected lr >= 0, eps >= 0 and betas in \[0, 1\)"):
        KerasAdam([torch.nn.Parameter(torch.ones(1))], **settings)
