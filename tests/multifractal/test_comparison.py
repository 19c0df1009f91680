"""Table 1 beside our numbers: paired gains, published tests, against numbers by hand and scipy."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from medrepro.multifractal import comparison, evidence

pytestmark = pytest.mark.quick


def trained(model, case, dice, *, preset="authors_code", levelled=True, **more):
    settings = {"model": model, "preset": preset, "seed": case}
    return SimpleNamespace(
        settings=settings, metrics={"dice": dice, "levelled": levelled, **more}, history=[{"val_dice": dice}]
    )


RESULTS = [
    *(trained("unet", n, value) for n, value in enumerate((0.70, 0.60, 0.80))),
    *(trained("cse", n, value, levelled=n > 0) for n, value in enumerate((0.72, 0.63, 0.81))),
]


def test_gains_are_paired_by_case_and_given_in_points():
    np.testing.assert_allclose(evidence.paired(RESULTS, "cse"), [2, 3, 1])
    shuffled = [*RESULTS[3:][::-1], *RESULTS[:3]]
    np.testing.assert_allclose(evidence.paired(shuffled, "cse"), [2, 3, 1])


def test_a_case_that_only_one_network_has_does_not_count():
    np.testing.assert_allclose(evidence.paired(RESULTS[:-1], "cse"), [2, 3])


def test_gain_interval_and_p_are_those_of_scipy():
    row = comparison.gains(RESULTS, preset="authors_code").set_index("network").loc["cSE"]
    tested = stats.ttest_rel([72, 63, 81], [70, 60, 80])
    low, high = tested.confidence_interval()
    np.testing.assert_allclose(
        [row["gain"], row["gain low"], row["gain high"], row["p"]], [2, low, high, tested.pvalue]
    )
    assert row["still falling"] == 1


def test_trainings_that_found_nothing_are_counted_and_told():
    table = comparison.gains([*RESULTS, trained("cse", 3, 0.009)], preset="authors_code")
    assert table.set_index("network")["found nothing"].to_dict() == {"U-Net": 0, "cSE": 1}
    assert comparison.readable(table)["found nothing"].tolist() == ["0 of 3", "1 of 4"]


def test_the_other_reading_is_chosen_where_a_network_has_two():
    both = [*RESULTS, *(trained("mono", n, 0.5, preset="authors_code") for n in range(3))]
    both += [trained("mono", n, 0.9, preset="paper") for n in range(3)]
    table = comparison.gains(both, preset="paper", models=("unet", "mono")).set_index("network")
    assert table.loc["Mono", "Dice (%)"] == pytest.approx(90)
    assert table.loc["U-Net", "n"] == 3


def test_folds_are_corrected_for_shared_training_images():
    folds = []
    for model, values in (("unet", (0.70, 0.60, 0.80)), ("cse", (0.72, 0.63, 0.81))):
        for fold, value in enumerate(values):
            one = trained(model, 0, value, num_test=100, num_train=200)
            one.settings["fold"] = fold
            folds.append(one)
    assert evidence.overlap(folds) == 0.5
    wide = comparison.gains(folds, preset="authors_code").set_index("network").loc["cSE"]
    expected = stats.t.ppf(0.975, 2) * 1.0 * np.sqrt(1 / 3 + 0.5)  # the differences 2, 3, 1 have standard deviation 1
    assert wide["gain high"] - wide["gain"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("data", "network", "p"),
    [("isic18", "Mono", 0.0009), ("kvasir", "Multi", 0.083), ("busi", "cSE", 0.041), ("busi", "FCA", 0.030)],
)
def test_welch_from_published_numbers_is_what_a_hand_calculation_gives(data, network, p):
    given = comparison.welch_from_table(data).set_index("network").loc[network, "p (Welch)"]
    assert given == pytest.approx(p, abs=6e-4)  # the reference has two digits


def test_published_table_has_no_missing_cell_and_keeps_the_marks():
    table = comparison.published_table().set_index("network")
    assert table.loc["Mono", "BUSI"] == "69.00 ± 2.53 ‡"
    assert table.loc["U-Net", "ISIC18"] == "85.40 ± 0.25"
    assert not table.apply(lambda column: column.str.contains("nan")).any().any()


def test_evidence_without_any_run_is_empty(monkeypatch):
    monkeypatch.setattr(evidence.recorded, "found", lambda wanted: [])
    assert evidence.gain_over_unet(live=False, model="multi") == []
