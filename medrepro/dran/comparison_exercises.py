"""Checks of the exercises of the comparison."""

from collections.abc import Callable

import numpy as np

from medrepro.answers import verdict


def check_psnr(answer: Callable[[np.ndarray, np.ndarray], float]) -> bool:
    """Whether `answer` gives the peak signal-to-noise ratio in dB of images in [0, 1], clipped first."""
    rng, wrong = np.random.default_rng(3), []
    for sd in (0.02, 0.1, 0.4):
        clean = rng.random((12, 10, 3))
        denoised = clean + sd * rng.standard_normal(clean.shape)
        expected = -10 * np.log10(np.mean((np.clip(denoised, 0, 1) - clean) ** 2))
        given = answer(denoised.copy(), clean.copy())
        if given is None or not np.isclose(given, expected):
            wrong.append((given, expected))
    told = f"got {wrong[0][0]} where {wrong[0][1]:.3f} was expected; clip first, peak 1" if wrong else ""
    return verdict(not wrong, told)


def check_offset_limit(answer: Callable[[float], float]) -> bool:
    """Whether `answer` gives the highest PSNR of a result whose mean is off by some grey levels of 255."""
    given, levels = [answer(level) for level in (1.0, 5.0, 31.875)], np.array([1.0, 5.0, 31.875])
    expected = -20 * np.log10(levels / 255)
    holds = None not in given and np.allclose(given, expected)
    return verdict(holds, f"got {given}; a constant error of m has the mean square m^2, and the peak is 255")


def check_neighbour_correlation(answer: Callable[[np.ndarray], float]) -> bool:
    """Whether `answer` gives the correlation of a picture's pixels with their right neighbours, mean taken off."""
    rng = np.random.default_rng(5)
    white = rng.standard_normal((40, 50)) + 3
    smooth = white[:, 1:] + white[:, :-1]
    wrong = []
    for picture in (white, smooth):
        centred = picture - picture.mean()
        expected = (centred[:, 1:] * centred[:, :-1]).mean() / (centred**2).mean()
        given = answer(picture.copy())
        if given is None or abs(given - expected) > 0.02:
            wrong.append((given, expected))
    told = f"got {wrong[0][0]} where {wrong[0][1]:.2f} was expected; take the mean off first" if wrong else ""
    return verdict(not wrong, told)
