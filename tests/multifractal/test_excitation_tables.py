"""Tables, evidence and plan of the excitation analysis, on made-up runs whose numbers are known by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from medrepro import ledger, metrics, runs, staging
from medrepro.multifractal import excitation_evidence as evidence
from medrepro.multifractal import excitation_figures as figures
from medrepro.multifractal import excitation_tables as tables
from medrepro.multifractal import experiments
from medrepro.multifractal.excitations import pca_threshold

pytestmark = pytest.mark.quick
NOTEBOOK, TABLE = "multifractal/04-excitations", "multifractal/03-table-1"


def gates(rank, *, scale=0.1, images=40, channels=16):
    """Exactly `rank` equal directions of variance on channels of their own, so that the threshold is known."""
    x = np.full((images, channels), 0.5)
    for n in range(rank):
        x[:, n] += scale * np.cos(2 * np.pi * (n + 1) * (np.arange(images) + 0.5) / images)
    return x


def run(model, seed=0, *, dice=0.7, ranks=(1, 2, 3), skips=True, scale=0.1, **more):
    arrays = {} if model == "unet" else {f"excitation_{d}": gates(r, scale=scale) for d, r in enumerate(ranks, 1)}
    settings = {"model": model, "seed": seed, **({} if skips else {"skips": False})}
    return SimpleNamespace(
        settings=settings | more, metrics={"dice": dice, "num_test": 1, "num_train": 2}, arrays=arrays
    )


GRID = [
    one for seed in range(3) for one in (
        run("unet", seed, dice=0.70),
        run("cse", seed, dice=0.71, ranks=(1, 2, 3), scale=0.01),
        run("cse", seed, dice=0.60, ranks=(2, 2, 2 + (seed == 2)), skips=False),
        run("srm", seed, dice=0.72, ranks=(4, 4, 6), scale=0.02),
        run("fca", seed, dice=0.73, ranks=(1, 1, 1), scale=0.01),
        run("mono", seed, dice=0.74, ranks=(2, 4, 8), scale=0.40),
    )
]  # fmt: skip


def test_made_up_gates_have_the_threshold_they_were_made_for():
    assert [pca_threshold(gates(rank)) for rank in (1, 2, 3, 6)] == [1, 2, 3, 6]


def test_every_gated_run_is_analysed_at_every_depth_and_the_plain_network_at_none():
    table = tables.analysed(GRID)
    assert len(table) == 3 * 5 * 3
    assert "unet" not in set(table["network"])
    row = table.query("network == 'srm' and depth == 3").iloc[0]
    assert (row["EPT"], row["images"], row["channels"], row["case"]) == (6, 40, 16, (0, 0))
    assert row["narrow channels"] == 10  # 16 channels, 6 of which vary
    assert row["total variance"] == pytest.approx(6 * 0.02**2 / 2 * 40 / 39)


def test_no_run_at_all_gives_empty_tables():
    table = tables.analysed([])
    assert not len(table)
    assert not len(tables.by_depth(table))
    assert not len(tables.slopes(table))
    assert not len(tables.variability_and_gain([], table))
    assert not len(tables.slope_table({"ours": tables.slopes(table)}, {}))


def test_thresholds_by_depth_have_mean_and_range_over_cases():
    table = tables.by_depth(tables.analysed(GRID)).set_index(["network", "depth"])
    assert table.loc[("cse-ns", 3), ["EPT", "smallest", "largest", "cases"]].tolist() == pytest.approx([7 / 3, 2, 3, 3])
    assert list(dict.fromkeys(table.index.get_level_values(0))) == ["cse", "cse-ns", "srm", "fca", "mono"]


def test_slopes_are_paired_by_case_and_incomplete_cases_do_not_count():
    table = tables.slopes(tables.analysed(GRID))
    np.testing.assert_allclose(
        table[["with skips", "without skips", "difference"]], [[1, 0, 1], [1, 0, 1], [1, 0.5, 0.5]]
    )
    without = [one for one in GRID if not (one.settings["seed"] == 1 and one.settings.get("skips") is False)]
    assert tables.slopes(tables.analysed(without[::-1]))["case"].tolist() == [(0, 0), (2, 0)]


def test_published_slopes_by_hand():
    table = tables.published_slopes().set_index("case")
    assert table["difference"].to_dict() == {"isic18": 1.5 - 0.5, "kvasir": 2.0, "busi": 1.0}
    again = tables.published_slopes(again=True).set_index("case")
    assert again["difference"].to_dict() == {"isic18": 1.0, "kvasir": 2.0, "busi": 0.5}


def test_gains_stand_beside_the_statistics_of_the_same_run():
    points = tables.variability_and_gain(GRID, tables.analysed(GRID))
    points = points[[case == (1, 0) for case in points["case"]]].set_index("network")
    assert points["gain"].to_dict() == pytest.approx({"cse": 1, "srm": 2, "fca": 3, "mono": 4})
    assert points.loc["mono", "participation ratio"] == pytest.approx(8)


def test_published_correlation_is_that_of_scipy():
    points = tables.published_variability_and_gain()
    assert len(points) == 12
    table = tables.correlation_table({"published": points}, {}).set_index("statistic")
    rho = stats.spearmanr(points["total variance"], points["gain"]).statistic
    assert table.loc["total variance", "all points"].startswith(f"{rho:.2f} [")
    inside = [stats.spearmanr(own["total variance"], own["gain"]).statistic for _, own in points.groupby("case")]
    np.testing.assert_allclose(tables.case_correlations(points, "total variance"), inside)
    assert table.loc["total variance", ["points", "cases"]].tolist() == [12, 3]


def test_correlation_with_gains_that_do_not_vary_is_undefined():
    points = tables.published_variability_and_gain().assign(gain=0.0)
    table = tables.correlation_table({"published": points}, {}).set_index("statistic")
    assert table.loc["total variance", ["points", "all points", "cases"]].tolist() == [12, "undefined", 0]


def test_published_variances_and_gains_of_isic18_have_no_rank_correlation():
    own = tables.published_variability_and_gain().query("case == 'isic18'").set_index("network")
    assert own["gain"].to_dict() == pytest.approx({"cse": 0.54, "srm": -1.07, "fca": 0.79, "mono": 0.84})
    assert tables.case_correlations(own.reset_index(), "total variance") == pytest.approx([1 - 6 * 10 / 60])


# -- evidence --------------------------------------------------------------------------------------------------------


def test_effects_by_hand():
    assert evidence.slope_differences(GRID) == [1, 1, 0.5]
    assert evidence.above_cse(GRID) == pytest.approx([np.mean([3 - 1, 4 - 2, 7 - 3])] * 3)
    assert evidence.above_cse(GRID, depths=(3,)) == [4, 4, 4]
    # total variances rank fca, cse, srm, mono; gains rank cse, srm, fca, mono: squared differences 1, 1, 4, 0
    assert evidence.variability_correlations(GRID) == pytest.approx([1 - 6 * 6 / 60] * 3)


FUNCTIONS = (
    "threshold_with_and_without_skips",
    "threshold_figure",
    "explained_variance_figure",
    "variability_and_gain",
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_evidence_speaks_to_every_condition_of_its_row_that_is_attempted(name, monkeypatch):
    folds = [
        SimpleNamespace(**{**vars(one), "settings": {**one.settings, "seed": 0, "fold": one.settings["seed"]}})
        for one in GRID[:12]
    ]
    monkeypatch.setattr(evidence.recorded, "found", lambda wanted: folds)
    monkeypatch.setattr(evidence.runs, "load", dict(zip(staging.plan(NOTEBOOK, "cpu"), GRID)).get)
    given = getattr(evidence, name)(live=True)
    [*rows] = [row for row in ledger.read("multifractal").rows if (row.evidence or "").endswith(f":{name}")]
    assert rows
    for row in rows:
        attempted = {one.name for one in row.conditions if not one.not_attempted}
        assert {one.condition for one in given} == attempted
    assert {one.source for one in given} == {"recorded, real data", "live, phantoms"}
    assert {len(one.effects) for one in given if one.source == "live, phantoms"} == {3}
    real = [one for one in given if one.source == "recorded, real data"]
    assert all(one.overlap == 0.5 and len(one.effects) == 2 for one in real)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_evidence_without_any_run_is_empty(name, monkeypatch):
    monkeypatch.setattr(evidence.recorded, "found", lambda wanted: [])
    monkeypatch.setattr(evidence.runs, "load", lambda run: None)
    assert getattr(evidence, name)(live=True) == []
    assert getattr(evidence, name)(live=False) == []


def test_smallest_effects_of_claim_2_are_half_the_typed_differences():
    [row] = [row for row in ledger.read("multifractal").rows if row.item == "Claim 2"]
    typed = tables.published_slopes().set_index("case")["difference"]
    assert {one.name: one.smallest for one in row.conditions} == (typed / 2).to_dict()


# -- plan ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", experiments.PROFILES)
def test_the_notebook_adds_nothing_to_table_1_but_networks_without_skips(profile):
    shared, planned = staging.plan(TABLE, profile), staging.plan(NOTEBOOK, profile)
    added = [one for one in planned if one not in shared]
    assert {one.digest for one in planned} - {one.digest for one in shared} == {one.digest for one in added}
    assert len(added) == len({one.settings["seed"] for one in planned})
    for one in added:
        assert one.settings["skips"] is False
        assert one.settings["model"] == "cse"
        with_skips = {key: value for key, value in one.settings.items() if key != "skips"}
        assert runs.Run(one.function, with_skips, one.device) in shared


def test_recorded_runs_are_those_of_table_1_and_cse_without_skips_on_three_folds():
    grid = experiments.recorded(NOTEBOOK)
    shared = experiments.recorded(TABLE)
    own = [(tables.network_of(one.settings), one.settings["fold"]) for one in grid]
    assert sorted(own) == sorted((key, fold) for key in ("unet", *tables.NETWORKS) for fold in range(3))
    assert all(one in shared for one in grid if one.settings.get("skips", True))
    assert {one.settings["preset"] for one in grid} == {"authors_code"}
    for one in grid:
        assert {key: one.settings[key] for key in experiments.RECORDED} == experiments.RECORDED


# -- figures ---------------------------------------------------------------------------------------------------------


def test_figure_of_thresholds_has_the_papers_form():
    parts = {"published": tables.typed_thresholds("busi"), "ours": tables.by_depth(tables.analysed(GRID))}
    figure, table = figures.thresholds(parts)
    for axis in figure.axes:
        lines = {line.get_label(): line for line in axis.get_lines()}
        assert set(lines["2 components"].get_ydata()) == {2}
        assert lines["2 components"].get_linestyle() == ":"
        drawn = [box.lines[0] for box in axis.containers]
        assert [line.get_linestyle() for line in drawn] == ["--"] * 4
        assert len({line.get_marker() for line in drawn}) == len({line.get_color() for line in drawn}) == 4
    np.testing.assert_allclose(figure.axes[0].containers[0].lines[0].get_ydata().astype(float), [2, 3, 4])
    assert "FCA" not in set(table["network"])


def test_figure_of_curves_has_a_fit_with_r2_in_the_legend_and_a_line_at_95_percent():
    figure, table = figures.explained_curves(GRID)
    assert len(figure.axes) == 3
    told = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert len(told) == 5
    assert all("R² = " in text for text in told)
    assert set(figure.axes[0].get_lines()[0].get_ydata()) == {0.95}
    assert len(table) == 3 * 5 * 16


def test_interval_of_correlations_stays_between_minus_one_and_one():
    points = tables.published_variability_and_gain()
    told = tables.correlation_table({"published": points}, {})["inside cases"]
    assert metrics.interval(tables.case_correlations(points, "total variance")).low < -1
    assert all("[-1.00, 1.00]" in text for text in told)
