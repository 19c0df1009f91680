"""Checks of the exercises of the ablation."""

from collections.abc import Callable

import numpy as np

from medrepro.answers import verdict


def check_num_parameters(answer: Callable[[int, int], int]) -> bool:
    """Whether `answer` counts the numbers of a dynamic 3 x 3 convolution with C channels and K kernels, without batch norm."""
    cases = [(64, 4), (16, 4), (16, 1), (64, 8)]
    expected = [k * (c * c * 9 + c) + c * int(c / 4) + int(c / 4) * k for c, k in cases]
    given = [answer(*case) for case in cases]
    return verdict(
        given == expected, f"got {given}; K kernels and K biases, then two small matrices, C x C/4 and C/4 x K"
    )


def check_paired_spread(answer: Callable[[np.ndarray, np.ndarray], float]) -> bool:
    """Whether `answer` gives the standard deviation of paired differences, not that of two separate groups."""
    rng = np.random.default_rng(8)
    shared = 3 * rng.standard_normal(12)
    first, second = shared + 0.2 * rng.standard_normal(12), shared + 0.5 + 0.2 * rng.standard_normal(12)
    given, expected = answer(first.copy(), second.copy()), (second - first).std(ddof=1)
    holds = given is not None and np.isclose(given, expected)
    return verdict(holds, f"got {given}, expected {expected:.3f}; take differences seed by seed, divide by n - 1")


def check_temperature(answer: Callable[[int], float]) -> bool:
    """Whether `answer` gives the temperature after a number of steps of 3 down from 34, never below 1."""
    given = [answer(epoch) for epoch in range(15)]
    expected = [max(1, 34 - 3 * epoch) for epoch in range(15)]
    return verdict(
        None not in given and np.allclose(given, expected), f"got {given}; 34, 31, ... and 1 from step 11 on"
    )
