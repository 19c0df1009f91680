"""Checks of the chapter's exercises: each says whether an answer holds, and what to look at where it does not."""

from collections.abc import Callable

import numpy as np
import torch

from medrepro.data import phantoms
from medrepro.multifractal.exponent import local_exponent


def _verdict(holds: bool, hint: str) -> bool:
    print("Right." if holds else f"Not yet: {hint}")
    return bool(holds)


def check_other_scales(answer: Callable[[], tuple]) -> bool:
    """Whether `answer` returns the raw exponents of a flat picture and of a line at scales 4, 8, 16."""
    given = answer()
    if any(value is None for value in given):
        return _verdict(False, "the function returns None; replace it")
    holds = np.allclose(given, (2.0, 1.0), atol=1e-4)
    return _verdict(
        holds, f"got {given}; a box of twice the side holds 4 times the mass of a plane, twice that of a line"
    )


def check_exponent_from_blurs(answer: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether `answer` computes the exponent map of a positive picture (H, W), away from the border."""
    image = 1 + 255 * np.random.default_rng(7).random((40, 48))
    expected = local_exponent(torch.as_tensor(image)[None, None])[0, 0].numpy()[5:-5, 5:-5]
    given = np.asarray(answer(image.copy()), dtype=float)
    if given.shape != image.shape:
        return _verdict(False, f"the map has shape {given.shape}, the picture {image.shape}")
    gap = np.abs(given[5:-5, 5:-5] - expected).max()
    return _verdict(
        gap < 1e-6,
        f"largest difference {gap:.3g}; mind where the even boxes sit: side 8 covers i-3 to i+4, side 2 i to i+1",
    )


def check_rougher(answer: Callable[[np.ndarray, np.ndarray], int]) -> bool:
    """Whether `answer` tells the rougher of two surfaces, whatever their brightness and contrast."""
    rng, wrong = np.random.default_rng(3), 0
    for trial in range(12):
        hurst = (0.3, 0.7) if trial % 2 else (0.7, 0.3)
        pair = [phantoms.fractional_brownian_surface(96, h, 50 + 2 * trial + n) for n, h in enumerate(hurst)]
        pair = [rng.uniform(0.1, 3) * surface + rng.uniform(-5, 5) for surface in pair]
        wrong += int(answer(*pair)) != int(hurst[1] < hurst[0])
    return _verdict(wrong == 0, f"{wrong} of 12 pairs are told wrongly; brightness and contrast were drawn at random")
