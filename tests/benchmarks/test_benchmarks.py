"""The benchmark's own rules: forms are compared before they are timed, ratios are medians, missed targets are named."""

import json

import pytest
import torch

from benchmarks import measure, run
from benchmarks.measure import Pair, Result, Row, compare, peak_bytes

NAMED = {
    "multifractal/exponent forward": 20,
    "multifractal/exponent forward+backward": 10,
    "multifractal/multi forward+backward": 30,
    "multifractal/multi memory": 8,
    "multifractal/unet+multi step": 0.67,
    "multifractal/unet+mono step": 0.8,
}


def counted(value: float):
    return lambda: [torch.tensor([value, 1.0]), torch.tensor([2.0])]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Two rows whose clock is set by hand: plain takes 3, 4 and 50 seconds, ours always 2."""
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path))
    times = iter([3.0, 2.0, 4.0, 2.0, 50.0, 2.0] * 4)
    monkeypatch.setattr(measure, "seconds", lambda form: next(times))
    rows = [
        Row("a/first", lambda: Pair(counted(1), counted(1)), 1.5, "one"),
        Row("a/second", lambda: Pair(counted(1), counted(1)), 2.5, "two"),
    ]
    monkeypatch.setattr(run, "ROWS", rows)
    return tmp_path / "bench.json"


def test_named_rows_have_their_targets():
    assert {row.name: row.target for row in run.ROWS if row.name in NAMED} == NAMED
    assert len({row.name for row in run.ROWS}) == len(run.ROWS)


def test_ratio_is_the_median_of_the_pairs_and_missed_rows_are_named(bench, capsys):
    assert run.main(["--pairs", "3"]) == 1
    first, second = json.loads(bench.read_text())
    assert set(first) == {"name", "ratio", "plain_s", "ours_s", "target", "threads", "device", "note"}
    assert (first["ratio"], first["plain_s"], first["ours_s"]) == (2.0, 4.0, 2.0)  # the mean would be 9.5
    assert (first["threads"], second["target"]) == (2, 2.5)
    told = capsys.readouterr()
    assert told.err == "below target: a/second\n"
    assert told.out.count("BELOW TARGET") == 1


def test_some_rows_can_be_chosen_and_the_others_stay(bench):
    run.main(["--pairs", "3"])
    assert run.main(["--pairs", "3", "--only", "first", "--threads", "1"]) == 0
    assert [(entry["name"], entry["threads"]) for entry in json.loads(bench.read_text())] == [
        ("a/first", 1),
        ("a/second", 2),
    ]
    with pytest.raises(ValueError, match="no row contains 'third'; there are: a/first, a/second"):
        run.main(["--only", "third"])


def test_forms_that_disagree_are_not_timed(bench, monkeypatch):
    wrong = Row("a/wrong", lambda: Pair(counted(1), counted(1.1)), None, "")
    with pytest.raises(ValueError, match=r"outputs differ by 0\.1 \(1e-05 is allowed\)"):
        measure.measure(wrong, threads=1, pairs=3)
    reference = Row("a/other work", lambda: Pair(counted(5), counted(1), reference=counted(1)), None, "")
    assert measure.measure(reference, threads=1, pairs=3).ratio == 2


def test_comparison_sees_gradients_and_shapes():
    out, gradient = torch.ones(3), torch.ones(4)
    assert compare([out, gradient], [out, gradient], output=1e-5, gradient=1e-3) == (0, 0)
    with pytest.raises(ValueError, match=r"gradients by 0\.05"):
        compare([out, 1.05 * gradient], [out, gradient], output=1e-5, gradient=1e-3)
    with pytest.raises(ValueError, match=r"forms return \[\(3,\)\] and \[\(4,\)\]"):
        compare([out], [gradient], output=1, gradient=1)
    # a gradient of rounding size beside a large one is held to a hundredth of that
    compare([out, 100 * gradient, gradient * 1e-4], [out, 100 * gradient, gradient * 0], output=1e-5, gradient=1e-3)


def test_peak_memory_counts_what_is_held_at_once():
    def one_after_the_other() -> list[torch.Tensor]:
        for _ in range(3):
            torch.zeros(1000).add_(1)
        return []

    def at_once() -> list[torch.Tensor]:
        return [torch.zeros(1000) for _ in range(3)]

    assert peak_bytes(one_after_the_other) == pytest.approx(4000, abs=200)
    assert peak_bytes(at_once) == pytest.approx(12000, abs=600)


def test_a_watched_row_has_no_target():
    row = Result("a", 0.1, 1.0, 10.0, None, 1, "cpu", "")
    assert row.meets_target()
    assert "BELOW" not in run.line(row)
