"""Checks of the exercises on the network's parts."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medrepro.answers import verdict
from medrepro.dran.dynamic_convolution import DynamicConv2d
from medrepro.dran.network import DRAN


@torch.no_grad()
def check_mixed(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> bool:
    """Whether `answer` is a dynamic convolution of one image, given its kernels, biases and attention (K,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = DynamicConv2d(6, 5, padding=1, kernels=3)
        conv.bias.normal_()
        x = torch.randn(1, 6, 9, 7)
    wrong = []
    for attention in ([1.0, 0.0, 0.0], [0.2, 0.3, 0.5]):
        a = torch.tensor(attention)
        given, expected = answer(x, conv.weight, conv.bias, a), conv(x, a[None])
        if given is None:
            return verdict(False, "the function returns None; replace it")
        if given.shape != expected.shape:
            return verdict(False, f"the shape is {tuple(given.shape)}, expected {tuple(expected.shape)}: pad by 1")
        if not torch.allclose(given, expected, atol=1e-5):
            wrong.append((attention, float((given - expected).abs().max())))
    hint = f"attention {wrong[0][0]} is off by {wrong[0][1]:.3f}; mix kernels and biases with it" if wrong else ""
    return verdict(not wrong, hint)


def check_field(answer: Callable[[int, int], int]) -> bool:
    """Whether `answer` gives the side of the field of view, in pixels, of so many DRABs of so many layers each."""
    cases = [(3, 5), (1, 1), (2, 3), (6, 2)]
    given = [answer(*case) for case in cases]
    expected = [2 * DRAN(drabs=drabs, layers=layers, features=4).radius + 1 for drabs, layers in cases]
    return verdict(
        given == expected, f"got {given}; every 3 x 3 convolution adds one pixel each way, input and output too"
    )


def check_settled(answer: Callable[[float, int], np.ndarray]) -> bool:
    """Whether `answer` gives the weights of the uses, first to last, in the settled running mean of a shared set."""
    wrong = []
    for momentum, uses in ((0.1, 3), (0.5, 2), (0.9, 4)):
        step = np.zeros((uses, uses))  # the running mean of unit inputs, by brute force
        for unit in range(uses):
            running = 0.0
            for _ in range(2000):
                for use in range(uses):
                    running = (1 - momentum) * running + momentum * (use == unit)
            step[unit, 0] = running
        given, expected = answer(momentum, uses), step[:, 0]
        if given is None or np.shape(given) != (uses,) or not np.allclose(given, expected, atol=1e-6):
            wrong.append((momentum, uses, given, expected.round(4)))
    hint = (
        "momentum {}, {} uses: got {}, expected {}; the last use is forgotten least".format(*wrong[0]) if wrong else ""
    )
    return verdict(not wrong, hint)
