"""A whole build from one process: it imports what runs and pages need, once, and forks, so that nobody imports it again.

Runs are computed by forked workers, notebooks executed by papermill in forked kernels. What fails here is left to the
workflow, which tries it again in processes of its own and tells of it. Linux only: elsewhere to fork after large imports
is not safe.
"""

import contextlib
import ctypes
import functools
import importlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from medrepro import bookbuild, runs, sources, staging
from medrepro.imports import without_address_grammar

#: Imported before the first worker is forked, and before the first kernel, beside the modules of runs and cells.
FOR_ALL = ("torch", "torch._dynamo")  # the latter is imported by the first optimiser, and by Fabric
FOR_RUNS = ("threadpoolctl", "safetensors.torch")
FOR_PAGES = (
    "nbformat", "papermill", "medrepro.kernels", "ipykernel.kernelapp", "ipykernel.debugger", "pandas", "matplotlib_inline.backend_inline",
    "matplotlib.pyplot", "PIL.Image", "PIL.PngImagePlugin", "pydicom.pixels", "nibabel", "sqlite3",
)  # fmt: skip
PR_SET_PDEATHSIG = 1


def possible() -> bool:
    """Whether this system can do so."""
    return sys.platform == "linux"


def end_with_parent() -> None:
    """Have the kernel of the system end this process as soon as the one that forked it ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Told:
    """A fork of this process that prepares itself at once, and does its task when it is told on what."""

    def __init__(self, prepare: Callable[[], None], task: Callable[[Any], None]) -> None:
        reader, self._writer = os.pipe()
        self._child = _fork(functools.partial(self._serve, reader, prepare, task))
        os.close(reader)

    def _serve(self, reader: int, prepare: Callable[[], None], task: Callable[[Any], None]) -> None:
        os.close(self._writer)
        prepare()
        with os.fdopen(reader, "rb") as pipe:
            if told := pipe.read():
                task(pickle.loads(told))

    def tell(self, what: Any) -> None:
        """Have it begin; if it has ended, its work is left to the workflow."""
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._writer, "wb") as pipe:
            pickle.dump(what, pipe)

    def wait(self) -> None:
        """Wait until it has done its work."""
        os.waitpid(self._child, 0)

    def dismiss(self) -> None:
        """End it: there is nothing to do."""
        os.kill(self._child, signal.SIGKILL)
        os.close(self._writer)
        self.wait()


class Host(_Told):
    """A fork of this process that imports what runs need, and forks one that imports what pages need beside it.

    Examples
    --------
    >>> if possible():
    ...     Host("smoke").dismiss()
    """

    def __init__(self, profile: str) -> None:
        self.profile = profile
        super().__init__(self._prepare, self._build)

    def work(self) -> None:
        """Have it compute missing runs and execute stale pages; what this process has learnt of sources is handed on."""
        self.tell(sources.PARSED)

    def _prepare(self) -> None:
        os.environ |= staging.KERNEL_ENVIRONMENT  # read when numerical libraries are imported, which is now
        _import(FOR_ALL)
        self._pages = _Told(_import_for_pages, self._execute)
        _import(FOR_RUNS)
        with contextlib.suppress(Exception):
            importlib.import_module("medrepro.training").import_fabric()

    def _build(self, known: dict) -> None:
        """Compute missing runs of all pages and execute the pages that need it; nothing is raised for what fails."""
        sources.PARSED |= known
        planned = {name: staging.plan(name, self.profile) for name in bookbuild.pages_without_runs(self.profile)}
        wanted = [run for some in planned.values() for run in some]
        _import({run.module for run in wanted})
        later = {run.module for run in wanted if None in map(runs.load, run.parents())}
        workers = _Workers(lambda: _import(sources.libraries(later)))
        with contextlib.suppress(runs.RunError):  # the workflow tells
            # the first page's runs are small: at the end they leave no worker idle
            runs.ensure(wanted[::-1], executor=workers)
        for name, some in planned.items():
            if None not in (results := [runs.load(run) for run in some]):
                bookbuild.list_runs(name, self.profile, results)
        todo = bookbuild.pages_to_execute(self.profile)
        todo.sort(key=staging.figures_in, reverse=True)  # what takes long is not begun last
        self._pages.tell((todo, sources.PARSED))
        self._pages.wait()

    def _execute(self, told: tuple[list[str], dict]) -> None:
        """Execute pages, in a process that has imported what they need."""
        todo, known = told
        sources.PARSED |= known
        cores = runs.cores()
        at_once = cores + (cores > 1)  # kernels wait now and then
        _in_children([functools.partial(_page, name, self.profile) for name in todo], at_once)


def _import(names: Iterable[str]) -> None:
    with without_address_grammar():
        for name in names:
            with contextlib.suppress(Exception):  # who needs it says so better
                importlib.import_module(name)


def _import_for_pages() -> None:
    _import(FOR_PAGES)
    with contextlib.suppress(Exception):
        _import(module for page in bookbuild.pages() for module in staging.imported(page))
    with contextlib.suppress(Exception):
        _rehearse()


def _rehearse() -> None:
    """Draw a figure with a formula, compile a function: what is looked up for that is then known to all kernels."""
    import matplotlib.pyplot as plt
    import numba

    from medrepro import plotting, provenance

    provenance.all_versions()
    with plt.rc_context():
        plotting.use_style()
        figure, axis = plt.subplots()
        axis.set(title=r"$\alpha^2$", xscale="log")
        plotting.png(figure)
    numba.njit(lambda: 0)()


class _Workers:
    """Makes pools of forked workers, one after the other; beside the first, it imports what later ones would import."""

    def __init__(self, imports: Callable[[], None]) -> None:
        self._imports, self._beside = imports, None

    def __call__(self, number: int) -> Executor:
        """A pool; no import is under way when its workers are forked, which is now."""
        if self._beside is not None:
            self._beside.join()
        pool = ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("fork"), initializer=end_with_parent)
        pool.submit(int)
        if self._beside is None:
            self._beside = threading.Thread(target=self._imports, daemon=True)
            self._beside.start()
        return pool


# -- children --------------------------------------------------------------------------------------------------------


def _fork(task: Callable[[], None]) -> int:
    """Run a task in a child; its exit status is 0 if the task returned."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    if pid := os.fork():
        return pid
    status = 1
    try:
        end_with_parent()
        if os.getppid() == parent:  # else it ended before it was followed
            task()
            status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _in_children(tasks: Sequence[Callable[[], None]], at_once: int) -> None:
    """Run tasks in children, in their order, so many at once."""
    running: set[int] = set()
    for task in tasks:
        while len(running) >= at_once:
            running.discard(os.wait()[0])
        running.add(_fork(task))
    while running:
        running.discard(os.wait()[0])


def _page(name: str, profile: str) -> None:
    """Execute a notebook in a kernel that is forked before papermill starts any thread."""
    kernel = _ParkedKernel()
    try:
        staging.execute_and_tell(name, profile, kernel_manager_class=_manager_of(kernel))
    except (staging.NotebookError, runs.RunError):
        sys.exit(1)  # the workflow executes it again and tells
    finally:
        kernel.kill()


class _ParkedKernel:
    """A forked process that becomes a Jupyter kernel when it is told its connection file; to its manager, a `Popen`."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        self.pid, self.returncode = _fork(functools.partial(self._wait, reader)), None
        os.close(reader)

    def _wait(self, reader: int) -> None:
        os.close(self._writer)
        os.setsid()  # signals to the kernel's group reach nobody else
        with os.fdopen(reader) as pipe:
            told = json.loads(pipe.read() or "null")
        if told is None:
            return
        os.chdir(told["cwd"])
        os.environ.clear()
        os.environ.update(told["env"])
        from ipykernel.kernelapp import IPKernelApp

        sys.argv = ["ipykernel_launcher", *told["arguments"]]
        IPKernelApp.launch_instance(argv=told["arguments"])

    def start(self, command: list[str], *, cwd: str | Path | None, env: dict[str, str]) -> None:
        """Become the kernel that a command line ``python -m ipykernel_launcher ARGUMENTS`` would start."""
        quiet = ["--IPKernelApp.log_level=CRITICAL", f"--IPKernelApp.parent_handle={os.getpid()}"]
        arguments = [*command[command.index("-f") :], *quiet]
        told = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "env": env,
        }
        os.write(self._writer, json.dumps(told).encode())
        os.close(self._writer)

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        """Exit status, once it has ended."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _manager_of(kernel: _ParkedKernel) -> type:
    """A kernel manager whose kernel is this one."""
    from jupyter_client.provisioning import LocalProvisioner

    from medrepro.kernels import Manager

    class Provisioner(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
            kernel.start(cmd, cwd=kwargs.get("cwd"), env=kwargs["env"])
            self.process, self.pid, self.pgid = kernel, kernel.pid, kernel.pid
            return self.connection_info

    class OfThis(Manager):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.provisioner = Provisioner(kernel_id="", kernel_spec=self.kernel_spec, parent=self)

    return OfThis
