"""Recorded results: small, reviewed results of long runs, committed under ``results/<paper>/`` with their provenance.

A recorded result is found by the identity of its run (function and settings). What is recorded is not computed again, so
a long grid grows run by run, over as many sittings and machines as it takes.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from medrepro import paths, runs

#: Largest files that a recorded result may bring along, in bytes.
LIMITS = {"arrays.npz": 1_000_000, "weights.safetensors": 5_000_000}


class RecordedRun(runs.StoredRun):
    """A result read from ``results/``: one JSON file, with arrays and weights beside it under the same name."""

    def _file(self, name: str) -> Path:
        return self.path.with_suffix(Path(name).suffix)


def file_of(run: runs.Run) -> Path:
    """File in which a run is, or will be, recorded."""
    paper, name = run.module.split(".")[1], run.function.split(":")[1]
    return paths.results() / paper / f"{name}-{run.identity[:12]}.json"


def load(run: runs.Run) -> RecordedRun | None:
    """Recorded result of a run, or None where none has been recorded yet."""
    path = file_of(run)
    if not path.is_file():
        return None
    try:
        return RecordedRun(path)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no recorded result ({type(error).__name__}: {error}): restore it from the repository, "
            "or remove it and record the run again"
        ) from error


def found(wanted: Sequence[runs.Run]) -> list[RecordedRun]:
    """The recorded ones among the wanted runs, in their order."""
    return [result for run in wanted if (result := load(run)) is not None]


def record(wanted: Sequence[runs.Run], *, keep: Sequence[str] = ()) -> list[Path]:
    """Record runs, each as soon as it is finished, computing what the store lacks; what is recorded already is skipped.

    Parameters
    ----------
    wanted
        Runs of one paper.
    keep
        Which of ``"arrays"`` and ``"weights"`` to bring along, within `LIMITS`.
    """
    written = []
    todo = [run for run in wanted if not file_of(run).is_file()]

    def write(run: runs.Run) -> None:
        if run in todo and not file_of(run).is_file() and (result := runs.load(run)) is not None:
            written.append(_write(run, result, keep))

    for run in todo:
        write(run)  # those that the store holds
    runs.ensure(todo, each=write)
    return written


def _write(run: runs.Run, result: runs.StoredRun, keep: Sequence[str]) -> Path:
    path = file_of(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    brought = [result.path / name for name in LIMITS if name.split(".")[0] in keep and (result.path / name).is_file()]
    for source in brought:
        if (size := source.stat().st_size) > LIMITS[source.name]:
            raise ValueError(
                f"{source} has {size} bytes, a recorded result at most {LIMITS[source.name]}: keep fewer or smaller arrays"
            )
    for source in brought:
        shutil.copyfile(source, path.with_suffix(source.suffix))
    content = {
        "identity": run.identity,
        "digest": run.digest,
        "function": run.function,
        "settings": result.settings,
        "metrics": result.metrics,
        "history": result.history,
        "provenance": result.provenance,
    }
    descriptor, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    return path
