"""Checks of the exercises: a right answer passes, a plausible wrong one does not, and the stub does not."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from medrepro.multifractal import exercises

pytestmark = pytest.mark.quick


def blurs(image, *, shift=0):
    large = ndimage.uniform_filter(image, 8, origin=-1 + shift)  # covers i-3 .. i+4
    small = ndimage.uniform_filter(image, 2, origin=-1 + shift)  # covers i .. i+1
    return 2 + 0.5 * np.log2(large / small)


def gate(maps, hidden, w2):
    return maps / (1 + np.exp(-(w2 @ hidden)))[:, None, None]


def dice(prob, mask):
    hard = prob >= 0.5
    return (2 * (hard * mask).sum() + 1e-12) / (hard.sum() + mask.sum() + 1e-12)


def paired(better, plain):
    tested = stats.ttest_rel(better, plain)
    return (np.mean(better - plain), *tested.confidence_interval())


def unpaired(better, plain):
    tested = stats.ttest_ind(better, plain)
    return (np.mean(better) - np.mean(plain), *tested.confidence_interval())


RIGHT = {
    "other_scales": lambda: (2.0, 1.0),
    "exponent_from_blurs": blurs,
    "rougher": lambda first, second: int(np.diff(second).std() / second.std() > np.diff(first).std() / first.std()),
    "dice": dice,
    "paired_gain": paired,
    "smallest_gain": lambda spread, n: stats.t.ppf(0.975, n - 1) * spread / n**0.5,
    "channel_gate": lambda maps, w1, w2: gate(maps, np.maximum(w1 @ maps.mean((1, 2)), 0), w2),
    "sharp_enough": lambda: 6.0,
    "flatten": lambda layer: torch.nn.init.constant_(layer.phi.weight, 0.3),
}
WRONG = {
    "other_scales": lambda: (2.0, 2.0),
    "exponent_from_blurs": lambda image: blurs(image, shift=1),
    "rougher": lambda first, second: int(second.std() > first.std()),
    "dice": lambda prob, mask: 2 * (prob * mask).sum() / (prob.sum() + mask.sum() + 1e-12),
    "paired_gain": unpaired,
    "smallest_gain": lambda spread, n: 1.96 * spread / n**0.5,
    "channel_gate": lambda maps, w1, w2: gate(maps, w1 @ maps.mean((1, 2)), w2),
    "sharp_enough": lambda: 7.0,
    "flatten": lambda layer: torch.nn.init.zeros_(layer.raw_precisions),
}
STUB = {
    "other_scales": lambda: (None, None), "paired_gain": lambda a, b: None, "smallest_gain": lambda a, b: None,
    "channel_gate": lambda maps, w1, w2: maps, "sharp_enough": lambda: 1.0, "flatten": lambda layer: None,
}  # fmt: skip


def test_every_check_is_tried_here():
    assert (
        set(RIGHT)
        == set(WRONG)
        <= {name.removeprefix("check_") for name in vars(exercises) if name.startswith("check_")}
    )


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    assert getattr(exercises, f"check_{name}")(RIGHT[name])
    assert capsys.readouterr().out.startswith("Right")


@pytest.mark.parametrize("name", WRONG)
def test_a_plausible_wrong_answer_does_not_pass_and_gets_a_hint(name, capsys):
    assert not getattr(exercises, f"check_{name}")(WRONG[name])
    assert len(capsys.readouterr().out) > 30


@pytest.mark.parametrize("name", STUB)
def test_an_unchanged_stub_does_not_pass(name):
    assert not getattr(exercises, f"check_{name}")(STUB[name])
