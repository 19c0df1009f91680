"""Checks of the exercises on excitations: each says whether an answer holds, and what to look at where it does not."""

from collections.abc import Callable

import numpy as np

from medrepro.multifractal.excitations import pca_threshold, robust_scale, subsampled_threshold


def _verdict(holds: bool, hint: str) -> bool:
    print("Right." if holds else f"Not yet: {hint}")
    return bool(holds)


def _gates(seed: int, images: int, channels: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((images, rank)) @ rng.standard_normal((rank, channels))
    return 1 / (1 + np.exp(-hidden - 0.3 * rng.standard_normal((images, channels))))


def check_noise_threshold(answer: Callable[[int], int]) -> bool:
    """Whether `answer` tells the threshold of independent noise in so many channels, with images without end."""
    cases = {8: 8, 32: 31, 64: 61, 128: 122, 256: 244}
    given = {channels: answer(channels) for channels in cases}
    return _verdict(given == cases, f"got {given}; every component explains the same share, and 0.95 must be exceeded")


def check_threshold(answer: Callable[[np.ndarray], int]) -> bool:
    """Whether `answer` computes the threshold of scaled excitations (images, channels)."""
    sets = [robust_scale(_gates(seed, 50, 20, rank)) for seed, rank in enumerate((1, 3, 8, 15))]
    sets = [scaled + shift for scaled, shift in zip(sets, (0, 5, 0, -3))]
    given = [answer(scaled.copy()) for scaled in sets]
    expected = [int(pca_threshold(scaled, robust=False)) for scaled in sets]
    return _verdict(given == expected, f"got {given}, expected {expected}; centre first, and count with the + 1")


def check_compare_at_equal_n(answer: Callable[[np.ndarray, np.ndarray], float]) -> bool:
    """Whether `answer` gives the difference of two thresholds (first minus second) as it would be at equal numbers of images."""
    first, second = _gates(11, 200, 48, 12), _gates(12, 60, 48, 12)
    expected = subsampled_threshold(first, 60, draws=100) - pca_threshold(second)
    given = answer(first.copy(), second.copy())
    swapped = answer(second.copy(), first.copy())
    holds = None not in (given, swapped) and abs(given - expected) < 1.0 and abs(swapped + expected) < 1.0
    return _verdict(
        holds, f"got {given} and {swapped} when swapped; draw as many images from the larger set as the smaller one has"
    )
