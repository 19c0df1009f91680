"""Tables and figures of comparison, ablation and tasks, on fabricated results and on images made by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medrepro.dran import (
    ablation,
    ablation_exercises,
    comparison,
    comparison_exercises,
    experiments,
    task_exercises,
    task_runs,
    tasks,
)
from medrepro.dran.denoising_runs import QUALITIES
from medrepro.metrics import interval

LOOKS, LEVELS = comparison.LOOKS, comparison.LEVELS


class Stored:
    """A result as the store gives it back."""

    def __init__(self, settings, arrays, history=(), metrics=None, identity=""):
        self.settings, self.arrays, self.history, self.identity = settings, arrays, list(history), identity
        self.metrics = metrics or {}


def trained(psnr, *, model="dran", noise="paper", seed=0, images=2, **settings):
    shape = (2, 3, len(LOOKS), len(LEVELS), images)
    arrays = {"psnr": np.broadcast_to(psnr, shape), "ssim": np.full(shape, 0.5), "offset": np.full(shape, 1.0)}
    return Stored({"model": model, "noise": noise, "seed": seed, "looks": ["ct"], "steps": 200, **settings}, arrays)


def classical(psnr, *, noise="paper", images=2):
    shape = (3, 2, len(LOOKS), len(LEVELS), images)
    arrays = {name: np.broadcast_to(np.asarray(psnr, float), shape).copy() for name in QUALITIES}
    return Stored({"noise": noise, "methods": ["noisy", "BM3D"]}, arrays)


def test_every_score_of_every_run_has_one_row():
    frame = comparison.scores([trained(30.0), classical(20.0)])
    assert len(frame) == 2 * 6 * 3 * 2 + 3 * 2 * 6 * 3 * 2
    assert frame[frame["seed"] == 0]["unseen"].mean() == pytest.approx(5 / 6)  # one look of six was trained on


def test_order_of_the_arrays_axes_is_kept():
    values = np.arange(2 * 3 * 6 * 3 * 2).reshape(2, 3, 6, 3, 2)
    frame = comparison.scores([trained(values)], way="image").set_index(["law", "look", "level", "image"])
    assert frame.loc[("paper", LOOKS[4], 50, 1), "psnr"] == values[1, 1, 4, 2, 1]


def test_gain_is_paired_by_image():
    noise = np.random.default_rng(0).normal(size=(1, 1, 6, 3, 2))
    frame = comparison.scores([trained(noise + 25), classical(noise[0][None] + [[[[[20.0]]], [[[23.0]]]]])])
    found = comparison.gaps(frame, "paper").set_index(["over", "start", "level"])
    row = found.loc[("BM3D", "as it is", 25)]
    assert (row["gain"], row["gain low"], row["gain high"]) == pytest.approx((2, 2, 2))
    assert row["n"] == 12
    assert comparison.said(found.reset_index(), "BM3D", "as it is", 25, sign=-1) == "-2.0 [-2.0, -2.0]"


def test_gain_over_a_network_is_paired_by_seed():
    results = [trained(value, seed=seed) for seed, value in enumerate((30.0, 31.0, 29.5))]
    results += [trained(value, model="dncnn", seed=seed) for seed, value in enumerate((29.0, 29.5, 29.0))]
    found = comparison.seed_gain(comparison.scores(results), "paper", "DnCNN")
    expected = interval([1.0, 1.5, 0.5])
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_a_network_that_gains_nothing_has_not_begun_to_learn():
    results = [trained(20.3, model="dncnn"), trained(26.0), classical(20.0)]
    assert comparison.not_begun(comparison.scores(results)) == ["DnCNN (Gaussian)"]


def test_tables_say_what_each_method_was_told():
    frame = comparison.scores([classical(20.0, noise="authors_code"), trained(20.0, noise="authors_code")])
    table = comparison.comparison_table(frame, "authors_code", level=50).set_index(["method", "start"])["told"]
    assert table[("BM3D", "as it is")] == "deviation"
    assert table[("BM3D", "minus mean")] == "mean, deviation"
    assert table[("DRAN", "as it is")] == "nothing"


def test_figures_of_the_comparison_draw_what_their_tables_say():
    results = [trained(24.0, noise=law, seed=seed) for law in comparison.NOISES for seed in (0, 1)]
    results += [classical(20.0, noise=law) for law in comparison.NOISES]
    frame = comparison.scores(results)
    assert set(comparison.free_decibels(frame, 50)[1]["method"]) == {"noisy", "BM3D", "DRAN"}
    table = comparison.level_figure(frame)[1]
    assert len(table) == 2 * 3 * 3
    assert comparison.seen_and_unseen(frame)["look left out"].str.startswith("4.0").all()


def test_panels_tell_offset_and_spread_of_the_error():
    clean = np.full((3, 16, 16), 0.5)
    noisy = clean + 10 / 255
    _figure, table = comparison.panels({"clean": clean, "noisy": noisy, "DRAN": clean})
    assert table.set_index("method").loc["noisy", "mean error"] == pytest.approx(10)
    assert table.set_index("method").loc["DRAN", "mean taken off"] == pytest.approx(10)
    assert len(comparison.profiles({"clean": clean, "noisy": noisy, "DRAN": clean}, 3)[1]) == 16


def history(values):
    return [{"epoch": n + 1, "val_l1": value} for n, value in enumerate(values)]


def test_loss_of_predicting_nothing_is_the_mean_of_blind_gaussian_noise():
    generator = torch.Generator().manual_seed(0)
    sigma = 2 * 50 / 255 * torch.rand(400_000, generator=generator)
    mean = (sigma * torch.randn(400_000, generator=generator)).abs().mean()
    assert pytest.approx(float(mean), rel=0.01) == ablation.NOTHING
    assert pytest.approx(0.1564, abs=5e-5) == ablation.NOTHING


def test_steps_are_counted_to_the_first_loss_below_the_share():
    one = trained(30.0)
    one.history = history([0.2, 0.1, 0.07, 0.09] + [0.07] * 16)
    assert ablation.steps_to(one, 0.5) == 30
    assert ablation.steps_to(one, 0.1) == np.inf
    table = ablation.skip_table([one])
    assert table.loc[0, "steps to 0.5 of nothing"] == "30"
    assert table.loc[0, "steps to 0.75 of nothing"] == "20"


def arm(name, seed, psnr):
    planned = experiments.arm_run(name, seed)
    one = trained(psnr, seed=seed)
    one.settings, one.metrics = planned.settings, {"parameters": 7}
    one.history = history([0.1] * 20)
    return one


def test_arms_are_paired_with_dran_by_seed():
    results = [arm("dran", seed, 30 + seed) for seed in range(3)] + [
        arm("K = 1", seed, 29 + seed + 0.1 * seed) for seed in range(3)
    ]
    table = ablation.arm_table(results).set_index("arm")
    assert table.loc["K = 1", "gain"] == pytest.approx(-0.9)
    assert table.loc["K = 1", "p (Holm)"] < 0.05
    assert np.isnan(table.loc["DRAN as it stands", "p"])
    assert len(ablation.arm_figure(table.reset_index()).axes[0].get_yticklabels()) == 1


def test_arms_of_the_skip_path_are_told_from_the_others():
    results = [
        arm(name, 0, 30) for name in ("dran", "K = 1", "skip: identity", "T annealed", "skip: plain convolution")
    ]
    assert [ablation.skip_of(one) for one in ablation.skip_arms(results)] == [
        "noise gate", "identity", "plain convolution"
    ]  # fmt: skip


def test_mismatch_has_four_cells_and_norm_three_ways():
    both = [trained(30.0), trained(28.0, noise="authors_code")]
    assert len(ablation.mismatch_table(both)) == 4
    assert len(ablation.ways_table(both)) == 6


def test_every_other_lesion_phantom_has_no_lesion():
    images, masks = task_runs.lesions(6, 0, size=32)
    assert images.shape == (6, 3, 32, 32)
    assert masks.amax((1, 2, 3)).tolist() == [1, 0, 1, 0, 1, 0]


def test_finder_is_measured_by_dice_peak_and_roc_area():
    _, masks = task_runs.lesions(8, 1, size=32)
    perfect = torch.nn.Module()
    perfect.forward = lambda images: 20 * masks - 10
    assert task_runs.measured(perfect, masks, masks) == {"dice": 1.0, "detected": 1.0, "area": 1.0}
    blind = torch.nn.Module()
    blind.forward = lambda images: torch.zeros_like(masks)
    assert task_runs.measured(blind, masks, masks)["area"] == 0.5


def test_tasks_table_reads_finders_and_images_in_their_order():
    values = np.arange(8.0).reshape(2, 4) / 10
    results = [Stored({"level": 50, "seed": seed}, dict.fromkeys(task_runs.TASKS, values)) for seed in (0, 1)]
    table = tasks.tasks_table(results).set_index(["trained on", "given"])
    assert table.loc[("noisy", "DRAN"), "dice"] == pytest.approx(0.7)
    assert tasks.differences(results, 50, "dice")["denoised"].startswith("+0.20")  # 0.3 over 0.1
    assert len(tasks.tasks_figure(table.reset_index()).axes) == 3


def test_error_from_repeats_is_that_against_the_truth(monkeypatch):
    rng = np.random.default_rng(0)
    rows = np.linspace(0, 6, 120)
    clean = (0.5 + 0.2 * np.sin(rows)[:, None] * np.cos(rows)[None, :])[..., None, None] * np.ones((1, 1, 8, 1))
    volume = (clean + 0.05 * rng.standard_normal((120, 120, 8, 2))).astype(np.float32)
    monkeypatch.setattr(tasks, "packaged_volume", lambda name: (volume, None, None))
    monkeypatch.setattr(tasks, "blind_network", lambda net: lambda image, sd: clean[:, :, 0, 0] + 0.02)
    table = tasks.repeats_table(torch.nn.Identity())
    gain = table[table["method"] == "DRAN"]["gain"]
    np.testing.assert_allclose(gain, 20 * np.log10(0.05 / 0.02), atol=1.0)
    assert table[table["method"] == "left as it is"]["gain"].abs().max() < 1e-5
    assert isinstance(tasks.repeats_summary(table), pd.DataFrame)


RIGHT = {
    (comparison_exercises, "psnr"): lambda d, c: -10 * np.log10(np.mean((np.clip(d, 0, 1) - c) ** 2)),
    (comparison_exercises, "offset_limit"): lambda level: -20 * np.log10(level / 255),
    (comparison_exercises, "neighbour_correlation"): lambda p: np.corrcoef(p[:, 1:].ravel(), p[:, :-1].ravel())[0, 1],
    (ablation_exercises, "num_parameters"): lambda c, k: k * (9 * c * c + c) + (c + k) * (c // 4),
    (ablation_exercises, "paired_spread"): lambda a, b: np.std(b - a, ddof=1),
    (ablation_exercises, "temperature"): lambda epoch: max(1, 34 - 3 * epoch),
    (task_exercises, "noise_of_repeats"): lambda a, b: np.std(a - b) / 2**0.5,
    (task_exercises, "error_without_truth"): lambda d, v, sd: np.mean((d - v) ** 2) - sd**2,
    (task_exercises, "roc_area"): lambda ill, well: roc_auc_score([1] * len(ill) + [0] * len(well), [*ill, *well]),
}  # fmt: skip
WRONG = {
    "psnr": lambda d, c: -10 * np.log10(np.mean((d - c) ** 2)),
    "offset_limit": lambda level: -10 * np.log10(level / 255),
    "neighbour_correlation": lambda p: (p[:, 1:] * p[:, :-1]).mean() / (p**2).mean(),
    "num_parameters": lambda c, k: k * 9 * c * c,
    "paired_spread": lambda a, b: np.hypot(np.std(a), np.std(b)),
    "temperature": lambda epoch: 34 - 3 * epoch,
    "noise_of_repeats": lambda a, b: np.std(a - b),
    "error_without_truth": lambda d, v, sd: np.mean((d - v) ** 2),
    "roc_area": lambda ill, well: (ill[:, None] > well).mean(),
}


@pytest.mark.parametrize(("module", "name"), RIGHT)
def test_checks_pass_right_answers_and_no_others(module, name, capsys):
    check = getattr(module, f"check_{name}")
    assert check(RIGHT[module, name])
    assert not check(WRONG[name])
    assert not check(lambda *args: None)
    assert "Right" in capsys.readouterr().out
