"""Checks of the exercises on noise."""

from collections.abc import Callable

import numpy as np

from medrepro.answers import verdict


def check_uniform_psnr(answer: Callable[[float], tuple[float, float]]) -> bool:
    """Whether `answer` gives the PSNR of noise uniform on (0, w), as it is and minus its mean, in dB."""
    given = [answer(width) for width in (0.075, 0.25)]
    expected = [(-10 * np.log10(width**2 / 3), -10 * np.log10(width**2 / 12)) for width in (0.075, 0.25)]
    holds = all(pair is not None for pair in given) and np.allclose(given, expected)
    return verdict(holds, f"got {given}; the mean square is w^2 / 3, the variance w^2 / 12")


def check_authors_noise(answer: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]) -> bool:
    """Whether `answer` adds the noise of the authors' code to images in [0, 1]: uniform on (0, level / 200), not clipped."""
    clean, wrong = np.full((200, 200, 3), 0.9), []
    for level in (15, 50):
        noisy = answer(clean.copy(), level, np.random.default_rng(0))
        if noisy is None:
            return verdict(False, "the function returns None; replace it")
        noise, width = np.asarray(noisy) - clean, level / 200
        held = 0 <= noise.min() and noise.max() <= width + 1e-9 and abs(noise.mean() / width - 0.5) < 0.01
        wrong += [] if held and abs(noise.std() * 12**0.5 / width - 1) < 0.02 else [(level, noise.mean(), noise.std())]
    told = f"at level {wrong[0][0]} the mean is {wrong[0][1]:.3f}, the deviation {wrong[0][2]:.3f}" if wrong else ""
    return verdict(not wrong, f"{told}; the width is level / 200 and nothing is clipped")


def check_rician_floor(answer: Callable[[float], float]) -> bool:
    """Whether `answer` gives the mean of Rician noise where the true intensity is 0."""
    given = [answer(sigma) for sigma in (0.05, 0.2)]
    expected = [sigma * np.sqrt(np.pi / 2) for sigma in (0.05, 0.2)]
    holds = None not in given and np.allclose(given, expected, rtol=0.02)
    return verdict(holds, f"got {given}; the magnitude of two Gaussians has the mean sigma sqrt(pi / 2)")
