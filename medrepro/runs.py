"""Runs and their store: what was computed, from which settings, data and source, kept so that nothing is computed twice.

A run is a plain function ``settings -> result`` named as ``"module:function"``. Its settings are JSON-able; one of them may
be another run, whose digest then enters the digest and whose stored result is handed to the function. The result is a
dictionary with any of the keys of `RESULT_KEYS`. A run lives in a folder named by its digest; the folder is written
under a temporary name and renamed, so a killed process leaves no half run and two processes may write the same one.
"""

import contextlib
import errno
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medrepro import paths, provenance, sources

#: Raised when the layout of a run's folder changes: older runs are then computed again.
FORMAT = 1
#: What a run function may return; every key is optional.
RESULT_KEYS = ("metrics", "history", "arrays", "weights")
#: Arguments that the store hands to a run function which asks for them by name; they are no settings.
GIVEN = ("device", "scratch")


class RunError(RuntimeError):
    """A run failed; the message names the run, its settings and what went wrong."""


@dataclass(frozen=True, eq=False)
class Run:
    """One training or evaluation, described but not computed.

    Parameters
    ----------
    function
        ``"module:function"``. The function may ask for `device` (str) and `scratch` (folder that survives a kill).
    settings
        Keyword arguments of the function: JSON-able values, or other runs. ``data`` names a data set.
    device
        ``"cpu"`` or ``"cuda"``: a setting of the profile, never detected while planning.
    threads
        Threads that the run may use; the machine is filled by several runs at once.
    alone
        The run measures time: no other run goes on beside it. It decides no result.
    """

    function: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    alone: bool = False

    def __post_init__(self):
        if self.function.count(":") != 1:
            raise ValueError(f"a run's function is written 'module:function', got {self.function!r}")
        if taken := [name for name in GIVEN if name in self.settings]:
            raise ValueError(f"{self.function}: {taken} are handed over by the store and cannot be settings")
        _canonical(self.settings, lambda run: run.function)

    @property
    def module(self) -> str:
        """Dotted name of the module that holds the function."""
        return self.function.split(":")[0]

    @property
    def identity(self) -> str:
        """SHA-256 of function and settings alone: names a recorded result, whatever source, data or machine made it."""
        return _sha({"function": self.function, "settings": _canonical(self.settings, lambda run: run.identity)})

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the result: format, function, settings, data, source, device kind, versions."""
        return _sha(
            {
                "format": FORMAT,
                "function": self.function,
                "device": self.device,
                "threads": self.threads,
                "settings": _canonical(self.settings, lambda run: run.digest),
                "data": self.data_fingerprint(),
                "source": sources.source_digest(self.module),
                "versions": provenance.deciding_versions(),
            }
        )

    def data_fingerprint(self) -> str | None:
        """Fingerprint of the files behind the setting ``data``; None where the data are made by source."""
        name = self.settings.get("data")
        if not isinstance(name, str):
            return None
        from medrepro.data import registry

        return registry.fingerprint(name)

    def parents(self) -> list["Run"]:
        """Runs among the settings."""
        return [value for value in _leaves(self.settings) if isinstance(value, Run)]

    def label(self) -> str:
        """Short description for progress and messages."""
        told = ", ".join(
            f"{key}={value}" for key, value in self.settings.items() if isinstance(value, str | int | float)
        )
        return f"{self.function.rsplit('.', 1)[-1]}({told})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self.identity)

    def _all(self) -> tuple:
        return self.identity, self.device, self.threads


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        yield value
        return
    for item in value:
        yield from _leaves(item)


def _canonical(value: Any, name_run: Callable[[Run], str]) -> Any:
    """Settings as plain JSON values, a run replaced by its name; anything else is refused."""
    if isinstance(value, Run):
        return {"run": name_run(value)}
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"names of settings are strings, got {bad[0]!r}")
        return {key: _canonical(item, name_run) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_canonical(item, name_run) for item in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(f"settings of a run are plain JSON values or runs, got {type(value).__name__}: {value!r}")


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


# -- the store -------------------------------------------------------------------------------------------------------


class StoredRun:
    """A finished run, read from its folder; arrays and weights are opened when asked for."""

    def __init__(self, path: Path):
        self.path = Path(path)
        content = json.loads(self._file("run.json").read_text(encoding="utf-8"))
        self.digest: str = content["digest"]
        self.function: str = content["function"]
        self.settings: dict[str, Any] = content["settings"]
        self.metrics: dict[str, Any] = content["metrics"]
        self.history: list[dict[str, Any]] = content["history"]
        self.provenance: dict[str, Any] = content["provenance"]

    def _file(self, name: str) -> Path:
        """Where one of the run's files lies."""
        return self.path / name

    @property
    def arrays(self) -> dict[str, Any]:
        """Stored arrays by name (no pickled objects are ever read)."""
        import numpy as np

        if not self._file("arrays.npz").is_file():
            return {}
        with np.load(self._file("arrays.npz"), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    @property
    def weights(self) -> dict[str, Any]:
        """Stored weights as tensors by name."""
        from safetensors.torch import load_file

        path = self._file("weights.safetensors")
        return load_file(path) if path.is_file() else {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.digest[:12]}, {self.function}, {self.metrics})"


def folder(run: Run, store: Path | None = None) -> Path:
    """Folder in which a run is, or will be, stored."""
    return (store or paths.run_store()) / run.digest[:24]


def load(run: Run, store: Path | None = None) -> StoredRun | None:
    """Stored result of a run, or None; a folder that cannot be read counts as missing and is put aside."""
    path = folder(run, store)
    if not path.is_dir():
        return None
    if (found := _read(path)) is None:
        with contextlib.suppress(OSError):
            os.rename(path, tempfile.mkdtemp(prefix=".broken-", dir=path.parent) + "/run")
    return found


def _read(path: Path) -> StoredRun | None:
    try:
        return StoredRun(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(
    run: Run, result: Mapping[str, Any], provenance: Mapping[str, Any], store: Path | None = None, *,
    digest: str | None = None,
) -> Path:  # fmt: skip
    """Write a result under a temporary name and rename it; if another process was faster, its folder stays.

    `digest` is that of the run when its computing began, where source may have been edited meanwhile.
    """
    digest = digest or run.digest
    target, temporary = (store or paths.run_store()) / digest[:24], None
    content = {
        "format": FORMAT,
        "digest": digest,
        "function": run.function,
        "device": run.device,
        "threads": run.threads,
        "identity": run.identity,
        "settings": _canonical(run.settings, lambda parent: parent.digest),
        "metrics": plain(result.get("metrics", {})),
        "history": plain(result.get("history", [])),
        "provenance": plain(provenance),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
        (temporary / "run.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if result.get("arrays"):
            import numpy as np

            np.savez_compressed(temporary / "arrays.npz", **{key: np.asarray(a) for key, a in result["arrays"].items()})
        if result.get("weights"):
            from safetensors.torch import save_file

            weights = {key: tensor.detach().cpu().contiguous() for key, tensor in result["weights"].items()}
            save_file(weights, temporary / "weights.safetensors")
        os.chmod(temporary, 0o755)
        try:
            os.rename(temporary, target)
        except OSError:
            if not (target / "run.json").is_file():
                raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"no space left on the disk that holds {target.parent}: free some, or set "
                "MEDREPRO_RUNS to a folder elsewhere; finished runs are kept",
            ) from error
        raise
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries only; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# -- computing -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Hold torch and the numerical libraries to a number of threads inside; the old numbers come back afterwards."""
    import threadpoolctl

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    with threadpoolctl.threadpool_limits(number):
        import torch  # after the limit, which holds libraries loaded by then

        before = before or torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _check_device(device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise RunError(
                "this run asks for a CUDA device and none is available: choose profile smoke or cpu, or run it "
                "on a machine with an NVIDIA GPU and a CUDA build of torch (see the page 'How to use')"
            )


#: Source of each module that this process computed with: what it imported, then every edit that was seen since.
_read_source: dict[str, list[str]] = {}


def _stale(module: str) -> bool:
    """Whether a module's source on disk is another than this process imported."""
    now = sources.source_digest(module)
    seen = _read_source.setdefault(module, [now])
    if seen[-1] != now:
        seen.append(now)
    return seen[0] != now


def compute(run: Run, *, store: Path | None = None, commit_id: str | None = None) -> StoredRun:
    """Compute one run in this process, its parents being stored already, and store it.

    Raises
    ------
    RunError
        The device is absent, the function is unknown or returns something else than results.
    """
    _check_device(run.device)
    module, name = run.function.split(":")
    function = getattr(importlib.import_module(module), name, None)
    if function is None:
        raise RunError(f"{module} has no function {name!r}: {run.function} cannot be computed")
    if _stale(run.module):
        raise RunError(f"the source behind {run.function} was edited after this process had read it: run again")
    digest, source = run.digest, sources.source_digest(run.module)  # a later edit is not what computes now
    scratch = (store or paths.run_store()) / f".scratch-{digest[:24]}"
    wanted = inspect.signature(function).parameters
    given = {key: value for key, value in {"device": run.device, "scratch": scratch}.items() if key in wanted}
    with contextlib.ExitStack() as held:
        if "scratch" in given:  # one writer at a time; the lock ends with the process, however that ends
            from filelock import FileLock

            lock = FileLock(scratch / ".lock")
            while not lock.is_locked:
                with contextlib.suppress(FileNotFoundError):  # the other writer finished and took the folder away
                    scratch.mkdir(parents=True, exist_ok=True)
                    lock.acquire()
            held.callback(lock.release)
        if not ("scratch" in given and (done := load(run, store))):
            done = _compute(run, function, given, digest, source, store, commit_id)
        shutil.rmtree(scratch, ignore_errors=True)
        return done


def _compute(run, function, given, digest, source, store, commit_id) -> StoredRun:
    settings = _with_parents(run.settings, store)
    provenance.reset_peak_memory(run.device)
    with _threads(run.threads):
        start = time.perf_counter()
        result = function(**settings, **given)
        seconds = time.perf_counter() - start
    if not isinstance(result, Mapping) or not set(result) <= set(RESULT_KEYS):
        keys = sorted(result) if isinstance(result, Mapping) else type(result).__name__
        raise RunError(f"{run.function} returned {keys}: expected a dictionary with keys among {RESULT_KEYS}")
    told = {
        "data": run.settings.get("data"),
        "data_fingerprint": run.data_fingerprint(),
        "seed": run.settings.get("seed"),
        "source": source,
        "commit": commit_id or provenance.commit(),
        "versions": provenance.all_versions(),
        "device": run.device,
        "device_name": provenance.device_name(run.device),
        "threads": run.threads,
        "seconds": round(seconds, 3),
        "peak_memory_mb": provenance.peak_memory_mb(run.device),
        "platform": platform.platform(),
    }
    return StoredRun(write(run, result, told, store, digest=digest))


def _with_parents(value: Any, store: Path | None) -> Any:
    if isinstance(value, Run):
        stored = load(value, store)
        if stored is None:
            raise RunError(
                f"{value.label()} is needed by another run and is not in the store {store or paths.run_store()}"
            )
        return stored
    if isinstance(value, Mapping):
        return {key: _with_parents(item, store) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_parents(item, store) for item in value]
    return value


def _work(run: Run, store: Path, commit_id: str | None) -> str | None:
    """Compute a run in a worker; an error comes back as text, since not every exception survives the journey."""
    try:
        compute(run, store=store, commit_id=commit_id)
    except Exception as error:
        frames = traceback.format_exc(limit=-4)
        return f"{type(error).__name__}: {error}\n{frames}"
    return None


def _levels(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs and all runs they need, each once, in levels: a level needs earlier levels only."""
    depth: dict[Run, int] = {}

    def visit(run: Run) -> int:
        if run not in depth:
            depth[run] = 1 + max((visit(parent) for parent in run.parents()), default=-1)
        return depth[run]

    for run in runs:
        visit(run)
    return [[run for run in depth if depth[run] == level] for level in range(max(depth.values(), default=-1) + 1)]


def cores() -> int:
    """Cores that may be used: those of this process, or `MEDREPRO_WORKERS`."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("MEDREPRO_WORKERS") or own)


def workers(runs: Sequence[Run]) -> int:
    """Worker processes for a level of runs: the cores over the threads of a run, one for CUDA."""
    if not runs or any(run.device == "cuda" for run in runs):
        return 1
    return max(1, min(len(runs), cores() // max(run.threads for run in runs) or 1))


def ensure(
    runs: Sequence[Run],
    *,
    store: Path | None = None,
    quiet: bool = False,
    each: Callable[[Run], None] | None = None,
    executor: Callable[[int], Executor] | None = None,
) -> list[StoredRun]:
    """Results of runs in their order; what is missing (parents too) is computed first, several at once.

    Parameters
    ----------
    runs
        What is wanted.
    store
        Run store; default: that of the project.
    quiet
        Show no progress.
    each
        Called with every run (parents too) as soon as it is computed, before the others are.
    executor
        Makes a pool of so many workers for runs that may go side by side; default: workers that stay for the next call.

    Raises
    ------
    RunError
        At least one run failed; the others are finished and kept. The message names the first failure.
    """
    store = store or paths.run_store()
    for _ in range(3):  # again where source was edited meanwhile, or another process cleaned the store
        for level in _levels(runs):
            if missing := [run for run in level if load(run, store) is None]:
                _compute_level(missing, store, quiet=quiet, each=each, executor=executor)
        if None not in (results := [load(run, store) for run in runs]):
            return results
    raise RunError(f"source or data changed, or {store} was cleaned, each time runs were computed: run again")


def _compute_level(
    missing: list[Run],
    store: Path,
    *,
    quiet: bool,
    each: Callable[[Run], None] | None,
    executor: Callable[[int], Executor] | None,
) -> None:
    store.mkdir(parents=True, exist_ok=True)
    commit_id, failures = provenance.commit(), []
    progress = _Progress(len(missing), quiet=quiet, each=each)
    for group in ([run for run in missing if not run.alone], [run for run in missing if run.alone]):
        number = 1 if group and group[0].alone else workers(group)
        stale = {run.module for run in group if _stale(run.module)}  # of every module: it also notes what was read
        if group and executor is not None:
            with executor(number) as pool:
                failures += _in_workers(group, store, commit_id, pool, progress)
            continue
        if number > 1 or stale:
            failures += _in_workers(group, store, commit_id, _lasting_workers(number), progress)
            continue
        for run in group:
            failure = _work(run, store, commit_id)
            failures += [(run, failure)] if failure else []
            progress.step(run, failed=bool(failure))
    if failures:
        run, text = failures[0]
        raise RunError(
            f"{len(failures)} of {len(missing)} runs failed, the others are kept in {store}. "
            f"First failure: {run.label()}\n{text}"
        )


def _lasting_workers(number: int) -> Executor:
    from joblib.externals.loky import get_reusable_executor

    # a worker that has trained once is warm: torch is loaded, code is compiled; another environment means new workers,
    # and so does an edit of source
    environment = {"OMP_NUM_THREADS": "1", "MEDREPRO_EDITS": str(sum(len(seen) - 1 for seen in _read_source.values()))}
    environment |= {name: os.environ.get(name, "") for name in ("MEDREPRO_DATA", "MEDREPRO_CACHE")}
    return get_reusable_executor(max_workers=number, timeout=300, env=environment)


def _in_workers(
    missing: list[Run], store: Path, commit_id: str | None, executor: Executor, progress: "_Progress"
) -> list:
    futures, failures = {executor.submit(_work, run, store, commit_id): run for run in missing}, []
    try:
        for future in as_completed(futures):
            run = futures[future]
            try:
                failure = future.result()
            except BrokenExecutor:
                failure = (
                    "a worker process was ended from outside, often for want of memory: run again (finished runs are "
                    "kept), with MEDREPRO_WORKERS=1 if it happens once more"
                )
            failures += [(run, failure)] if failure else []
            progress.step(run, failed=bool(failure))
    except BaseException:
        _end(executor)
        raise
    return failures


def _end(executor: Executor) -> None:
    """End a pool and its workers at once."""
    if "kill_workers" in inspect.signature(executor.shutdown).parameters:  # loky's own
        executor.shutdown(wait=False, kill_workers=True)
        return
    processes = list((executor._processes or {}).values())
    executor.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()


class _Progress:
    """A line on stderr after each run: how many are done, the time gone and an estimate of the rest."""

    def __init__(self, total: int, *, quiet: bool, each: Callable[[Run], None] | None = None):
        self.total, self.done, self.quiet, self.start, self.shown = total, 0, quiet, time.monotonic(), 0.0
        self.each = each

    def step(self, run: Run, *, failed: bool = False) -> None:
        if self.each is not None and not failed:
            self.each(run)
        self.done += 1
        gone = time.monotonic() - self.start
        if self.quiet or (self.done < self.total and gone - self.shown < 2):
            return
        self.shown = gone
        rest = gone / self.done * (self.total - self.done)
        filled = round(20 * self.done / self.total)
        print(
            f"runs [{'#' * filled}{'.' * (20 - filled)}] {self.done}/{self.total}  {gone:.0f} s, about {rest:.0f} s left"
            f"  {run.label()[:90]}",
            file=sys.stderr,
            flush=True,
        )


# -- plans and tables ------------------------------------------------------------------------------------------------


def experiments(notebook: str) -> Any:
    """Module with the experiments of a notebook's paper."""
    paper = notebook.split("/")[0]
    if paper not in paths.papers():
        raise ValueError(f"no paper {paper!r} in {notebook!r}; known: {', '.join(paths.papers()) or 'none'}")
    return importlib.import_module(f"medrepro.{paper}.experiments")


def planned_by(
    planners: Mapping[str, Callable[..., list[Run]]],
    profiles: Mapping[str, Mapping[str, Any]],
    notebook: str,
    profile: str,
    **parameters: Any,
) -> list[Run]:
    """Runs that a chapter's planner of a notebook lists: ``planners[notebook](profiles[profile], **parameters)``.

    Raises
    ------
    ValueError
        The notebook has no planner, or the profile is unknown.
    """
    for name, kind, known in ((profile, "profile", profiles), (notebook, "notebook", planners)):
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; choose one of {', '.join(known)}")
    return planners[notebook](profiles[profile], **parameters)


def plan(notebook: str, profile: str, **parameters: Any) -> list[Run]:
    """Runs behind a notebook at a profile, listed and not computed; parameters are those of the notebook's first cell."""
    return list(experiments(notebook).runs(notebook, profile, **parameters))


def collect(results: Sequence[Any]) -> Any:
    """One row a run: its plain settings, then its metrics, as a tidy pandas table (missing numbers are NaN)."""
    import pandas as pd

    def flat(result: Any) -> dict[str, Any]:
        told = {
            key: value
            for key, value in result.settings.items()
            if value is None or isinstance(value, str | int | float)
        }
        return {**told, **{key: math.nan if value is None else value for key, value in result.metrics.items()}}

    return pd.DataFrame([flat(result) for result in results])


def stored(store: Path | None = None) -> list[StoredRun]:
    """All readable runs of the store, newest first."""
    found = [path.parent for path in (store or paths.run_store()).glob("[0-9a-f]*/run.json")]
    return [run for path in sorted(found, key=lambda path: -path.stat().st_mtime) if (run := _read(path))]


def clean(keep: Iterable[Run] = (), *, store: Path | None = None) -> list[Path]:
    """Remove every run that is not in `keep` (with its parents), and what dead processes left behind; returns the folders."""
    store = store or paths.run_store()
    kept = {folder(run, store).name for level in _levels(keep) for run in level}
    kept |= {f".scratch-{name}" for name in kept}
    gone = [path for path in store.glob("*") if path.is_dir() and path.name not in kept]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return gone
