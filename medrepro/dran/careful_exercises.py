"""Checks of the exercises on what to know before the network is used."""

from collections.abc import Callable, Sequence

import numpy as np

from medrepro.answers import verdict


def check_bound_with_mean(answer: Callable[[float], float]) -> bool:
    """Whether `answer` gives the highest PSNR of a method that keeps the mean of the authors' noise at a level."""
    from medrepro.dran.noise import at_level, bias_bound

    levels = (15, 25, 50, 75)
    given = [answer(level) for level in levels]
    expected = [bias_bound(at_level(level, "authors_code")) for level in levels]
    holds = None not in given and np.allclose(given, expected, atol=1e-6)
    return verdict(
        holds, f"got {given}; the best such image is the clean one plus the mean w / 2, where w is the level over 200"
    )


def check_largest_weight(answer: Callable[[float, float, int], float]) -> bool:
    """Whether `answer` gives the largest of K softmax weights where one logit stands above all others, equal ones."""
    cases = [(0.0, 34.0, 4), (2.0, 34.0, 4), (2.0, 1.0, 4), (10.0, 1.0, 8)]
    given = [answer(*case) for case in cases]
    expected = [1 / (1 + (kernels - 1) * np.exp(-gap / temperature)) for gap, temperature, kernels in cases]
    holds = None not in given and np.allclose(given, expected, atol=1e-6)
    return verdict(holds, f"got {given}; divide by T before the exponential, and sum over all K")


def check_pooled_psnr(answer: Callable[[Sequence[float]], float]) -> bool:
    """Whether `answer` gives the PSNR of all images taken as one, from the PSNR of each, sizes equal."""
    rng = np.random.default_rng(0)
    wrong = []
    for values in (np.array([30.0, 30.0]), np.array([20.0, 40.0]), rng.uniform(15, 40, 6)):
        expected = -10 * np.log10(np.mean(10 ** (-values / 10)))
        given = answer(values)
        if given is None or abs(given - expected) > 1e-6:
            wrong.append((given, expected))
    hint = f"got {wrong[0][0]} where {wrong[0][1]:.3f} was expected; squared errors can be averaged" if wrong else ""
    return verdict(not wrong, hint)
