"""Checks of the exercises on cost."""

from collections.abc import Callable

import numpy as np

from medrepro.answers import verdict


def check_box_sum_4(answer: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether `answer` gives sums over 4 x 4 boxes, shape (H - 3, W - 3), with slices and additions."""
    image = np.random.default_rng(2).random((9, 12))
    expected = np.lib.stride_tricks.sliding_window_view(image, (4, 4)).sum((2, 3))
    given = answer(image.copy())
    holds = given is not None and np.shape(given) == expected.shape and np.allclose(given, expected)
    shape = None if given is None else np.shape(given)
    return verdict(
        holds, f"got shape {shape}, expected {expected.shape}; add pairs, then pairs of pairs, along either axis"
    )


def check_gibibytes(answer: Callable[[int, int, int, int, int], float]) -> bool:
    """Whether `answer` gives the GiB of one float32 tensor of shape (B, C, H, W, Q)."""
    cases = [(16, 32, 224, 224, 16), (4, 8, 40, 40, 16), (1, 1, 1, 1, 1)]
    given = [answer(*case) for case in cases]
    expected = [4 * np.prod(case, dtype=float) / 2**30 for case in cases]
    return verdict(
        None not in given and np.allclose(given, expected), f"got {given}; four bytes a number, 2^30 bytes a GiB"
    )


def check_fair_ratio(answer: Callable[[np.ndarray, np.ndarray], float]) -> bool:
    """Whether `answer` recovers the ratio of two times that share a drifting load, with a few hiccups."""
    rng, wrong = np.random.default_rng(4), []
    for true in (1.2, 0.8, 3.0):
        load = np.exp(np.cumsum(0.2 * rng.standard_normal(41)))
        plain, ours = load, true * load * np.exp(0.01 * rng.standard_normal(41))
        ours[[3, 17, 30]] *= 20
        given = answer(plain, ours)
        if given is None or abs(given / true - 1) > 0.02:
            wrong.append((given, true))
    told = f"got {wrong[0][0]} where {wrong[0][1]} was expected" if wrong else ""
    return verdict(not wrong, f"{told}; divide round by round first, then take a middle that ignores hiccups")
