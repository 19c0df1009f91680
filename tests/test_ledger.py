import importlib
import json
from collections import Counter

import pytest

from medrepro import checks, ledger, paths
from medrepro.ledger import Evidence, claim_verdict, condition_verdict, deciding, shown_verdict
from medrepro.metrics import Interval, interval
from tests import fake_evidence

pytestmark = pytest.mark.quick

PAPER, REAL, PHANTOMS, LIVE = ledger.SOURCES
TEST = "tests/test_fake.py::test_equation_1"
CLAIM = """
  - item: Claim 1
    kind: claim
    place: abstract
    statement: A is better than B.
    notebook: 01-first
    evidence: tests.fake_evidence:evidence
    conditions:
      - {name: large, metric: dice, claimed: A above B, smallest: 0.02, reason: half the published effect}
      - {name: small, metric: dice, claimed: A above B, smallest: 0.02, reason: half the published effect}
"""
TABLE = """
  - item: Table 1
    kind: table
    place: Table 1
    statement: A beats B.
    evidence: tests.fake_evidence:evidence
"""
EQUATION = f"""
  - item: Equation 1
    kind: equation
    place: section 2
    statement: a = b.
    tests: [{TEST}]
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A paper of one notebook and one test on disk; returns a function that writes its ledger."""
    for file, text in {
        "papers/fake/ledger.yaml": "",
        "notebooks/fake/01-first.ipynb": "{}",
        "tests/test_fake.py": "def test_equation_1():\n    assert True\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text)
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "papers")
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("MEDREPRO_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(fake_evidence, "GIVEN", [])

    def write(*rows):
        text = "paper: fake\nrows:" + "".join(rows)
        (tmp_path / "papers" / "fake" / "ledger.yaml").write_text(text, encoding="utf-8")

    return write


def evidence(effects, condition="all", source=LIVE, **more):
    return Evidence(source, data="phantom", profile="cpu", effects=effects, condition=condition, **more)


def give(*found):
    fake_evidence.GIVEN[:] = found


def verdict(profile="cpu"):
    [row] = ledger.decide("fake", profile)
    return row


def outcomes(**found):
    path = checks.outcome_file("fake", "cpu")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({TEST: found["outcome"]} if found else {}))


# -- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "low", "high", "expected"),
    [
        (0.05, 0.01, 0.09, "supported"),
        (0.02, 0.01, 0.03, "supported"),  # exactly the smallest effect of interest
        (0.019, 0.01, 0.028, "not seen at this scale"),  # off zero, and too small to matter
        (0.05, -0.01, 0.11, "not seen at this scale"),
        (0.05, 0.0, 0.1, "not seen at this scale"),  # zero is not outside
        (-0.05, -0.09, -0.01, "contradicted"),
        (-0.02, -0.03, -0.01, "contradicted"),
        (-0.019, -0.028, -0.01, "not seen at this scale"),
        (-0.05, -0.11, 0.01, "not seen at this scale"),
    ],
)
def test_a_condition_is_decided_by_interval_and_smallest_effect(mean, low, high, expected):
    assert condition_verdict(Interval(mean, low, high, 5), 0.02) == expected


@pytest.mark.parametrize("values", [[0.05, 0.06, 0.04], [0.001, 0.002, 0.003], [0.1, -0.1, 0.02]])
def test_flipping_the_sign_of_all_effects_flips_the_verdict(values):
    mirror = {"supported": "contradicted", "not seen at this scale": "not seen at this scale"}
    there = condition_verdict(interval(values), 0.02)
    back = condition_verdict(interval([-value for value in values]), 0.02)
    assert back == mirror[there]


def test_one_seed_decides_nothing():
    assert condition_verdict(interval([5.0]), 0.02) == "not seen at this scale"


YES, NO, UNSEEN = "supported", "contradicted", "not seen at this scale"


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([YES], YES), ([NO], NO), ([UNSEEN], UNSEEN), ([YES, YES], YES), ([YES, UNSEEN], "supported with conditions"),
        ([NO, YES], "supported with conditions"), ([NO, UNSEEN], NO), ([UNSEEN, UNSEEN], UNSEEN), ([NO, NO], NO),
    ],
)  # fmt: skip
def test_a_claim_is_decided_by_its_conditions(conditions, expected):
    assert claim_verdict(conditions) == expected
    assert claim_verdict(conditions[::-1]) == expected


def test_the_best_source_decides_each_condition_whatever_the_order():
    given = [
        evidence([4], "a", LIVE), evidence([3], "a", PHANTOMS), evidence([1], "a", PAPER), evidence([2], "a", REAL),
        evidence([9], "b", LIVE), evidence([8], "b", PHANTOMS),
    ]  # fmt: skip
    for order in (given, given[::-1]):
        assert {one.condition: one.effects[0] for one in deciding(order)} == {"a": 1, "b": 8}
    assert {one.condition: one.effects[0] for one in deciding(given[1:2] + given[3:4])} == {"a": 2}


def test_evidence_of_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"evidence comes from one of .*got 'hearsay'"):
        evidence([1], source="hearsay")


INSIDE, OUTSIDE = (85.4, Interval(85.0, 84.0, 86.0, 5)), (62.2, Interval(60.0, 59.0, 61.0, 5))


@pytest.mark.parametrize(
    ("source", "pairs", "effects", "expected"),
    [
        (PAPER, [INSIDE], [1.0, 1.1, 0.9], "reproduced"),
        (PAPER, [INSIDE, OUTSIDE], [1.0, 1.1, 0.9], "same direction"),
        (PAPER, [INSIDE, OUTSIDE], [1.0, -1.1, 0.9], "not reproduced"),
        (PAPER, [INSIDE, OUTSIDE], [-1.0, -1.1, -0.9], "not reproduced"),
        (REAL, [INSIDE], [1.0, 1.1, 0.9], "same direction"),
        (PHANTOMS, [INSIDE], [1.0, 1.1, 0.9], "same direction"),
        (LIVE, [INSIDE], [1.0, 1.1, 0.9], "same direction"),
        (LIVE, [INSIDE], [-1.0, 1.1, 0.9], "not reproduced"),
        (PAPER, [INSIDE], [], "reproduced"),
        (PAPER, [], [], "not reproduced"),
        (PAPER, [(85.4, interval([85.4]))], [], "not reproduced"),  # one run has no interval to lie in
        (PAPER, [INSIDE, (85.4, interval([85.4]))], [1.0, 1.1, 0.9], "same direction"),
    ],
)
def test_a_table_is_reproduced_only_on_the_papers_data_within_our_intervals(source, pairs, effects, expected):
    assert shown_verdict([evidence(effects, source=source, pairs=pairs)]) == expected


def test_every_stressed_difference_must_have_the_papers_sign():
    good, bad = evidence([1.0, 1.1, 0.9], "a"), evidence([0.1, -1.0, 1.1], "b")
    assert shown_verdict([good]) == "same direction"
    assert shown_verdict([good, bad]) == "not reproduced"


# -- deciding --------------------------------------------------------------------------------------------------------


def test_a_claim_by_hand_and_its_mirror_image(fake):
    fake(CLAIM)
    up, down = [0.05, 0.06, 0.04], [-0.05, -0.06, -0.04]
    give(evidence(up, "large"), evidence(up, "small"))
    assert verdict().verdict == "supported"
    give(evidence(down, "large"), evidence(down, "small"))
    assert verdict().verdict == "contradicted"
    give(evidence(up, "large"), evidence(down, "small"))
    assert verdict().verdict == "supported with conditions (large)"
    give(evidence([0.1, -0.1], "large"), evidence([0.1, -0.1], "small"))
    assert verdict().verdict == "not seen at this scale"


def test_a_decided_row_names_effect_data_source_and_notebook(fake):
    fake(CLAIM)
    up = [0.05, 0.06, 0.04]
    give(evidence(up, "large", note="runs abc"), evidence(up, "small", source=REAL))
    row = verdict()
    assert (row.data, row.profile, row.notebook) == ("phantom", "cpu", "fake/01-first")
    assert "large (phantoms stand in for it): effect 0.05 [" in row.note
    assert "n = 3, smallest of interest 0.02; live, phantoms; runs abc" in row.note
    assert "small: effect" in row.note
    assert "recorded, real data" in row.note
    assert set(row.public()) == {"paper", "item", "kind", "verdict", "data", "profile", "notebook", "note"}


def test_recorded_real_data_overrule_live_phantoms(fake):
    fake(CLAIM)
    up, down = [0.05, 0.06, 0.04], [-0.05, -0.06, -0.04]
    both = [evidence(up, name, LIVE) for name in ("large", "small")]
    give(*both, *(evidence(down, name, REAL) for name in ("large", "small")))
    assert verdict().verdict == "contradicted"
    give(*both, *(evidence(down, name, PHANTOMS) for name in ("large", "small")))
    assert verdict().verdict == "contradicted"


def test_overlapping_folds_widen_the_deciding_interval(fake):
    fake(CLAIM)
    values = [0.03, 0.05, 0.07, 0.06, 0.04]
    for overlap, expected in ((0.0, "supported"), (10.0, "not seen at this scale")):
        give(*(evidence(values, name, overlap=overlap) for name in ("large", "small")))
        assert verdict().verdict == expected


def test_evidence_for_a_condition_that_the_row_does_not_state_is_named(fake):
    fake(CLAIM)
    give(*(evidence([0.05, 0.06, 0.04], name) for name in ("large", "small", "smal")))
    with pytest.raises(ValueError, match=r"Claim 1.*'smal'.*large, small"):
        verdict()


def test_a_table_by_hand(fake):
    fake(TABLE)
    give(evidence([1.0, 1.1, 0.9], source=PAPER, pairs=[INSIDE]))
    assert verdict().verdict == "reproduced"
    give(evidence([1.0, 1.1, 0.9], source=LIVE, pairs=[INSIDE]))
    assert verdict().verdict == "same direction"


@pytest.mark.parametrize(
    ("outcome", "expected"), [("passed", "reproduced"), ("failed", "not reproduced"), ("skipped", "not reproduced")]
)
def test_an_equation_is_decided_by_its_test(fake, outcome, expected):
    fake(EQUATION)
    outcomes(outcome=outcome)
    row = verdict()
    assert (row.verdict, row.data) == (expected, "analytic")
    assert row.note == f"{'passed' if outcome == 'passed' else 'failed'}: test_equation_1"


@pytest.mark.parametrize(
    ("key", "kind", "expected"),
    [
        ("not_attempted", "figure", "not attempted (too dear)"),
        ("not_reproducible", "table", "not reproducible (too dear)"),
        ("not_testable", "claim", "not testable here (too dear)"),
    ],
)
def test_a_stated_reason_is_printed(fake, key, kind, expected):
    fake(f"\n  - {{item: X, kind: {kind}, place: p, statement: s, {key}: too dear}}")
    assert verdict().verdict == expected


# -- committed verdicts ----------------------------------------------------------------------------------------------


def test_a_row_that_nothing_decides_is_an_error_that_says_what_to_do(fake):
    fake(EQUATION)
    with pytest.raises(ValueError, match=r"fake, Equation 1: no verdict.*make book.*medrepro ledger --commit"):
        verdict()
    outcomes()  # the build ran no such test
    with pytest.raises(ValueError, match="no verdict"):
        verdict()


def test_the_committed_verdict_stands_where_a_build_cannot_decide(fake):
    fake(CLAIM)
    give(*(evidence([0.05, 0.06, 0.04], name, LIVE) for name in ("large", "small")))
    with pytest.raises(ValueError, match="Claim 1: no verdict"):  # live phantoms decide at cpu alone
        verdict("smoke")
    path = ledger.commit("fake")
    assert [row["verdict"] for row in json.loads(path.read_text(encoding="utf-8"))] == ["supported"]
    assert verdict("smoke") == verdict("cpu")
    give()
    assert verdict("cpu").verdict == "supported"
    give(*(evidence([-0.05, -0.06, -0.04], name, LIVE) for name in ("large", "small")))
    assert verdict("cpu").verdict == "contradicted"  # what a build decides overrules what was committed
    assert verdict("smoke").verdict == "supported"


def test_half_the_conditions_do_not_decide(fake):
    fake(CLAIM)
    give(evidence([0.05, 0.06, 0.04], "large"))
    with pytest.raises(ValueError, match="Claim 1: no verdict"):
        verdict()


# -- faults in the file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (CLAIM.replace("01-first", "09-gone"), "Claim 1 points to the notebook '09-gone', which does not exist"),
        (EQUATION.replace("::test_equation_1", "::test_gone"), "Equation 1 names the test '.*::test_gone', which does not"),
        (EQUATION.replace("test_fake.py", "test_gone.py"), "Equation 1 names the test 'tests/test_gone.py::"),
        (EQUATION + EQUATION, "items stand twice: Equation 1"),
        (EQUATION + "    not_attempted: too dear\n", "Equation 1: a row is decided by tests, by evidence or by one"),
        (TABLE + "    not_attempted: a\n    not_testable: b\n", "Table 1: a row is decided by tests, by evidence or by one"),
        (TABLE.replace("    evidence: tests.fake_evidence:evidence\n", ""), "Table 1: a row is decided by"),
        (CLAIM.split("    conditions")[0], "Claim 1: a claim decided by runs names metric, claimed side and smallest"),
        (CLAIM.replace("smallest: 0.02", "smallest: 0"), "Claim 1: a claim's smallest effect of interest is positive"),
        (CLAIM.replace(", reason: half the published effect", ""), "Claim 1: a claim's smallest effect .* has a reason"),
        (CLAIM.replace("smallest: 0.02", "smalest: 0.02"), r"rows\.0\.conditions\.0\.smalest"),
        (TABLE.replace("kind: table", "kind: equation"), "Table 1: an equation is decided by named tests"),
        (TABLE.replace("kind: table", "kind: chart"), r"rows\.0\.kind: .*got 'chart'"),
        (EQUATION + "    verdict: reproduced\n", r"rows\.0\.verdict: Extra inputs"),  # nobody types it
    ],
)  # fmt: skip
def test_a_fault_in_the_ledger_is_told_with_file_and_item(fake, tmp_path, row, told):
    fake(row)
    with pytest.raises(ValueError, match=told) as caught:
        ledger.read("fake")
    assert str(tmp_path / "papers" / "fake" / "ledger.yaml") in str(caught.value)


def test_an_unknown_paper_is_told_with_the_known_ones(fake):
    fake(EQUATION)
    with pytest.raises(ValueError, match="no ledger for 'nonsense'; known papers: fake"):
        ledger.read("nonsense")


# -- the real ledgers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", ledger.papers())
def test_every_row_of_a_real_ledger_gets_a_verdict_once_its_tests_have_passed(paper, monkeypatch):
    rows = ledger.read(paper).rows
    tests = {test for row in rows for test in row.tests}
    monkeypatch.setattr(checks, "outcomes", lambda paper, profile: dict.fromkeys(tests, "passed"))
    decided = ledger.decide(paper, "smoke")
    print(Counter(row.verdict.split(" (")[0] for row in decided))
    assert [row.item for row in decided] == [row.item for row in rows]
    allowed = {
        "table": {"reproduced", "same direction", "not reproduced", "not reproducible", "not attempted"},
        "figure": {"reproduced", "same direction", "not reproduced", "not reproducible", "not attempted"},
        "equation": {"reproduced", "not reproduced", "not reproducible", "not attempted", "not testable here"},
        "part": {"reproduced", "not reproduced", "not reproducible", "not attempted", "not testable here"},
        "claim": {
            "supported", "supported with conditions", "contradicted", "not seen at this scale", "not testable here",
            "not attempted",
        },
    }  # fmt: skip
    for row in decided:
        assert row.verdict.split(" (")[0] in allowed[row.kind], row


@pytest.mark.parametrize("paper", ledger.papers())
def test_every_function_that_brings_evidence_exists(paper):
    for row in ledger.read(paper).rows:
        if row.evidence:
            module, function = row.evidence.split(":")
            assert module.startswith(f"medrepro.{paper}"), row.item
            assert callable(getattr(importlib.import_module(module), function, None)), row.item
