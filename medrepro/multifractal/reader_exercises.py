"""Checks of the careful reader's exercises."""

from collections.abc import Callable

import numpy as np

from medrepro.answers import verdict


def check_corrected_p(answer: Callable[[float, float, float], float]) -> bool:
    """Whether `answer` gives Nadeau and Bengio's two-sided p for five folds from means and spreads, correlation 1/2."""
    from scipy.stats import t

    cases = [(0.84, 0.27, 0.25), (2.54, 2.20, 1.82), (-11.09, 3.42, 1.82)]
    expected = []
    for gain, first, second in cases:
        spread = np.sqrt(first**2 + second**2 - first * second)
        expected.append(2 * t.sf(abs(gain) / (spread * np.sqrt(1 / 5 + 1 / 4)), 4))
    given = [answer(*case) for case in cases]
    holds = None not in given and np.allclose(given, expected, rtol=1e-3)
    return verdict(
        holds,
        f"got {given}; the variance of the difference is s1^2 + s2^2 - s1 s2, the factor 1/5 + 1/4, four degrees of freedom",
    )


def check_leaked_share(answer: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> bool:
    """Whether `answer` gives the share of test images that have a member of their group in training."""
    rng = np.random.default_rng(0)
    wrong = []
    for count in (12, 40):
        groups = rng.integers(0, count // 2, count)
        test, train = np.split(rng.permutation(count), [count // 4])
        expected = np.mean([any(groups[i] == groups[j] for j in train) for i in test])
        given = answer(groups, train, test)
        if given is None or abs(given - expected) > 1e-9:
            wrong.append((given, expected))
    hint = f"got {wrong[0][0]} where {wrong[0][1]:.3f} was expected; count test images, not groups" if wrong else ""
    return verdict(not wrong, hint)


def check_dead_share(answer: Callable[[float], float]) -> bool:
    """Whether `answer` gives the expected share of dead level sets if weights start from U(-0.05, 0.05) plus a shift."""
    given = [answer(shift) for shift in (-0.05, 0.0, 0.025, 0.05, 0.2)]
    holds = None not in given and np.allclose(given, (1.0, 0.5, 0.25, 0.0, 0.0), atol=1e-6)
    return verdict(holds, f"got {given}; a level set is dead where its weight is at most 0, and shares lie in [0, 1]")
