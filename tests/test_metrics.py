import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from medrepro.metrics import Interval, holm, interval, paired_p

pytestmark = pytest.mark.quick
numbers = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=30)


def test_interval_of_three_seeds_by_hand():
    """Mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.302653."""
    found = interval([1, 2, 3])
    half = 4.302653 / math.sqrt(3)
    assert (found.mean, found.n) == (2, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)


@settings(deadline=None, max_examples=60)
@given(numbers, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_is_that_of_scipy(values, confidence):
    found = interval(values, confidence=confidence)
    error = scipy.stats.sem(values)
    if error < 1e-12:  # all values are one number: the interval is a point, which scipy calls NaN
        assert (found.low, found.high) == pytest.approx((found.mean, found.mean))
        return
    low, high = scipy.stats.t.interval(confidence, len(values) - 1, np.mean(values), error)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    assert found.off_zero == (low > 0 or high < 0)


@settings(deadline=None, max_examples=60)
@given(numbers)
def test_paired_p_is_that_of_scipy_and_agrees_with_the_interval(values):
    if np.std(values) < 1e-9:
        return
    found = paired_p(values)
    assert found == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=1e-7, abs=1e-12)
    if abs(found - 0.05) > 1e-6:
        assert interval(values).off_zero == (found < 0.05)


def test_paired_p_is_that_of_a_paired_t_test():
    first, second = [0.81, 0.79, 0.84, 0.80, 0.83], [0.78, 0.80, 0.80, 0.77, 0.79]
    expected = scipy.stats.ttest_rel(first, second).pvalue
    assert paired_p(np.subtract(first, second)) == pytest.approx(expected, rel=1e-9)


def test_overlapping_folds_widen_the_interval_as_nadeau_and_bengio_by_hand():
    """Five folds, test over training = 1/4: variance of the mean is var * (1/5 + 1/4) = 2.5 * 0.45 = 1.125."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = interval(values, overlap=0.25)
    half = 2.7764451 * math.sqrt(1.125)  # t(0.975, 4)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    # t = 3 / sqrt(1.125) = 2.828427 at 4 degrees of freedom
    assert paired_p(values, overlap=0.25) == pytest.approx(2 * scipy.stats.t.sf(2.8284271, 4), rel=1e-6)
    assert paired_p(values, overlap=0.25) > paired_p(values)


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; never falling: 0.02, 0.03, 0.06, 0.06."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_stays_at_one_and_leaves_nan_out():
    np.testing.assert_allclose(holm([0.6, math.nan, 0.4]), [0.8, math.nan, 0.8])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).size == 0
    assert np.isnan(holm([math.nan])).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p, level):
    rejected = set()
    for step, index in enumerate(np.argsort(p, kind="stable")):  # the procedure as Holm wrote it
        if p[index] * (len(p) - step) > level:
            break
        rejected.add(int(index))
    assert set(np.flatnonzero(holm(p) <= level).tolist()) == rejected


def test_one_value_has_no_interval_and_says_so():
    found = interval([0.5])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert not found.off_zero
    assert f"{found:.2f}" == "0.50 (n = 1, no interval)"
    assert math.isnan(paired_p([0.5]))


def test_equal_differences_have_p_one_at_zero_and_p_zero_elsewhere():
    assert paired_p([0.0, 0.0, 0.0]) == 1.0
    assert paired_p([0.25, 0.25, 0.25]) == 0.0


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.3, True), (-0.3, -0.1, True), (-0.1, 0.3, False), (0.0, 0.3, False)]
)
def test_off_zero_means_that_zero_lies_outside(low, high, expected):
    assert Interval((low + high) / 2, low, high, 3).off_zero is expected


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_missing_or_infinite_values_are_refused(values):
    with pytest.raises(ValueError, match="an interval needs finite values, got"):
        interval(values)
