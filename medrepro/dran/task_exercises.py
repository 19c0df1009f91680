"""Checks of the exercises on real noise and on tasks."""

from collections.abc import Callable

import numpy as np

from medrepro.answers import verdict


def check_noise_of_repeats(answer: Callable[[np.ndarray, np.ndarray], float]) -> bool:
    """Whether `answer` gives the standard deviation of the noise from two acquisitions of one object."""
    rng = np.random.default_rng(1)
    clean, wrong = rng.random((60, 60)), []
    for sd in (0.02, 0.1):
        first, second = (clean + sd * rng.standard_normal(clean.shape) for _ in range(2))
        given, expected = answer(first.copy(), second.copy()), np.sqrt(((first - second) ** 2).mean() / 2)
        if given is None or abs(given / expected - 1) > 0.02:
            wrong.append((given, expected))
    told = (
        f"got {wrong[0][0]} where {wrong[0][1]:.4f} was expected; the difference has twice the variance"
        if wrong
        else ""
    )
    return verdict(not wrong, told)


def check_error_without_truth(answer: Callable[[np.ndarray, np.ndarray, float], float]) -> bool:
    """Whether `answer` estimates the mean square error of a denoised image from a second acquisition."""
    rng = np.random.default_rng(2)
    clean = rng.random((200, 200))
    denoised, second = clean + 0.05 * rng.standard_normal(clean.shape), clean + 0.1 * rng.standard_normal(clean.shape)
    given, expected = answer(denoised.copy(), second.copy(), 0.1), ((denoised - second) ** 2).mean() - 0.1**2
    holds = given is not None and np.isclose(given, expected)
    return verdict(holds, f"got {given}, expected {expected:.5f}; the second acquisition adds its own variance")


def check_roc_area(answer: Callable[[np.ndarray, np.ndarray], float]) -> bool:
    """Whether `answer` gives the ROC area of scores: the share of pairs in which the ill one scores higher, ties half."""
    rng = np.random.default_rng(3)
    wrong = []
    for ill, well in ((rng.random(7) + 0.3, rng.random(9)), (np.array([1.0, 2.0, 2.0]), np.array([2.0, 0.0]))):
        expected = ((ill[:, None] > well).mean() + (ill[:, None] >= well).mean()) / 2
        given = answer(ill.copy(), well.copy())
        if given is None or not np.isclose(given, expected):
            wrong.append((given, expected))
    told = (
        f"got {wrong[0][0]} where {wrong[0][1]:.3f} was expected; compare every pair, a tie counts one half"
        if wrong
        else ""
    )
    return verdict(not wrong, told)
