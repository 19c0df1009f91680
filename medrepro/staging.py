"""From a source notebook to an executed page of the book: parameters, keys, execution by papermill, staging.

An executed copy keeps everything that a reader may download; staging hides the injected parameters, turns each figure bundle
(see `medrepro.plotting`) into a numbered figure with alt text, and writes the measured time into the page.
"""

import ast
import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medrepro import paths, runs, sources
from medrepro.imports import without_address_grammar

#: Of every kernel: one thread a page, since pages run side by side, and sums then do not depend on the number of cores.
KERNEL_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}


class NotebookError(RuntimeError):
    """A notebook stopped with an error; the message names the notebook, the cell and the cause."""


# -- the source notebook ---------------------------------------------------------------------------------------------


def tags(cell: Any) -> list[str]:
    """Tags of a cell."""
    return cell.metadata.get("tags", [])


def cells(notebook: str) -> list[SimpleNamespace]:
    """Cells of a source notebook with `cell_type`, `source` and `metadata`, read without nbformat, whose import takes long."""
    path = paths.notebook_file(notebook)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [
            SimpleNamespace(cell_type=c["cell_type"], source="".join(c["source"]), metadata=c["metadata"])
            for c in found
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no notebook ({type(error).__name__}: {error}): restore it from the repository"
        ) from None


def parameters(notebook: str) -> dict[str, Any]:
    """Default parameters of a notebook: the plain literals of its cell tagged ``parameters``."""
    tagged = [cell for cell in cells(notebook) if "parameters" in tags(cell)]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: expected one cell tagged 'parameters', found {len(tagged)}")
    found, line = {}, 1
    try:
        for node in ast.parse(tagged[0].source).body:
            line = node.lineno
            [target] = node.targets
            found[target.id] = ast.literal_eval(node.value)
    except (AttributeError, ValueError, SyntaxError) as error:
        line = getattr(error, "lineno", None) or line
        raise ValueError(f"{notebook}: the parameters cell holds plain assignments only, line {line} is none") from None
    return found


def imported(notebook: str) -> list[str]:
    """Modules that a notebook's cells import, in order."""
    code = "\n".join(cell.source for cell in cells(notebook) if cell.cell_type == "code")
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= dict.fromkeys([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return list(found)


def figures_in(notebook: str) -> int:
    """How many figures a notebook shows, which is most of the time that it takes when its runs are stored."""
    return sum(cell.source.count(".figure(") for cell in cells(notebook) if cell.cell_type == "code")


def plan(notebook: str, profile: str, **changed: Any) -> list[runs.Run]:
    """Runs behind a notebook with its default parameters, some of them changed."""
    given = parameters(notebook)
    if unknown := sorted(set(changed) - set(given)):
        raise ValueError(f"{notebook} has no parameter {unknown[0]!r}; known: {', '.join(given)}")
    given |= changed
    given.pop("profile", None)
    return runs.plan(notebook, profile, **given)


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def key(notebook: str, profile: str) -> str:
    """Digest of all that decides an executed notebook: runs, cells, imported modules, the paper's files, the profile."""
    content = cells(notebook)
    code = "\n".join(cell.source for cell in content if cell.cell_type == "code")
    paper = notebook.split("/")[0]
    files = [*(paths.PACKAGE / paper).glob("*.yaml"), paths.root() / "notebooks" / paper / "quiz.yaml"]
    files += (paths.results() / paper).glob("*.json")
    parts = {
        "profile": profile,
        "runs": [run.digest for run in plan(notebook, profile)],
        "cells": [(cell.cell_type, cell.source, cell.metadata) for cell in content],
        "modules": sources.source_digest(
            [*sources.imports_of(code), f"medrepro.{paper}.experiments", "medrepro.staging"]
        ),
        "files": {
            path.name: _file_digest(path) for path in sorted(files) if path.is_file() and path.name != "verdicts.json"
        },
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# -- execution -------------------------------------------------------------------------------------------------------


def prepare(notebook: str, target: Path, **given: Any) -> Path:
    """Copy of a notebook with parameters injected, not executed."""
    import papermill

    target.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(paths.notebook_file(notebook), target, given, prepare_only=True, progress_bar=False)
    return target


def staged_file(notebook: str, profile: str) -> Path:
    """Where a build keeps the executed, staged copy."""
    return paths.build(profile) / "stage" / "notebooks" / f"{notebook}.ipynb"


def execute(notebook: str, profile: str, *, kernel_manager_class: type | None = None, **given: Any) -> Path:
    """Execute a notebook at a profile and stage it; an earlier staged copy stays until the new one is whole.

    A `kernel_manager_class` other than `medrepro.kernels.Manager` decides how its kernel is started; `given` are parameters.

    Raises
    ------
    NotebookError
        A cell failed; the message names it, and the log holds the rest.
    """
    with without_address_grammar():
        import nbformat
        import papermill

        from medrepro.kernels import Manager

    runs.ensure(plan(notebook, profile, **given))  # here and not in the kernel, so that progress is seen
    target, log = staged_file(notebook, profile), paths.build(profile) / "logs" / f"{notebook}.log"
    for path in (target, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    (paths.build(profile) / "tables" / notebook).mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part.ipynb")
    start = time.perf_counter()
    how = {"shutdown_kernel": "immediate", "kernel_manager_class": kernel_manager_class or Manager}
    try:
        with open(log, "w", encoding="utf-8") as output, _environment(KERNEL_ENVIRONMENT):
            papermill.execute_notebook(
                paths.notebook_file(notebook), part, {"profile": profile, **given}, progress_bar=False,
                log_output=False, stdout_file=output, stderr_file=output, cwd=part.parent,
                request_save_on_cell_execute=False, **how,  # at the end and when a cell fails: a page kept so far is of no use
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        cell = failed_cell(part)
        with open(log, "a", encoding="utf-8") as output:
            output.write("\n".join(error.traceback))
        raise NotebookError(
            f"{notebook}: cell {cell} failed with {error.ename}: {error.evalue}\nThe log is {log}"
        ) from None
    content = nbformat.read(part, as_version=4)
    seconds = time.perf_counter() - start
    stage(content, notebook, profile, measured(notebook, profile, seconds, given))
    nbformat.write(content, part)
    os.replace(part, target)
    return target


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """Within, the environment has these values: a kernel started here gets them."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def execute_and_tell(notebook: str, profile: str, **how: Any) -> None:
    """As `execute`, with a line on stderr before and after."""
    timings = paths.build(profile) / "timings" / f"{notebook}.json"
    last = json.loads(timings.read_text())["page_seconds"] if timings.is_file() else None
    print(f"page {notebook}: starts" + (f", last time {last:.0f} s" if last else ""), file=sys.stderr)
    execute(notebook, profile, **how)
    print(f"page {notebook}: done in {json.loads(timings.read_text())['page_seconds']:.0f} s", file=sys.stderr)


def failed_cell(executed: Path) -> str:
    """Id of the failed cell of an executed copy, with its first line (papermill's own number counts the injected cell)."""
    import nbformat

    content = nbformat.read(executed, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code" and any(output.output_type == "error" for output in cell.outputs):
            return f"{cell.get('id', '?')!r} ({(cell.source.strip() or '-').splitlines()[0][:80]})"
    return "?"


def measured(notebook: str, profile: str, seconds: float, given: dict[str, Any]) -> str:
    """One line on the time of this page, which is also kept as JSON in the build's timings."""
    found = [result for run in plan(notebook, profile, **given) if (result := runs.load(run))]
    told = {
        "notebook": notebook, "profile": profile, "page_seconds": round(seconds, 2), "runs": len(found),
        "run_seconds": round(sum(result.provenance["seconds"] for result in found), 2),
    }  # fmt: skip
    path = paths.build(profile) / "timings" / f"{notebook}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return (
        f"Measured for this page, at profile `{profile}`: {told['page_seconds']:.0f} s for the page and "
        f"{told['run_seconds']:.0f} s of computing in {told['runs']} stored runs."
    )


# -- staging ---------------------------------------------------------------------------------------------------------


def stage(content: Any, notebook: str, profile: str, time_line: str) -> None:
    """Turn an executed notebook into a page of the book, in place.

    Raises
    ------
    NotebookError
        A cell shows two figures: the book numbers one a cell.
    """
    import nbformat

    content.metadata.pop("papermill", None)
    staged = []
    for cell in content.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in tags(cell):
            cell.metadata["tags"] = [*tags(cell), "remove-cell"]
        staged.append(cell)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
        bundles = [output for output in cell.outputs if "medrepro" in output.get("metadata", {})]
        if len(bundles) > 1:
            raise NotebookError(
                f"{notebook}: cell {cell.get('id')!r} shows {len(bundles)} figures, one a cell can be numbered"
            )
        if bundles:
            staged.append(_make_figure(cell, bundles[0]))
    content.cells = staged
    note = nbformat.v4.new_markdown_cell(f"*{time_line}*", id="measured-time", metadata={"tags": ["measured"]})
    where = next((n for n, cell in enumerate(staged) if "parameters" in tags(cell)), len(staged))
    staged.insert(where, note)


def _is_progress(output: Any) -> bool:
    return output.output_type == "stream" and output.name == "stderr" and all(
        re.match(r"runs \[[#.]*\]", line) for line in output.text.splitlines()
    )  # fmt: skip


def _make_figure(cell: Any, bundle: Any) -> Any:
    """Move the parts of a figure bundle to where the book looks for them; returns the cell that holds the folded table."""
    import nbformat

    told = bundle["metadata"].pop("medrepro")
    bundle["data"].pop("text/html", None)
    cell.metadata["mystnb"] = {
        "image": {"alt": told["alt"]},
        "figure": {"name": told["name"], "caption": told["caption"]},
    }
    output = nbformat.v4.new_output("display_data", {"text/html": told["below"], "text/plain": "folded table"})
    return nbformat.v4.new_code_cell(
        f"# the numbers behind {told['name']}", id=f"below-{told['name']}"[:64], outputs=[output],
        metadata={"tags": ["remove-input"]},
    )  # fmt: skip
