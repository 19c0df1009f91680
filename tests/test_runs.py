import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from medrepro import paths, provenance, runs
from medrepro.runs import Run, RunError

ADD = "tests.fake_runs:add"


def add(a, b=0, **more):
    return Run(ADD, {"a": a, "b": b}, **more)


def sleeps(number, seconds=0.0):
    return Run("tests.fake_runs:sleeps", {"number": number, "seconds": seconds})


def python(code, **environment):
    """Start Python on a piece of code, in the project's folder and in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=paths.root(), env={**os.environ, **environment}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def names(store):
    return sorted(path.name for path in store.iterdir())


# -- digests ---------------------------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize(
    "other",
    [
        add(1, 3), add("1", 2), add(1.0, 2), add(True, 2), add(1, 2, device="cuda"), add(1, 2, threads=2),
        Run(ADD, {"a": 1, "b": 2, "c": None}), Run(ADD, {"a": 1, "b": [2]}), Run("tests.fake_runs:add_otherwise", {"a": 1, "b": 2}),
        Run(ADD, {"a": 1, "b": add(1, 2)}),
    ],
    ids=["setting", "text", "float", "bool", "device", "threads", "one more", "list", "function", "a run"],
)  # fmt: skip
def test_digest_changes_with_every_part_of_a_run(other):
    assert other.digest != add(1, 2).digest


@pytest.mark.quick
def test_digest_does_not_depend_on_order_of_settings_or_kind_of_sequence():
    first = Run(ADD, {"a": (1, 2), "b": {"x": 1, "y": 2}})
    second = Run(ADD, {"b": {"y": 2, "x": 1}, "a": [1, 2]})
    assert first.digest == second.digest
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.quick
def test_digest_changes_with_a_parent_at_any_depth():
    def child(a):
        return Run(ADD, {"a": 1, "b": {"deep": [Run(ADD, {"a": 1, "b": add(a)})]}})

    assert child(1).digest == child(1).digest != child(2).digest
    assert child(1).identity != child(2).identity


@pytest.mark.quick
@pytest.mark.parametrize("part", ["versions", "source", "data", "format"])
def test_digest_changes_with_versions_source_data_and_format(part, monkeypatch):
    run = Run(ADD, {"a": 1, "data": "busi"})
    files = {"content": "a" * 64}
    monkeypatch.setattr("medrepro.data.registry.fingerprint", lambda name: files["content"] if name == "busi" else None)
    before, identity = run.digest, run.identity
    if part == "versions":
        monkeypatch.setattr(provenance, "version", lambda name: "9.9" if name == "torch" else "1.0")
    elif part == "source":
        monkeypatch.setattr("medrepro.sources.source_digest", lambda module: f"source of {module}")
    elif part == "data":
        files["content"] = "b" * 64
    else:
        monkeypatch.setattr(runs, "FORMAT", runs.FORMAT + 1)
    assert run.digest != before
    assert run.identity == identity  # a recorded result stays found


@pytest.mark.quick
def test_digest_does_not_depend_on_the_build_tag_of_torch(monkeypatch):
    monkeypatch.setattr(provenance, "version", lambda name: "2.13.0+cpu")
    before = add(1).digest
    monkeypatch.setattr(provenance, "version", lambda name: "2.13.0+cu130")
    assert add(1).digest == before


@pytest.mark.quick
def test_all_packages_that_decide_numbers_are_installed_and_enter_the_digest():
    assert set(provenance.deciding_versions()) == {
        "torch",
        "numpy",
        "monai",
        "scikit-image",
        "scikit-learn",
        "pywavelets",
    }
    assert all(re.fullmatch(r"\d+\.\d+(\.\d+)?", found) for found in provenance.deciding_versions().values())


@pytest.mark.quick
def test_phantoms_have_no_fingerprint():
    assert Run(ADD, {"data": "phantom"}).data_fingerprint() is None
    assert add(1).data_fingerprint() is None


@pytest.mark.quick
@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"a": np.zeros(2)}, TypeError, "ndarray"),
        ({"a": float("nan")}, TypeError, "nan"),
        ({"a": {1: 2}}, TypeError, "names of settings are strings, got 1"),
        ({"a": {2, 3}}, TypeError, "set"),
        ({"device": "cuda"}, ValueError, "device.*cannot be settings"),
        ({"scratch": "/tmp"}, ValueError, "scratch.*cannot be settings"),
    ],
)
def test_settings_that_are_no_json_are_refused_when_the_run_is_described(settings, error, told):
    with pytest.raises(error, match=told):
        Run(ADD, settings)


@pytest.mark.quick
def test_a_function_is_written_with_one_colon():
    with pytest.raises(ValueError, match=r"'module:function', got 'tests\.fake_runs\.add'"):
        Run("tests.fake_runs.add")


# -- the store -------------------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_store_keeps_metrics_history_arrays_and_weights(store):
    torch = pytest.importorskip("torch")
    from tests import fake_runs

    expected = fake_runs.trains(seed=3)
    run = Run("tests.fake_runs:trains", {"seed": 3})
    assert runs.load(run) is None
    [result] = runs.ensure([run], quiet=True)
    assert result.path == store / run.digest[:24]
    assert result.metrics == expected["metrics"]
    assert result.history == expected["history"]
    assert set(result.arrays) == {"output", "count"}
    np.testing.assert_array_equal(result.arrays["output"], expected["arrays"]["output"])
    assert result.arrays["output"].dtype == np.float32
    assert result.arrays["count"] == 3
    assert set(result.weights) == {"weight", "bias"}
    assert all(torch.equal(result.weights[name], tensor) for name, tensor in expected["weights"].items())
    assert result.settings == {"seed": 3}
    assert result.digest == run.digest


@pytest.mark.quick
def test_a_run_without_arrays_and_weights_has_none(store):
    [result] = runs.ensure([Run("tests.fake_runs:empty")], quiet=True)
    assert (result.metrics, result.history, result.arrays, result.weights) == ({}, [], {}, {})
    assert names(result.path) == ["run.json"]


@pytest.mark.quick
def test_numbers_that_are_not_finite_are_stored_as_none_and_collected_as_nan(store):
    [result] = runs.ensure([Run("tests.fake_runs:returns_odd_numbers")], quiet=True)
    assert result.metrics == {"nan": None, "inf": None, "single": 0.5, "whole": 7}
    assert result.history == [{"step": 0, "loss": [1.0, None]}]
    json.loads((result.path / "run.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    row = runs.collect([result]).iloc[0]
    assert math.isnan(row["nan"])
    assert math.isnan(row["inf"])
    assert row["single"] == 0.5


@pytest.mark.quick
def test_collect_gives_one_row_a_run_with_settings_then_metrics(store):
    parent = add(1, 1)
    wanted = [add(1, 2), add(2, 2), Run("tests.fake_runs:needs_parent", {"parent": parent, "factor": 3})]
    table = runs.collect(runs.ensure(wanted, quiet=True))
    assert list(table.columns) == ["a", "b", "sum", "factor", "product"]
    assert table["sum"].tolist()[:2] == [3, 4]
    assert table["product"].iloc[2] == 6


@pytest.mark.quick
def test_provenance_tells_what_a_reader_needs(store):
    [result] = runs.ensure([Run("tests.fake_runs:trains", {"seed": 5})], quiet=True)
    told = result.provenance
    assert set(told) == {
        "data", "data_fingerprint", "seed", "source", "commit", "versions", "device", "device_name", "threads", "seconds",
        "peak_memory_mb", "platform",
    }  # fmt: skip
    assert told["seed"] == 5
    assert told["device"] == "cpu"
    assert told["threads"] == 1
    assert told["device_name"]
    assert 0 < told["seconds"] < 60
    assert 20 < told["peak_memory_mb"] < 100_000
    assert told["versions"]["torch"].startswith(provenance.deciding_versions()["torch"])


@pytest.mark.quick
def test_the_environment_moves_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDREPRO_WORKERS", "1")
    monkeypatch.setenv("MEDREPRO_RUNS", str(tmp_path / "elsewhere"))
    [result] = runs.ensure([add(1, 1)], quiet=True)
    assert result.path.parent == tmp_path / "elsewhere"
    monkeypatch.delenv("MEDREPRO_RUNS")
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path / "build"))
    assert paths.run_store() == tmp_path / "build" / "runs"
    assert runs.load(add(1, 1)) is None


@pytest.mark.quick
def test_profiles_build_side_by_side_and_share_the_store(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDREPRO_RUNS")
    monkeypatch.delenv("MEDREPRO_BUILD")
    assert paths.build() == paths.root() / "_build"
    assert paths.build("smoke") == paths.root() / "_build" / "smoke"
    assert paths.run_store() == paths.root() / "_build" / "runs"
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path))
    assert paths.build("gpu") == tmp_path / "gpu"


@pytest.mark.quick
def test_an_unknown_notebook_is_named_with_the_known_ones():
    with pytest.raises(
        FileNotFoundError, match=r"no notebook 'x/y'; there are: .*multifractal/01-local-holder-exponent"
    ):
        paths.notebook_file("x/y")


def test_a_run_that_measures_time_goes_alone_and_last(store, monkeypatch):
    monkeypatch.setenv("MEDREPRO_WORKERS", "2")
    timed = Run("tests.fake_runs:sleeps", {"number": 9, "seconds": 0.0}, alone=True)
    assert (timed, timed.digest) == (sleeps(9), sleeps(9).digest)
    order = []
    first, *others = runs.ensure(
        [timed, sleeps(1), sleeps(2)], quiet=True, each=lambda run: order.append(run.settings["number"])
    )
    assert order[-1] == 9
    assert first.history[0]["pid"] == os.getpid()
    assert os.getpid() not in {one.history[0]["pid"] for one in others}


@pytest.mark.quick
def test_what_is_stored_is_not_computed_again(store):
    wanted = [add(1, 1), Run("tests.fake_runs:sleeps", {"number": 1, "seconds": 0.0})]
    before = [(one.path / "run.json").stat().st_ino for one in runs.ensure(wanted, quiet=True)]
    after = [(one.path / "run.json").stat().st_ino for one in runs.ensure(wanted, quiet=True)]
    assert before == after


@pytest.mark.quick
def test_results_come_in_the_order_asked_for_and_twice_where_asked_twice(store):
    results = runs.ensure([add(3), add(1), add(3), add(2)], quiet=True)
    assert [one.metrics["sum"] for one in results] == [3, 1, 3, 2]
    assert len(names(store)) == 3


@pytest.mark.quick
def test_parents_are_computed_first_and_handed_over(store):
    parent = add(2, 3)
    child = Run("tests.fake_runs:needs_parent", {"parent": parent, "factor": 10})
    assert child.parents() == [parent]
    [result] = runs.ensure([child], quiet=True)
    assert result.metrics == {"product": 50}
    assert result.settings == {"parent": {"run": parent.digest}, "factor": 10}
    assert runs.load(parent).metrics == {"sum": 5}


@pytest.mark.quick
def test_a_missing_parent_is_named(store):
    child = Run("tests.fake_runs:needs_parent", {"parent": add(2, 3), "factor": 10})
    with pytest.raises(RunError, match=r"fake_runs:add\(a=2, b=3\) is needed by another run and is not in the store"):
        runs.compute(child)


@pytest.mark.quick
@pytest.mark.parametrize("content", ["", '{"digest": "abc', "\0\0\0", "[]", "null", '{"digest": "abc"}'])
def test_a_broken_record_counts_as_missing_and_is_computed_again(store, content):
    run = add(4, 4)
    [result] = runs.ensure([run], quiet=True)
    (result.path / "run.json").write_text(content)
    assert runs.load(run) is None
    [again] = runs.ensure([run], quiet=True)
    assert again.metrics == {"sum": 8}
    assert runs.load(run) is not None
    runs.clean([run])
    assert names(store) == [run.digest[:24]]


@pytest.mark.quick
def test_a_broken_record_does_not_hide_the_others_from_the_list(store):
    results = runs.ensure([add(1), add(2)], quiet=True)
    (results[0].path / "run.json").write_text("{")
    assert [one.metrics["sum"] for one in runs.stored()] == [2]


@pytest.mark.quick
def test_the_slower_of_two_writers_leaves_the_faster_ones_folder_and_no_rest(store):
    run = add(1, 1)
    first = runs.write(run, {"metrics": {"sum": 2}}, {"writer": 1})
    inode = (first / "run.json").stat().st_ino
    assert runs.write(run, {"metrics": {"sum": 2}}, {"writer": 2}) == first
    assert (first / "run.json").stat().st_ino == inode
    assert runs.load(run).provenance == {"writer": 1}
    assert names(store) == [run.digest[:24]]


@pytest.mark.quick
@pytest.mark.parametrize("where", ["numpy.savez_compressed", "safetensors.torch.save_file", "pathlib.Path.write_text", "tempfile.mkdtemp"])  # fmt: skip
def test_a_full_disk_says_where_and_what_to_do_and_leaves_no_rest(store, monkeypatch, where):
    [kept] = runs.ensure([add(1)], quiet=True)
    import safetensors.torch  # noqa: F401, patched below

    def full(*arguments, **more):
        if "clear_refs" in str(arguments[:1]):  # the same method resets the peak memory
            raise PermissionError
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(where, full)
        with pytest.raises(OSError, match=r"no space left on the disk that holds .*MEDREPRO_RUNS.*are kept") as caught:
            runs.compute(Run("tests.fake_runs:trains", {"seed": 1}))
    assert caught.value.errno == errno.ENOSPC
    assert str(store) in str(caught.value)
    assert names(store) == [kept.path.name]
    assert runs.load(add(1)) is not None


@pytest.mark.quick
def test_another_fault_of_the_disk_is_not_called_a_full_one(store, monkeypatch):
    def broken(*arguments, **more):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError, match="Input/output error"):
        runs.compute(Run("tests.fake_runs:trains", {"seed": 1}))
    assert names(store) == []


@pytest.mark.quick
def test_cleaning_keeps_the_wanted_runs_with_their_parents_and_scratch(store):
    child = Run("tests.fake_runs:needs_parent", {"parent": add(2, 3), "factor": 10})
    runs.ensure([child, add(7)], quiet=True)
    kept_scratch = store / f".scratch-{child.digest[:24]}"
    for rest in (".writing-abc", ".broken-abc", ".scratch-0123", kept_scratch.name):
        (store / rest).mkdir()
    assert len(runs.clean([child])) == 4
    assert names(store) == sorted([child.digest[:24], add(2, 3).digest[:24], kept_scratch.name])


@pytest.mark.quick
def test_stored_runs_are_listed_newest_first(store):
    results = runs.ensure([add(1), add(2), add(3)], quiet=True)
    for result, age in zip(results, (5, 1, 3)):
        os.utime(result.path, (1_700_000_000 - age, 1_700_000_000 - age))
    assert [one.metrics["sum"] for one in runs.stored()] == [2, 3, 1]


@pytest.mark.quick
def test_a_scratch_folder_survives_a_stop_and_goes_with_the_finished_run(store):
    run = Run("tests.fake_runs:uses_scratch", {"steps": 5, "stop_at": 3})
    with pytest.raises(RunError, match="stopped at step 3"):
        runs.ensure([run], quiet=True)
    assert names(store) == [f".scratch-{run.digest[:24]}"]
    [result] = runs.ensure([run], quiet=True)
    assert result.metrics == {"steps": 5, "resumed_from": 3, "cuda": 0}
    assert names(store) == [run.digest[:24]]


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_a_failing_run_names_itself_and_the_others_are_kept(store):
    wanted = [add(1), Run("tests.fake_runs:fails", {"reason": "loss is not finite"}), add(2)]
    with pytest.raises(RunError) as caught:
        runs.ensure(wanted, quiet=True)
    message = str(caught.value)
    assert "1 of 3 runs failed, the others are kept in" in message
    assert "fake_runs:fails(reason=loss is not finite)" in message
    assert "ValueError: loss is not finite" in message
    assert "in fails" in message  # the frame that raised
    assert [runs.load(run) is not None for run in wanted] == [True, False, True]


@pytest.mark.quick
@pytest.mark.parametrize("through", ["compute", "ensure"])
def test_cuda_asked_for_and_absent_is_said_with_what_to_do(store, monkeypatch, through):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = add(1, 1, device="cuda")
    with pytest.raises(RunError, match="asks for a CUDA device and none is available: choose profile smoke or cpu"):
        runs.compute(run) if through == "compute" else runs.ensure([run], quiet=True)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("tests.fake_runs:nonsense", "tests.fake_runs has no function 'nonsense'"),
        ("tests.fake_runs:returns_text", "returned str: expected a dictionary with keys among"),
        ("tests.fake_runs:returns_figure", r"returned \['figure', 'metrics'\]: expected"),
    ],
)
def test_a_function_that_is_unknown_or_returns_no_result_is_named(store, function, told):
    with pytest.raises(RunError, match=told):
        runs.compute(Run(function))
    assert names(store) == [] if store.exists() else True


@pytest.mark.quick
def test_an_unknown_paper_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no paper 'nonsense' in 'nonsense/01-x'; known: .*multifractal"):
        runs.plan("nonsense/01-x", "smoke")


# -- processes and threads -------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_the_number_of_workers_follows_cores_threads_and_device(monkeypatch):
    monkeypatch.setenv("MEDREPRO_WORKERS", "8")
    assert runs.workers([]) == 1
    assert runs.workers([add(n) for n in range(3)]) == 3
    assert runs.workers([add(n) for n in range(30)]) == 8
    assert runs.workers([add(n, threads=4) for n in range(30)]) == 2
    assert runs.workers([add(n, threads=16) for n in range(30)]) == 1
    assert runs.workers([add(1), add(2, device="cuda")]) == 1
    monkeypatch.delenv("MEDREPRO_WORKERS")
    assert runs.workers([add(n) for n in range(1000)]) == len(os.sched_getaffinity(0))


@pytest.mark.quick
@pytest.mark.parametrize("number", [1, 2])
def test_a_run_computes_with_its_threads_and_the_old_number_comes_back(store, number):
    import torch

    torch.set_num_threads(3)
    result = runs.compute(Run("tests.fake_runs:threads", threads=number))
    assert result.metrics == {"threads": number}
    assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="stop"):
        runs.compute(Run("tests.fake_runs:fails", {"reason": "stop"}))
    assert torch.get_num_threads() == 3


@pytest.mark.quick
def test_progress_is_a_line_on_stderr_that_can_be_silenced(store, capsys):
    runs.ensure([add(1), add(2)])
    told = capsys.readouterr()
    assert told.out == ""
    assert re.search(r"^runs \[#{20}\] 2/2  \d+ s, about 0 s left  fake_runs:add\(a=2, b=0\)$", told.err, re.M)
    runs.ensure([add(1), add(2)])
    runs.ensure([add(3)], quiet=True)
    assert capsys.readouterr().err == ""


def test_workers_and_this_process_compute_identical_numbers(store, monkeypatch, tmp_path):
    import torch

    wanted = [Run("tests.fake_runs:trains", {"seed": seed}) for seed in range(2)]
    monkeypatch.setenv("MEDREPRO_WORKERS", "2")
    workers = runs.ensure(wanted, quiet=True)
    torch.set_num_threads(2)  # as a notebook's kernel may have it
    here = [runs.compute(run, store=tmp_path / "here") for run in wanted]
    for first, second in zip(workers, here):
        assert first.path != second.path
        assert first.metrics == second.metrics
        assert first.history == second.history
        np.testing.assert_array_equal(first.arrays["output"], second.arrays["output"])
        assert all(torch.equal(first.weights[name], second.weights[name]) for name in ("weight", "bias"))
    threads = [Run("tests.fake_runs:threads", {}), Run("tests.fake_runs:threads", {}, threads=2), add(9, 9)]
    assert [one.metrics.get("threads") for one in runs.ensure(threads[::2], quiet=True)] == [1, None]


def test_a_failing_run_in_a_worker_names_itself_and_the_others_are_kept(store, monkeypatch):
    monkeypatch.setenv("MEDREPRO_WORKERS", "2")
    wanted = [add(n) for n in range(6)]
    wanted.insert(3, Run("tests.fake_runs:fails", {"reason": "loss is not finite"}))
    with pytest.raises(
        RunError, match=r"1 of 7 runs failed.*\n?.*fails\(reason=loss is not finite\)\nValueError: loss"
    ):
        runs.ensure(wanted, quiet=True)
    assert sum(runs.load(run) is not None for run in wanted) == 6


@pytest.mark.slow
def test_source_that_is_edited_in_a_long_process_is_the_source_that_is_computed(store, monkeypatch, tmp_path):
    """A digest names the source on disk: a number computed from the code that was imported before must not get it."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_source.py"
    for workers in ("1", "2"):
        monkeypatch.setenv("MEDREPRO_WORKERS", workers)
        for version, value in enumerate((1, 20)):
            file.write_text(f"def run(x):\n    return {{'metrics': {{'y': x + {value} + {workers}00}}}}\n")
            os.utime(file, (1_700_000_000 + version, 1_700_000_000 + int(workers) * 10 + version))
            results = runs.ensure([Run("edited_source:run", {"x": x}) for x in (0, 1)], quiet=True)
            assert [one.metrics["y"] for one in results] == [value + int(workers) * 100, 1 + value + int(workers) * 100]


@pytest.mark.slow
def test_an_edit_while_a_run_computes_does_not_give_the_old_number_the_new_digest(store, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edits_itself.py"
    text = (
        "from pathlib import Path\n"
        "def run():\n"
        "    value = 1\n"
        "    if value == 1:\n"
        "        Path(__file__).write_text(Path(__file__).read_text().replace('value = 1\\n', 'value = 20\\n'))\n"
        "    return {'metrics': {'y': value}}\n"
    )
    file.write_text(text)
    run = Run("edits_itself:run")
    before = run.digest
    [result] = runs.ensure([run], quiet=True)
    assert run.digest != before
    assert result.metrics == {"y": 20}
    assert {one.digest: one.metrics["y"] for one in runs.stored()} == {before: 1, run.digest: 20}


@pytest.mark.quick
def test_runs_that_never_arrive_in_the_store_end_in_an_error(store, monkeypatch):
    monkeypatch.setattr(runs, "_work", lambda run, store, commit_id: None)
    with pytest.raises(RunError, match=r"source or data changed, or .* was cleaned, each time"):
        runs.ensure([add(1)], quiet=True)


TWO_WRITERS = """
from medrepro import runs
wanted = [runs.Run("tests.fake_runs:sleeps", {"number": n, "seconds": 0.002}) for n in range(54)]
wanted += [runs.Run("tests.fake_runs:uses_scratch", {"steps": n, "pause": 0.02}) for n in range(3, 9)]
print(sum(one.metrics.get("square", one.metrics.get("steps")) for one in runs.ensure(wanted, quiet=True)))
"""


@pytest.mark.slow
def test_two_processes_write_the_same_sixty_runs_and_leave_no_rest(store):
    both = [python(TWO_WRITERS) for _ in range(2)]
    told = [finished(process) for process in both]
    assert [int(text) for text in told] == [sum(n**2 for n in range(54)) + sum(range(3, 9))] * 2
    assert len(names(store)) == 60
    assert all(re.fullmatch(r"[0-9a-f]{24}", name) for name in names(store))
    assert len(runs.stored()) == 60


@pytest.mark.quick
def test_two_writers_of_a_run_with_scratch_do_not_disturb_each_other(store):
    """The one that finishes first takes the scratch folder away."""
    run = Run("tests.fake_runs:uses_scratch", {"steps": 8, "pause": 0.03})
    failures = []

    def write():
        try:
            runs.compute(run)
        except Exception as error:
            failures.append(error)

    both = [threading.Thread(target=write) for _ in range(2)]
    both[0].start()
    time.sleep(0.1)
    both[1].start()
    for thread in both:
        thread.join()
    assert not failures
    assert runs.load(run).metrics["steps"] == 8
    assert names(store) == [run.digest[:24]]


KILLED = """
from medrepro import runs
runs.ensure([runs.Run("tests.fake_runs:sleeps", {"number": n, "seconds": 0.2}) for n in range(16)], quiet=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_after_a_kill_finished_runs_are_kept_and_the_rest_is_computed(store, monkeypatch, workers):
    process = python(KILLED, MEDREPRO_WORKERS=workers)
    try:
        deadline = time.monotonic() + 60
        while len(list(store.glob("[0-9a-f]*/run.json"))) < 4:
            assert time.monotonic() < deadline, "nothing was computed"
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in store.glob("[0-9a-f]*/run.json")}
        assert 4 <= len(kept) < 16
        wanted = [sleeps(n, 0.2) for n in range(16)]
        assert sum(runs.load(run) is not None for run in wanted) >= len(kept)  # each is whole
        monkeypatch.setenv("MEDREPRO_WORKERS", "2")
        results = runs.ensure(wanted, quiet=True)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # workers that outlived their parent
        except ProcessLookupError:
            pass
        process.communicate()
    assert [one.metrics for one in results] == [{"square": n**2} for n in range(16)]
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept
    runs.clean(wanted)
    assert names(store) == sorted(run.digest[:24] for run in wanted)


@pytest.mark.slow
def test_an_empty_run_costs_little_in_warm_workers(store, monkeypatch):
    monkeypatch.setenv("MEDREPRO_WORKERS", "2")
    runs.ensure([sleeps(-1), sleeps(-2)], quiet=True)  # start the workers
    wanted = [sleeps(n) for n in range(200)]
    start = time.perf_counter()
    runs.ensure(wanted, quiet=True)
    cost = (time.perf_counter() - start) / 200
    print(f"{cost * 1000:.1f} ms a run")
    assert cost <= 0.15
    start = time.perf_counter()
    runs.ensure(wanted, quiet=True)
    assert (time.perf_counter() - start) / 200 <= 0.02  # read from the store: a digest and a small file


def test_importing_the_package_is_light():
    told = json.loads(finished(python(
        "import json, sys, time; start = time.perf_counter(); import medrepro; first = time.perf_counter() - start\n"
        "import medrepro.runs, medrepro.sources, medrepro.paths, medrepro.cli\n"
        "print(json.dumps({'seconds': first, 'heavy': sorted({'torch', 'monai', 'lightning', 'numpy'} & set(sys.modules))}))"
    )))  # fmt: skip
    assert told["seconds"] <= 0.3
    assert told["heavy"] == []


def test_reading_a_stored_run_does_not_import_torch(store):
    runs.ensure([add(1, 2)], quiet=True)
    code = (
        "import sys; from medrepro import runs\n"
        "[result] = runs.ensure([runs.Run('tests.fake_runs:add', {'a': 1, 'b': 2})])\n"
        "print(result.metrics['sum'], 'torch' in sys.modules)"
    )
    assert finished(python(code)).split() == ["3", "False"]


def test_the_checkout_is_not_written_to(store):
    assert not paths.run_store().is_relative_to(paths.root())
    assert not paths.build().is_relative_to(paths.root())
    assert Path(os.environ["MEDREPRO_CACHE"]) != Path.home()
