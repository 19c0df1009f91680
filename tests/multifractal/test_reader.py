"""What a careful reader checks, and the differences between text and code that no layer shows."""

import json

import numpy as np
import pytest

from medrepro import published
from medrepro.data import segmentation, splits
from medrepro.multifractal import comparison, experiments, leakage_runs, reader, reader_exercises
from medrepro.multifractal.segmentation_runs import train_segmenter

# p values computed from the published means and spreads by an independent script, rounded: Welch, paired, corrected
KNOWN = {
    ("ISIC18", "Mono"): (0.0009, 0.002, 0.009), ("ISIC18", "Multi"): (0.0009, 0.002, 0.009),
    ("ISIC18", "cSE"): (0.028, 0.020, 0.065), ("ISIC18", "scSE"): (0.017, 0.013, 0.047),
    ("ISIC18", "FCA"): (0.077, 0.056, 0.150), ("Kvasir-SEG", "Mono"): (0.79, 0.73, 0.82),
    ("Kvasir-SEG", "Multi"): (0.083, 0.049, 0.137), ("BUSI", "Mono"): (0.0024, 0.0035, 0.015),
    ("BUSI", "Multi"): (0.015, 0.012, 0.044), ("BUSI", "cSE"): (0.041, 0.028, 0.087),
    ("BUSI", "SRM"): (0.011, 0.010, 0.037), ("BUSI", "FCA"): (0.030, 0.020, 0.068),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_p_values_from_published_means_and_spreads(case):
    row = reader.published_tests(correlation=0.5).set_index(["data", "network"]).loc[case]
    for name, expected in zip(("Welch", "paired", "corrected"), KNOWN[case], strict=True):
        digits = len(str(expected).split(".")[1])
        assert row[name] == pytest.approx(expected, abs=0.51 * 10**-digits), name


def test_bonferroni_keeps_four_comparisons_by_welch_and_none_corrected():
    tests = reader.published_tests(correlation=0.5)
    assert len(tests) == 18
    kept = tests[tests["Welch"] <= 0.05 / 18]
    assert set(zip(kept["data"], kept["network"], strict=True)) == {
        ("ISIC18", "Mono"), ("ISIC18", "Multi"), ("BUSI", "Mono"), ("Kvasir-SEG", "SRM"),
    }  # fmt: skip
    assert (tests["corrected"] > 0.05 / 18).all()


def test_paired_p_is_scipys_for_scores_of_the_given_moments():
    from scipy import stats

    rng = np.random.default_rng(0)
    noise = rng.standard_normal((5, 2))
    noise -= noise.mean(0)
    noise = np.linalg.solve(np.linalg.cholesky(np.cov(noise.T)), noise.T).T  # exactly uncorrelated, variance 1
    frame = published.frame("multifractal", "table_1").set_index(["data", "model"])
    plain, multi = frame.loc[("busi", "unet")], frame.loc[("busi", "multi")]
    first = plain["value"] + plain["spread"] * noise[:, 0]
    second = multi["value"] + multi["spread"] * (0.5 * noise[:, 0] + 0.75**0.5 * noise[:, 1])
    found = reader.published_tests(correlation=0.5).set_index(["data", "network"]).loc[("BUSI", "Multi")]
    assert found["paired"] == pytest.approx(stats.ttest_rel(second, first).pvalue, rel=1e-6)


def test_difference_14_the_plateau_schedule_cannot_act():
    assert np.allclose(reader.plateau_rates(60, floor=1e-4), 1e-4)
    assert reader.plateau_rates(60, floor=0.0)[-1] < 1e-5


def test_difference_15_two_sources_give_multi_on_kvasir_another_mark():
    table = comparison.published_table().set_index("network")
    assert table.loc["Multi", "Kvasir-SEG"] == "74.76 ± 2.20 † (README) / ‡ (arXiv v1, as summarised)"
    assert table.loc["Multi", "BUSI"] == "66.94 ± 2.45 †"


def test_half_of_the_level_sets_start_dead():
    counts = reader.dead_at_start(300, seed=1)
    assert counts.shape == (300,)
    assert counts.mean() == pytest.approx(8, abs=0.5)  # Binomial(16, 1/2): standard error .12
    assert counts.std() == pytest.approx(2, abs=0.4)


def test_validation_images_are_the_same_in_four_folds():
    table = reader.validation_sets().set_index("data")
    assert table.loc["Kvasir-SEG", ["first", "last", "folds with the very same"]].tolist() == [920, 999, 4]
    assert table.loc["ISIC18", ["first", "last", "folds with the very same"]].tolist() == [2387, 2593, 4]


def test_a_grey_mask_caps_dice_and_zeroes_iou():
    table = reader.mask_ceiling([1.0, 0.97]).set_index("mask stored at")
    assert table.loc[1.0].tolist() == [1, 1]
    assert table.loc[0.97, "Dice"] == pytest.approx(2 * 0.97 / 1.97)
    assert table.loc[0.97, "IoU"] == 0


def test_leakage_counts_test_images_with_a_group_member_in_training(monkeypatch):
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])  # the first two images belong together
    whole = segmentation.SegmentationSet(
        images=np.zeros((10, 3, 4, 4), "float32"), masks=np.zeros((10, 1, 4, 4), "float32"),
        names=np.arange(10).astype(str), labels=np.zeros(10, int), groups=groups,
    )  # fmt: skip
    monkeypatch.setattr(segmentation, "load_segmentation", lambda data, size: whole)
    two = [
        {"train": np.array([1, 2, 3, 4]), "test": np.array([0, 5, 6, 7])},
        {"train": np.arange(2), "test": np.array([8])},
    ]
    monkeypatch.setattr(splits, "folds", lambda *args, **kwargs: two)
    metrics = leakage_runs.leakage("busi", 4)["metrics"]
    assert metrics["leaked_authors"] == pytest.approx((1 / 4 + 0) / 2)
    assert (metrics["images"], metrics["groups"], metrics["in_groups"]) == (10, 9, 2)


class Trained:
    def __init__(self, settings):
        self.settings = settings
        result = train_segmenter(**settings)
        self.metrics, self.weights = result["metrics"], result["weights"]


@pytest.fixture(scope="module")
def trained():
    small = {
        "data": "phantom", "preset": "authors_code", "seed": 0, "size": 16, "channels": (8, 16), "num_epochs": 1,
        "batch_size": 4, "num_train": 8, "num_val": 4, "num_test": 6, "keep_weights": True, "lr": 1e-2, "phantom": {},
    }  # fmt: skip
    return [Trained({**small, "model": model}) for model in ("mono", "multi")]


def test_scores_at_the_authors_batch_are_those_of_the_training_run(trained):
    table = reader.batch_scores(trained, sizes=(1, 32)).set_index("network")
    for one, name in zip(trained, ("Mono", "Multi"), strict=True):
        assert table.loc[name, "batch 32"] == pytest.approx(100 * one.metrics["dice"], abs=1e-6)
        assert table.loc[name, "batch 1"] == pytest.approx(100 * one.metrics["dice_sample"], abs=1e-4)


def test_dead_level_sets_stay_dead(trained):
    table = reader.dead_after_training(trained[1:])
    assert (table["came alive"] == 0).all()
    assert (table["dead at the end"] >= table["dead at the start"]).all()
    assert table["dead at the start"].sum() > 0


class Stored:
    def __init__(self, run, dice):
        self.settings = json.loads(json.dumps(run.settings, sort_keys=True))  # as a file gives them back
        self.metrics = {"dice": dice, "levelled": True}


def test_every_arm_is_found_again():
    results = [Stored(run, 0.5) for arm in experiments.ARMS for run in experiments.arm_runs(arm)]
    found = reader.arm_gains(results)
    assert set(found["arm"]) == set(experiments.ARMS) - {"unet"}
    assert (found["n"] == 3).all()


def test_gains_of_arms_are_paired_by_seed():
    dice = {"unet": (0.5, 0.6, 0.7), "mono": (0.55, 0.66, 0.77), "mono, noise": (0.53, 0.64, 0.75)}
    results = [
        Stored(run, value)
        for arm, values in dice.items()
        for run, value in zip(experiments.arm_runs(arm), values, strict=True)
    ]
    table = reader.arm_gains(results).set_index("arm")
    assert table.loc["mono", "gain"] == pytest.approx(6)
    assert table.loc["mono", "against"] == "U-Net"
    assert table.loc["mono, noise", ["gain", "gain low", "gain high"]].tolist() == pytest.approx([-2, -2, -2])
    assert table.loc["mono, noise", "against"] == "Mono"
    line = reader.told(table.reset_index(), "mono, noise", "multi")
    assert line == "mono, noise -2.0 [-2.0, -2.0]; multi: not recorded"
    figure, _ = reader.arms_figure(table.reset_index())
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["against U-Net", "against Mono"]
    with pytest.raises(ValueError, match="record some first"):
        reader.arm_gains([])


RIGHT = {
    "corrected_p": lambda gain, s1, s2: student(gain / np.sqrt((s1**2 + s2**2 - s1 * s2) * 0.45)),
    "leaked_share": lambda groups, train, test: np.mean([groups[i] in set(groups[train]) for i in test]),
    "dead_share": lambda shift: min(1, max(0, 0.5 - 10 * shift)),
}
WRONG = {
    "corrected_p": lambda gain, s1, s2: student(gain / np.sqrt((s1**2 + s2**2 - s1 * s2) / 5)),
    "leaked_share": lambda groups, train, test: len(set(groups[test]) & set(groups[train])) / len(set(groups[test])),
    "dead_share": lambda shift: 0.5 - 10 * shift,
}


def student(statistic):
    from scipy.stats import t

    return 2 * t.sf(abs(statistic), 4)


@pytest.mark.parametrize("name", RIGHT)
def test_checks_pass_right_answers_and_no_others(name, capsys):
    check = getattr(reader_exercises, f"check_{name}")
    assert check(RIGHT[name])
    assert not check(WRONG[name])
    assert not check(lambda *args: None)
    assert "Right" in capsys.readouterr().out
