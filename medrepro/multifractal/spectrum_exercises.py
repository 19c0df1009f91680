"""Checks of the exercises on spectra: each says whether an answer holds, and what to look at where it does not."""

from collections.abc import Callable

import numpy as np

from medrepro.answers import verdict
from medrepro.multifractal.spectrum import partition_function, spectrum


def tossed_cascade(levels: int, p: float, seed: int) -> np.ndarray:
    """A binomial cascade whose four shares are dealt to the four quarters at random, split by split; sum 1.

    It has the spectrum of the plain cascade, since sums over boxes do not ask where a box lies.
    """
    rng, shares = np.random.default_rng(seed), np.outer([p, 1 - p], [p, 1 - p]).ravel()
    mass = np.ones((1, 1))
    for _ in range(levels):
        dealt = rng.permuted(np.broadcast_to(shares, (*mass.shape, 4)), axis=-1).reshape(*mass.shape, 2, 2)
        mass = (mass[:, :, None, None] * dealt).transpose(0, 2, 1, 3).reshape(2 * len(mass), -1)
    return mass


def check_mass_exponent(answer: Callable[[np.ndarray, float], float]) -> bool:
    """Whether `answer` computes tau(q) of a measure over all its dyadic boxes."""
    measure = np.random.default_rng(11).gamma(2.0, size=(32, 32))
    moments = (-1.5, 0.0, 1.0, 2.0)
    expected = spectrum(partition_function(measure, moments)).tau
    given = [answer(measure.copy(), q) for q in moments]
    if None in given:
        return verdict(False, "the function returns None; replace it")
    holds = np.allclose(given, expected, atol=1e-6)
    return verdict(
        holds, f"at q = {moments} got {np.round(given, 4)}, expected {expected.round(4)}; is the total mass 1, and are "
        "all sides from 1 to 32 in the fit?",
    )  # fmt: skip


def check_share(answer: Callable[[np.ndarray], float]) -> bool:
    """Whether `answer` finds the smaller share p of cascades whose quarters were dealt at random."""
    shares = (0.12, 0.25, 0.38, 0.47)
    given = [answer(tossed_cascade(6, p, seed)) for seed, p in enumerate(shares)]
    if None in given:
        return verdict(False, "the function returns None; replace it")
    return verdict(
        np.allclose(given, shares, atol=1e-3),
        f"got {np.round(given, 4)} for shares {shares}; the corner pixel knows nothing here, a mass exponent does",
    )


def check_beyond_histogram(answer: Callable[[np.ndarray, int], float]) -> bool:
    """Whether `answer` is large for a measure with correlated pixels and near 0 for the same pixels in any order."""
    cascade = tossed_cascade(7, 0.35, 0)
    shuffled = np.random.default_rng(5).permutation(cascade.ravel()).reshape(cascade.shape)
    given = [answer(cascade, 1), answer(shuffled, 1)]
    if None in given:
        return verdict(False, "the function returns None; replace it")
    holds = given[0] > 0.5 and abs(given[1]) < 0.25 * given[0]
    return verdict(
        holds, f"got {given[0]:.3f} for a cascade and {given[1]:.3f} for its shuffled pixels; subtract the width of a "
        "shuffled copy, and leave out side 1, where order cannot count",
    )  # fmt: skip
