"""A build in forks of one process: runs, kernels, and that nothing outlives the process that started it."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from medrepro import bookbuild, paths, runs, sources, staging, warm
from tests import fake_experiments

pytestmark = pytest.mark.skipif(not warm.possible(), reason="forks after large imports: Linux only")
NOTEBOOK = "fake/01-first"


def script(text, **given):
    """A script in a process of its own, as the command is."""
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, **given)


def is_gone(pid):
    for _ in range(40):
        try:
            os.kill(pid, 0)
            if "State:\tZ" in open(f"/proc/{pid}/status").read():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


def test_a_host_computes_the_runs_of_pages_whose_manifest_is_missing_or_old(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(runs, "experiments", lambda notebook: fake_experiments)
    monkeypatch.setattr(bookbuild, "pages", lambda: [NOTEBOOK])
    monkeypatch.setattr(staging, "parameters", lambda notebook: {})
    monkeypatch.setattr(staging, "imported", lambda notebook: [])
    monkeypatch.setattr(bookbuild, "pages_to_execute", lambda profile: [])
    build = paths.build("smoke")
    key, manifest = build / "keys" / "runs" / NOTEBOOK, build / "manifests" / f"{NOTEBOOK}.json"
    key.parent.mkdir(parents=True)
    key.write_text("digest")
    assert bookbuild.pages_without_runs("smoke") == [NOTEBOOK]
    host = warm.Host("smoke")
    host.work()
    host.wait()
    wanted = fake_experiments.runs(NOTEBOOK, "smoke")
    assert all(runs.load(run) for run in wanted)
    assert json.loads(manifest.read_text()) == [run.digest for run in wanted]
    assert bookbuild.pages_without_runs("smoke") == []
    os.utime(manifest, (0, 0))
    assert bookbuild.pages_without_runs("smoke") == [NOTEBOOK]


def test_a_page_is_executed_when_its_copy_is_missing_or_older_than_its_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(bookbuild, "pages", lambda: [NOTEBOOK])
    build, copy = paths.build("smoke"), staging.staged_file(NOTEBOOK, "smoke")
    files = [build / "keys" / "runs" / NOTEBOOK, build / "keys" / "notebooks" / NOTEBOOK]
    manifest = build / "manifests" / f"{NOTEBOOK}.json"
    for number, path in enumerate([*files, manifest, copy], 1):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        os.utime(path, (number, number))
    assert bookbuild.pages_to_execute("smoke") == []
    os.utime(manifest, (9, 9))
    assert bookbuild.pages_to_execute("smoke") == [NOTEBOOK]
    manifest.unlink()  # its runs are not known: the workflow's task
    assert bookbuild.pages_to_execute("smoke") == []


def test_a_host_that_is_dismissed_ends_at_once():
    host = warm.Host("smoke")
    host.dismiss()
    assert is_gone(host._child)


def test_a_host_that_has_ended_stops_no_build():
    host = warm.Host("smoke")
    os.kill(host._child, signal.SIGKILL)
    assert is_gone(host._child)
    host.work()
    host.wait()


EXECUTE = """
import sys, papermill
from medrepro import staging, warm
how = {"kernel_manager_class": warm._manager_of(warm._ParkedKernel())} if sys.argv[3] == "forked" else {}
with staging._environment(staging.KERNEL_ENVIRONMENT):
    papermill.execute_notebook(sys.argv[1], sys.argv[2], {"wanted": 7}, progress_bar=False, cwd=sys.argv[4], **how)
"""
CELLS = [
    "wanted = 1",
    "import os, sys\nprint(wanted, os.path.basename(os.getcwd()), os.environ['OMP_NUM_THREADS'])",
    "from IPython.display import display, Markdown\ndisplay(Markdown('shown'))\nprint('to stderr', file=sys.stderr)\nwanted + 1",
    "import numpy as np, torch\nx = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))\n(x @ x).sum().item()",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.gcf().get_size_inches().tolist()",
]


def test_a_forked_kernel_gives_the_outputs_of_a_fresh_one(tmp_path):
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    content.cells[0].metadata["tags"] = ["parameters"]
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(content, tmp_path / "in.ipynb")
    outputs = {}
    for how in ("forked", "fresh"):
        done = script(EXECUTE.replace("sys.argv[3]", repr(how)).replace("sys.argv[4]", repr(str(tmp_path)))
                      .replace("sys.argv[1]", repr(str(tmp_path / "in.ipynb")))
                      .replace("sys.argv[2]", repr(str(tmp_path / f"{how}.ipynb"))))  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        cells = nbformat.read(tmp_path / f"{how}.ipynb", as_version=4).cells
        outputs[how] = [[{k: v for k, v in o.items() if k != "metadata"} for o in c.outputs] for c in cells]
    assert outputs["forked"] == outputs["fresh"]
    assert outputs["forked"][2][0]["text"] == f"7 {tmp_path.name} 1\n"


STOPPED = """
import time
from medrepro import kernels
kernels.PATIENCE = 0.2
heart = kernels.Manager().client_factory().hb_channel_class
never_ends = type("NeverEnds", (heart,), {"run": lambda self: time.sleep(60)})(None, None, "tcp://127.0.0.1:1")
never_ends.start()
never_ends.stop()
print("stopped", issubclass(heart, kernels.Heartbeat), flush=True)
"""


def test_a_heartbeat_that_does_not_end_keeps_nobody_waiting():
    start = time.monotonic()
    assert script(STOPPED).stdout == "stopped True\n"
    assert time.monotonic() - start < 30


LEAVES_A_CHILD = """
import os, signal, time
from medrepro import warm
kernel = warm._ParkedKernel()
child = warm._fork(lambda: time.sleep(100))
print(kernel.pid, child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_and_kernels_end_with_a_killed_parent():
    done = script(LEAVES_A_CHILD)
    assert done.returncode == -signal.SIGKILL
    assert all(is_gone(int(pid)) for pid in done.stdout.split())


TASKS = """
import os, time
from medrepro import warm
def task(number):
    os.write(1, f"begins {number}\\n".encode())
    time.sleep(0.5 * (number != 1))
    if number == 1:
        raise SystemExit(1)
    os.write(1, f"ends {number}\\n".encode())
warm._in_children([lambda n=n: task(n) for n in range(4)], 2)
print("all done", flush=True)
"""


def test_tasks_go_side_by_side_and_one_that_fails_stops_no_other():
    done = script(TASKS)
    lines = done.stdout.splitlines()
    assert set(lines[:2]) == {"begins 0", "begins 1"}
    assert lines.index("begins 2") < lines.index("ends 0") < lines.index("begins 3")
    assert {"ends 2", "ends 3"} < set(lines)
    assert lines[-1] == "all done"


def test_what_a_process_learnt_of_sources_serves_another():
    sources.PARSED.clear()
    digest = sources.source_digest("medrepro.metrics")
    assert sources.PARSED
    known = dict(sources.PARSED)
    sources.PARSED.clear()
    sources.PARSED |= known
    assert sources.source_digest("medrepro.metrics") == digest
    assert known == sources.PARSED


def test_modules_that_cells_import_and_figures_that_they_show():
    name = "multifractal/05-cost"
    assert {"pandas", "medrepro.page", "medrepro.page.Page", "numpy"} <= set(staging.imported(name))
    assert staging.figures_in(name) >= 1
