"""Checks of the chapter's exercises: each says whether an answer holds, and what to look at where it does not."""

from collections.abc import Callable

import numpy as np
import torch

from medrepro.answers import verdict
from medrepro.data import phantoms
from medrepro.multifractal.exponent import local_exponent


def check_other_scales(answer: Callable[[], tuple]) -> bool:
    """Whether `answer` returns the raw exponents of a flat picture and of a line at scales 4, 8, 16."""
    given = answer()
    if any(value is None for value in given):
        return verdict(False, "the function returns None; replace it")
    holds = np.allclose(given, (2.0, 1.0), atol=1e-4)
    return verdict(
        holds, f"got {given}; a box of twice the side holds 4 times the mass of a plane, twice that of a line"
    )


def check_exponent_from_blurs(answer: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether `answer` computes the exponent map of a positive picture (H, W), away from the border."""
    image = 1 + 255 * np.random.default_rng(7).random((40, 48))
    expected = local_exponent(torch.as_tensor(image)[None, None])[0, 0].numpy()[5:-5, 5:-5]
    given = np.asarray(answer(image.copy()), dtype=float)
    if given.shape != image.shape:
        return verdict(False, f"the map has shape {given.shape}, the picture {image.shape}")
    gap = np.abs(given[5:-5, 5:-5] - expected).max()
    return verdict(
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
    return verdict(wrong == 0, f"{wrong} of 12 pairs are told wrongly; brightness and contrast were drawn at random")


def check_dice(answer: Callable[[np.ndarray, np.ndarray], float]) -> bool:
    """Whether `answer` computes the Dice coefficient of a probability map and a mask as the paper's code does."""
    mask = np.zeros((8, 8))
    mask[2:6, 2:6] = 1
    half = np.where(np.arange(8) < 4, 0.9, 0.2) * np.ones((8, 1))
    cases = [(mask, mask, 1.0), (half, mask, 2 * 8 / (32 + 16)), (0 * mask, 0 * mask, 1.0), (0 * mask, mask, 0.0)]
    given = [float(answer(prob, truth)) for prob, truth, _ in cases]
    holds = np.allclose(given, [expected for *_, expected in cases], atol=1e-6)
    return verdict(holds, f"got {given}; threshold at 0.5 first, and two empty masks score 1")


def check_paired_gain(answer: Callable[[np.ndarray, np.ndarray], tuple]) -> bool:
    """Whether `answer` gives the mean paired gain and its 95 % interval for two lists of scores of the same cases."""
    from medrepro.metrics import interval

    rng = np.random.default_rng(5)
    plain = rng.normal(70, 8, 6)
    better = plain + rng.normal(1.5, 0.5, 6)
    expected = interval(better - plain)
    given = answer(better, plain)
    holds = given is not None and np.allclose(given, (expected.mean, expected.low, expected.high), atol=1e-6)
    return verdict(holds, f"got {given}; take differences case by case first, then Student's t with n - 1 degrees")


def check_smallest_gain(answer: Callable[[float, int], float]) -> bool:
    """Whether `answer` tells the smallest mean gain that `n` paired cases of given spread could show (t interval off zero)."""
    from scipy.stats import t

    cases = [(2.5, 3), (2.5, 5), (1.0, 20)]
    given = [answer(spread, n) for spread, n in cases]
    expected = [t.ppf(0.975, n - 1) * spread / np.sqrt(n) for spread, n in cases]
    holds = None not in given and np.allclose(given, expected, rtol=1e-3)
    return verdict(holds, f"got {given}; the half width of the 95 % interval is t times spread over the root of n")


def check_channel_gate(answer: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> bool:
    """Whether `answer` recalibrates features (C, H, W) by channel gates, given both dense layers and no biases."""
    from medrepro.multifractal.recalibration import ChannelSE

    rng = np.random.default_rng(11)
    features, w1, w2 = rng.random((6, 9, 7)), rng.normal(size=(3, 6)), rng.normal(size=(6, 3))
    layer = ChannelSE(6).double()
    with torch.no_grad():
        layer.gate.squeeze.weight.copy_(torch.as_tensor(w1))
        layer.gate.excite.weight.copy_(torch.as_tensor(w2))
        expected = layer(torch.as_tensor(features)[None])[0].numpy()
    given = np.asarray(answer(features.copy(), w1, w2), float)
    holds = given.shape == expected.shape and np.allclose(given, expected, atol=1e-9)
    return verdict(holds, "mean over each map, ReLU after the first layer, 1 / (1 + exp(-v)) after the second, product")


def check_sharp_enough(answer: Callable[[], float]) -> bool:
    """Whether `answer` gives the smallest s, to within 0.1, at which a pixel on an inner centre of eight belongs to it by 0.9."""
    from scipy.optimize import brentq

    distance = np.linspace(1, 3, 8)[3] - np.linspace(1, 3, 8)
    share = lambda s: 1 / np.exp(-(s**2) * distance**2).sum()
    expected = brentq(lambda s: share(s) - 0.9, 0.1, 50)
    given = answer()
    holds = given is not None and expected - 0.01 <= given <= expected + 0.1
    told = "nothing" if given is None else f"{given}, where the share is {share(given):.3f}"
    return verdict(holds, f"got {told}; both neighbours count, and the smallest s is asked for")


def check_flatten(answer: Callable[[torch.nn.Module], None]) -> bool:
    """Whether `answer` makes the level map of a Multi layer constant without touching centres and precisions."""
    from medrepro.multifractal.recalibration import Multi

    torch.manual_seed(5)
    layer = Multi(3, preset="paper").double().eval()
    before = {name: value.clone() for name, value in layer.named_parameters()}
    answer(layer)
    x = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(6)).double()
    with torch.no_grad():
        spread = float(layer.level_map(x).std())
    kept = all(torch.equal(before[name], getattr(layer, name)) for name in ("centres", "raw_precisions"))
    hint = f"the level map still spreads by {spread:.3g}" if kept else "centres and precisions are to stay as they are"
    return verdict(kept and spread < 1e-6, hint)
