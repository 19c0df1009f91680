"""The excitation analysis against scikit-learn, scipy, formulas by hand and brute force (property P24)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.preprocessing import RobustScaler

from medrepro import published
from medrepro.multifractal import excitation_tables as tables
from medrepro.multifractal import excitations
from medrepro.multifractal.excitations import explained_variance, pca_threshold, robust_scale

pytestmark = pytest.mark.quick


def gates(seed=0, images=60, channels=12, rank=4):
    """Sigmoid of a low-rank matrix with noise: like the gates of a trained layer."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((images, rank)) @ rng.standard_normal((rank, channels))
    return 1 / (1 + np.exp(-hidden - 0.1 * rng.standard_normal((images, channels))))


def brute_force_threshold(x, share=0.95):
    """By quartiles of the sorted column, the covariance matrix entry by entry, and its eigenvalues added up one at a time."""
    scaled = np.empty_like(x)
    for c in range(x.shape[1]):
        low, middle, high = np.quantile(np.sort(x[:, c]), [0.25, 0.5, 0.75])
        scaled[:, c] = (x[:, c] - middle) / (high - low)
    means = scaled.sum(axis=0) / len(x)
    covariance = sum(np.outer(row - means, row - means) for row in scaled)
    eigenvalues = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    running = 0.0
    for count, value in enumerate(eigenvalues, 1):
        running += value
        if running > share * eigenvalues.sum():
            return count
    raise AssertionError("eigenvalues do not add up")


# -- scaling and PCA -------------------------------------------------------------------------------------------------


def test_robust_scaling_is_that_of_scikit_learn():
    x = gates()
    np.testing.assert_allclose(robust_scale(x), RobustScaler().fit_transform(x), atol=1e-12)


@pytest.mark.parametrize("spread", [0.0, 1e-16, 1e-14, 1e-7])
def test_a_channel_without_spread_is_treated_as_by_scikit_learn(spread):
    x = gates()
    x[:, 3] = 0.5 + spread * np.arange(len(x)) / len(x)
    x[0, 3] = 0.9  # an outlier that the quartiles do not see
    ours, theirs = robust_scale(x), RobustScaler().fit_transform(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert abs(ours[0, 3] - 0.4) < 1e-9 if spread < 1e-15 else ours[0, 3] > 1e6


@pytest.mark.parametrize("shape", [(60, 12), (10, 32), (33, 32), (2, 3)])
@pytest.mark.parametrize("robust", [True, False])
def test_explained_variance_is_that_of_scikit_learn(shape, robust):
    x = gates(1, *shape)
    scaled = RobustScaler().fit_transform(x) if robust else x
    expected = np.cumsum(PCA(svd_solver="full").fit(scaled).explained_variance_ratio_)
    np.testing.assert_allclose(explained_variance(x, robust=robust), expected, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 60), st.integers(2, 12), st.integers(1, 6))
def test_threshold_is_that_of_brute_force(seed, images, channels, rank):
    x = gates(seed, images, channels, rank)
    assert pca_threshold(x) == brute_force_threshold(x)


def test_threshold_by_hand():
    # two channels without correlation, variances 9 and 1: 90 % in the first component
    x = np.array([[3.0, 0.0], [-3, 0], [0, 1], [0, -1]])
    assert explained_variance(x, robust=False).tolist() == pytest.approx([0.9, 1.0])
    assert [pca_threshold(x, robust=False, share=share) for share in (0.5, 0.89, 0.91)] == [1, 1, 2]


def test_share_must_be_exceeded_and_not_only_reached():
    x = np.array([[1.0, 0.0], [-1, 0], [0, 1], [0, -1]])  # half in each component, exactly
    assert pca_threshold(x, robust=False, share=0.5) == 2


# -- P24 -------------------------------------------------------------------------------------------------------------


def test_p24_rank_one_excitations_give_1():
    rng = np.random.default_rng(0)
    assert pca_threshold(0.5 + np.outer(rng.uniform(-0.4, 0.4, 50), rng.uniform(0.1, 1, 20))) == 1


def test_p24_isotropic_noise_gives_122_of_128_when_n_is_very_large():
    # the eigenvalues of a PCA of n Gaussian rows are those of a Wishart matrix with n - 1 degrees, drawn by its
    # Bartlett factor without ever drawing the rows
    n, channels, rng = 400_000, 128, np.random.default_rng(0)
    factor = np.tril(rng.standard_normal((channels, channels)), -1)
    factor[np.diag_indices(channels)] = np.sqrt(rng.chisquare(n - 1 - np.arange(channels)))
    eigenvalues = np.linalg.svd(factor, compute_uv=False) ** 2
    assert (np.cumsum(eigenvalues) / eigenvalues.sum() <= 0.95).sum() + 1 == 122 == int(0.95 * channels) + 1


@pytest.mark.parametrize(("n", "expected"), [(2000, 118), (129, 78)])
def test_p24_noise_needs_fewer_components_when_there_are_fewer_images(n, expected):
    found = [pca_threshold(np.random.default_rng(seed).standard_normal((n, 128))) for seed in range(5)]
    assert abs(np.mean(found) - expected) <= 1  # single draws move by one
    assert set(found) <= {expected - 1, expected, expected + 1}


@pytest.mark.parametrize("seed", range(3))
def test_p24_threshold_ignores_affine_maps_of_channels_and_the_order_of_rows_and_channels(seed):
    rng, x = np.random.default_rng(seed), gates(seed, 129, 64, 10)
    scale, shift = rng.uniform(0.01, 100, 64) * rng.choice([-1, 1], 64), rng.uniform(-5, 5, 64)
    curve = explained_variance(x)
    changed = {
        "affine": x * scale + shift, "rows": x[rng.permutation(129)], "channels": x[:, rng.permutation(64)],
    }  # fmt: skip
    for name, other in changed.items():
        np.testing.assert_allclose(explained_variance(other), curve, atol=1e-10, err_msg=name)
        assert pca_threshold(other) == pca_threshold(x), name
    assert pca_threshold(x * scale, robust=False) != pca_threshold(x, robust=False)


def test_p24_subsets_of_all_images_are_the_set_and_small_ones_need_less():
    x = np.random.default_rng(0).standard_normal((200, 64))
    assert excitations.subsampled_threshold(x, 200, draws=3) == pca_threshold(x)
    means = [excitations.subsampled_threshold(x, n, draws=5) for n in (10, 40, 120)]
    assert means == sorted(means)
    assert means[0] <= 9


# -- degenerate cases and errors ---------------------------------------------------------------------------------------


def test_gates_that_never_vary_have_no_threshold():
    x = np.full((30, 8), 0.3)
    assert np.isnan(pca_threshold(x))
    assert np.isnan(pca_threshold(x, robust=False))
    assert np.isnan(explained_variance(x)).all()
    told = excitations.variability(x)
    assert told["total variance"] == told["mean std"] == 0
    assert np.isnan(told["participation ratio"])
    assert np.isnan(excitations.largest_channel_share(x))


def test_a_constant_channel_beside_others_changes_nothing():
    x = gates()
    assert pca_threshold(np.column_stack([x, np.full(len(x), 0.7)])) == pca_threshold(x)


def test_a_saturated_channel_owns_all_variance_after_scaling_and_none_before():
    x = np.column_stack([gates(), 1 - 1e-8 * np.arange(60)])
    x[0, -1] = 0.5
    assert pca_threshold(x) == 1
    assert excitations.largest_channel_share(x) > 0.999
    assert abs(pca_threshold(x, robust=False) - pca_threshold(x[:, :-1], robust=False)) <= 1


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (np.zeros(5), r"shape \(5,\): expected \(images, channels\)"),
        (np.zeros((1, 5)), "at least two images"),
        (np.array([[0.1, np.nan], [0.2, 0.3]]), "1 values that are not finite"),
    ],
)
@pytest.mark.parametrize("function", [robust_scale, explained_variance, pca_threshold, excitations.variability])
def test_a_matrix_that_cannot_be_analysed_is_told(function, x, told):
    with pytest.raises(ValueError, match=told):
        function(x)


def test_shares_and_numbers_out_of_range_are_told():
    with pytest.raises(ValueError, match="share is 1"):
        pca_threshold(gates(), share=1)
    with pytest.raises(ValueError, match="num_images is 61: expected 2 to 60"):
        excitations.subsampled_threshold(gates(), 61)
    with pytest.raises(ValueError, match="two lists of equal length"):
        excitations.rank_correlation([1, 2], [1, 2, 3])


# -- variability, slopes, correlations -------------------------------------------------------------------------------


def test_variability_by_hand():
    x = np.array([[0.0, 0.5], [1.0, 0.5], [0.0, 0.5], [1.0, 0.5]])
    found = excitations.variability(x)
    assert found["total variance"] == pytest.approx(1 / 3)  # four values, two at 0 and two at 1, denominator 3
    assert found["mean std"] == pytest.approx(np.sqrt(1 / 3) / 2)
    assert found["participation ratio"] == pytest.approx(1)
    assert found["saturated"] == 0.5


def test_variability_is_that_of_the_covariance_matrix():
    x = gates(2, 80, 10, 3)
    eigenvalues = PCA(svd_solver="full").fit(x).explained_variance_
    found = excitations.variability(x)
    assert found["total variance"] == pytest.approx(np.trace(np.cov(x.T)))
    assert found["mean std"] == pytest.approx(np.mean(np.std(x, axis=0, ddof=1)))
    assert found["participation ratio"] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def test_saturated_share_counts_both_ends():
    x = np.array([[0.0005, 0.9995, 0.5, 0.002], [0.0005, 0.9995, 0.5, 0.998]])
    assert excitations.variability(x)["saturated"] == 0.5


@pytest.mark.parametrize("values", [[1, 3, 4], [3, 6, 3], [2.5, -1, 7, 3]])
def test_depth_slope_is_a_straight_line_fit(values):
    assert excitations.depth_slope(values) == pytest.approx(np.polyfit(range(1, len(values) + 1), values, 1)[0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=20))
def test_rank_correlation_is_that_of_scipy_with_ties(pairs):
    first, second = map(list, zip(*pairs))
    found = excitations.rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert np.isnan(found.mean)
        return
    assert found.mean == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert found.low <= found.mean <= found.high


def test_rank_correlation_interval_by_hand():
    first, second = [1, 2, 3, 4, 5, 6, 7], [2, 1, 4, 3, 6, 7, 5]
    found = excitations.rank_correlation(first, second)
    rho = 1 - 6 * (1 + 1 + 1 + 1 + 1 + 1 + 4) / (7 * 48)
    half = stats.norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / 4)
    expected = np.tanh([np.arctanh(rho) - half, np.arctanh(rho) + half])
    np.testing.assert_allclose([found.mean, found.low, found.high], [rho, *expected])
    assert excitations.rank_correlation([1, 2, 3], [1, 3, 2]).high == np.inf


# -- curves ----------------------------------------------------------------------------------------------------------


def spectrum_curve(power, channels=128):
    """Cumulative explained variance of eigenvalues that fall by a power law."""
    eigenvalues = np.arange(1, channels + 1.0) ** -power
    return np.cumsum(eigenvalues) / eigenvalues.sum()


def test_fit_finds_the_parameters_of_a_curve_of_its_own_kind():
    true = (0.6, 0.9, 0.4, 0.08, 0.3)
    fit = excitations.fit_curve(excitations.double_exponential(np.arange(1.0, 129), *true))
    np.testing.assert_allclose(fit.parameters, true, rtol=1e-3)
    assert fit.r2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("model", excitations.SLOPES, ids=lambda model: model.__name__)
def test_derivatives_of_a_curve_are_those_of_differences(model):
    n, at, step = np.arange(1.0, 9), np.array([0.4, 0.7, 0.5, 0.2, 0.3]), 1e-6
    differences = [(model(n, *(at + h)) - model(n, *(at - h))) / (2 * step) for h in step * np.eye(5)]
    np.testing.assert_allclose(excitations.SLOPES[model](n, *at), np.stack(differences, 1), rtol=1e-6, atol=1e-6)


def test_double_exponential_by_hand():
    value = excitations.double_exponential(3.0, 0.6, 0.9, 0.4, 0.08, 0.5)
    assert value == pytest.approx(0.6 * (1 - np.exp(-0.9 * 2.5)) + 0.4 * (1 - np.exp(-0.08 * 2.5)))


@pytest.mark.parametrize("power", [0.3, 1.0, 2.0])
def test_r2_is_that_of_scikit_learn_and_parameters_are_not_negative(power):
    from sklearn.metrics import r2_score

    curve = spectrum_curve(power)
    fit = excitations.fit_curve(curve)
    fitted = excitations.double_exponential(np.arange(1.0, 129), *fit.parameters)
    assert fit.r2 == pytest.approx(r2_score(curve, fitted), abs=1e-12)
    assert min(fit.parameters) >= 0
    assert fit.r2 > 0.98


@pytest.mark.parametrize("first", [0.5, 0.97, 0.9998])
def test_a_curve_that_starts_high_is_fitted_as_well_as_any_other(first):
    rest = (1 - first) * (0.8 * np.exp(-3.0 * np.arange(30)) + 0.2 * np.exp(-1.5 * np.arange(30)))
    assert excitations.fit_curve(1 - rest).r2 > 0.999


@pytest.mark.parametrize("gap", [0.0, 1e-8, 1e-7])
def test_a_curve_that_is_1_from_its_first_point_on_has_r2_1_by_rule(gap):
    assert excitations.fit_curve(np.array([1 - gap] + [1.0] * 15)).r2 == 1


def test_curves_that_cannot_be_fitted_have_no_fit():
    assert excitations.fit_curve(np.array([0.5, 0.8, 0.9, 0.97, 1.0])) is None
    assert excitations.fit_curve(np.full(20, np.nan)) is None
    flat = excitations.fit_curve(np.ones(20))
    assert flat.r2 == 1
    assert excitations.double_exponential(np.arange(1.0, 21), *flat.parameters) == pytest.approx(np.ones(20))


# -- where the text, the notebook and the data of the authors differ ---------------------------------------------------


def test_difference_16_typed_thresholds_differ_from_recomputed_ones_in_four_cells():
    table = tables.typed_against_recomputed()
    assert len(table) == 12  # three sets, four networks: FCA is not drawn
    off = table[table["typed"] != table["recomputed"]].set_index(["data", "network"])
    assert set(off.index) == {("isic18", "srm"), ("kvasir", "srm"), ("kvasir", "mono"), ("busi", "cse-ns")}
    one_short = off[off["recomputed"] == off["typed"] + 1]
    assert set(one_short.index) == set(off.index) - {("isic18", "srm")}
    assert off.loc[("isic18", "srm"), "typed"] == 44 == 2 * off.loc[("isic18", "srm"), "recomputed"]
    assert set(one_short["difference"]) == {"the + 1 is missing"}


def test_difference_16_is_read_from_both_published_tables():
    typed = published.frame("multifractal", "excitation_threshold_typed")
    again = published.frame("multifractal", "excitation_statistics_recomputed")
    assert len(typed) == 3 * 5 * 3
    assert len(again) == 3 * 5 * 6
    assert (typed.query("model == 'fca' and depth == 3")["value"] == "inf").all()
    assert (again.query("model == 'fca' and quantity == 'threshold'")["value"] == 1).all()
    assert published.table("multifractal", "excitation_threshold_typed").certainty == "read"
    assert published.table("multifractal", "excitation_statistics_recomputed").certainty == "recomputed"


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_difference_17_growing_minus_decaying_fits_worse_and_does_not_level_off(power):
    curve, far = spectrum_curve(power), np.array([1e3, 1e5, 1e6])
    code = excitations.fit_curve(curve)
    text = excitations.fit_curve(curve, model=excitations.growing_minus_decaying)
    assert 1 - text.r2 > 2 * (1 - code.r2)
    level = code.parameters[0] + code.parameters[2]
    assert excitations.double_exponential(far, *code.parameters)[-1] == pytest.approx(level, abs=1e-6)
    with np.errstate(over="ignore"):
        beyond = excitations.growing_minus_decaying(far, *text.parameters)
    assert text.parameters[1] > 0
    assert beyond[-1] > 10
