import json

import numpy as np
import pytest

from medrepro import provenance, recorded, runs
from medrepro.runs import Run

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("store", "results")]


def add(a, b=0):
    return Run("tests.fake_runs:add", {"a": a, "b": b})


def trains(seed=1):
    return Run("tests.fake_runs:trains", {"seed": seed, "size": 8})


@pytest.fixture
def computed(monkeypatch):
    """Settings of every run that is computed from here on."""
    seen, compute = [], runs.compute

    def spy(run, **more):
        seen.append(dict(run.settings))
        return compute(run, **more)

    monkeypatch.setattr(runs, "compute", spy)
    return seen


def test_a_recorded_result_reads_as_the_stored_one_did(results):
    run = trains()
    [path] = recorded.record([run], keep=["arrays", "weights"])
    stored, found = runs.load(run), recorded.load(run)
    assert path.parent == results / "fake_runs"
    assert path.name == f"trains-{run.identity[:12]}.json"
    for name in ("digest", "function", "settings", "metrics", "history", "provenance"):
        assert getattr(found, name) == getattr(stored, name)
    np.testing.assert_array_equal(found.arrays["output"], stored.arrays["output"])
    assert found.weights.keys() == stored.weights.keys() == {"weight", "bias"}
    assert all((found.weights[name] == stored.weights[name]).all() for name in found.weights)
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".json", ".npz", ".safetensors"]


def test_only_what_is_asked_for_is_kept():
    [path] = recorded.record([trains()])
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert recorded.load(trains()).arrays == {}
    assert recorded.load(trains()).weights == {}


def test_what_is_recorded_is_not_computed_again_even_from_an_empty_store(computed, monkeypatch, tmp_path):
    recorded.record([add(1), add(2)])
    monkeypatch.setenv("MEDREPRO_RUNS", str(tmp_path / "another store"))
    computed.clear()
    written = recorded.record([add(1), add(3), add(2)])
    assert computed == [{"a": 3, "b": 0}]
    assert [recorded.RecordedRun(path).metrics["sum"] for path in written] == [3]


def test_what_is_recorded_is_found_after_source_and_versions_have_changed(monkeypatch):
    recorded.record([add(1)])
    monkeypatch.setattr("medrepro.sources.source_digest", lambda module: "other source")
    monkeypatch.setattr(provenance, "version", lambda name: "9.9")
    assert runs.load(add(1)) is None
    assert recorded.load(add(1)).metrics == {"sum": 1}


def test_a_grid_grows_run_by_run_so_that_a_failure_loses_nothing(results):
    wanted = [add(1), add(2), Run("tests.fake_runs:fails", {"reason": "stop here"}), add(3)]
    with pytest.raises(runs.RunError, match="stop here"):
        recorded.record(wanted)
    assert [one.metrics["sum"] for one in recorded.found(wanted)] == [1, 2, 3]
    del wanted[2]
    assert recorded.record([*wanted, add(4)]) == [recorded.file_of(add(4))]
    assert [one.metrics["sum"] for one in recorded.found(wanted)] == [1, 2, 3]
    assert len(list((results / "fake_runs").iterdir())) == 4  # no temporary file stays


def test_a_child_of_another_parent_is_recorded_in_another_file():
    children = [Run("tests.fake_runs:needs_parent", {"parent": add(a), "factor": 2}) for a in (1, 2)]
    assert len(set(recorded.record(children))) == 2
    assert [one.metrics["product"] for one in recorded.found(children)] == [2, 4]


def test_a_run_is_recorded_as_soon_as_it_is_finished(results):
    seen = []
    runs.ensure([add(1), add(2)], each=lambda run: seen.append((run.settings["a"], runs.load(run).metrics["sum"])))
    assert sorted(seen) == [(1, 1), (2, 2)]
    runs.ensure([add(1), add(2)], each=lambda run: pytest.fail("it was computed before"))
    assert len(recorded.record([add(1), add(2)])) == 2  # from the store


def test_found_leaves_out_what_is_missing():
    recorded.record([add(2)])
    assert [one.metrics["sum"] for one in recorded.found([add(1), add(2)])] == [2]
    assert recorded.load(add(1)) is None
    assert recorded.record([]) == []


@pytest.mark.parametrize(("name", "limit"), [("arrays.npz", 1_000_000), ("weights.safetensors", 5_000_000)])
def test_a_file_over_its_limit_is_refused_with_both_sizes_and_nothing_is_written(monkeypatch, results, name, limit):
    assert recorded.LIMITS[name] == limit
    monkeypatch.setitem(recorded.LIMITS, name, 100)
    with pytest.raises(
        ValueError, match=rf"{name} has \d+ bytes, a recorded result at most 100: keep fewer or smaller"
    ):
        recorded.record([trains()], keep=["arrays", "weights"])
    assert list(results.rglob("*.*")) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"identity": "x"}', "<<<<<<< HEAD"])
def test_a_broken_file_is_named_with_what_to_do(content):
    [path] = recorded.record([add(1)])
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"is no recorded result .*: restore it from the repository, or remove it"
    ) as told:
        recorded.load(add(1))
    assert str(path) in str(told.value)


def test_a_recorded_file_is_strict_json_that_ends_with_a_line_and_can_be_read_by_all():
    [path] = recorded.record([Run("tests.fake_runs:returns_odd_numbers")])
    text = path.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["metrics"]["nan"] is None
    assert text.endswith("}\n")
    assert path.stat().st_mode & 0o777 == 0o644
