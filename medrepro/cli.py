"""The command ``medrepro``: parse, call, print."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medrepro import paths

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
runs_app = typer.Typer(no_args_is_help=True, help="Runs behind the notebooks: list, inspect, clean, record.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: list, fetch, check.")
job_app = typer.Typer(no_args_is_help=True, hidden=True, help="Jobs of the workflow.")
app.add_typer(runs_app, name="runs")
app.add_typer(data_app, name="data")
app.add_typer(job_app, name="job")

Profile = Annotated[str, typer.Option(help="smoke, cpu, gpu or paper")]
Parameters = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="a notebook parameter")
]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def _given(parameters: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as notebook parameters, numbers as numbers."""
    found = {}
    for text in parameters or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"a parameter is given as NAME=VALUE, got {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _show(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


@app.command()
def book(profile: Profile = "cpu", cores: Annotated[int, typer.Option(help="0: all")] = 0, check: bool = False) -> None:
    """Run what is missing, execute what changed, build the book, print where it is (--check: say what would be done)."""
    from filelock import FileLock, Timeout

    from medrepro import bookbuild, warm

    build = paths.build(profile)
    build.mkdir(parents=True, exist_ok=True)
    options = ["--snakefile", str(paths.root() / "workflow" / "Snakefile"), "--directory", str(build)]
    options += ["--cores", str(cores or "all"), "--rerun-triggers", "mtime", "--nolock", "--rerun-incomplete"]
    options += ["--keep-going", "--config", f"profile={profile}", "--quiet", "progress", "rules", "host"]
    options += ["--dry-run"] if check else []
    os.environ["XDG_CACHE_HOME"] = str(paths.build() / ".cache")
    os.environ["MEDREPRO_BUILD"] = str(paths.build())
    if cores:
        os.environ.setdefault("MEDREPRO_WORKERS", str(cores))
    lock = FileLock(build / ".lock")  # an OS lock: it ends with the process, however that ends
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another build works in {build}: waiting for it", file=sys.stderr)
        lock.acquire()
    # where there has been no build yet there is work: its imports go beside the hashing of sources
    host = warm.Host(profile) if warm.possible() and not check and not (build / "book.stamp").is_file() else None
    bookbuild.write_keys(profile)
    if not check and (bookbuild.pages_without_runs(profile) or bookbuild.pages_to_execute(profile)):
        host = host or (warm.Host(profile) if warm.possible() else None)
        if host:
            host.work()
    elif host:
        host = host.dismiss()
    from snakemake.cli import main as snakemake  # in this process, so that a kill leaves no workflow behind

    if host:
        host.wait()
    try:
        snakemake(options)
    except SystemExit as done:
        if done.code:
            raise
    if not check:
        print(build / "html" / "index.html")


@app.command()
def notebook(name: str, profile: Profile = "cpu", parameter: Parameters = None) -> None:
    """Execute one notebook (paper/NN-topic) with other parameters into the build's stage and print where the copy is."""
    from medrepro import staging

    print(staging.execute(name.removeprefix("notebooks/").removesuffix(".ipynb"), profile, **_given(parameter)))


@app.command()
def ledger(
    paper: str | None = None, profile: Profile = "cpu", as_json: Json = False,
    commit: Annotated[bool, typer.Option(help="write the verdicts into results/, to be committed")] = False,
) -> None:  # fmt: skip
    """Print the verdict on every table, figure, equation, part and claim."""
    from medrepro import ledger as module

    papers = [paper] if paper else module.papers()
    if commit:
        for name in papers:
            print(module.commit(name))
        return
    rows = [row for name in papers for row in module.decide(name, profile)]
    if as_json:
        _show([row.public() for row in rows])
    else:
        for row in rows:
            print(f"{row.paper:14} {row.item:14} {row.verdict}")


@app.command()
def status(profile: Profile = "cpu") -> None:
    """Print the table of the README: what is reproduced so far."""
    from medrepro import bookbuild

    print(bookbuild.status_table(profile), end="")


@app.command()
def published(paper: str, table: str, as_json: Json = False) -> None:
    """Print numbers that a paper reports."""
    from medrepro import published as module

    if as_json:
        _show(module.table(paper, table).model_dump())
    else:
        print(module.frame(paper, table).to_string(index=False))


@runs_app.command("plan")
def runs_plan(notebook: str, profile: Profile = "cpu", parameter: Parameters = None, as_json: Json = False) -> None:
    """List the runs behind a notebook and whether they are stored, without computing anything."""
    from medrepro import runs, staging

    planned = staging.plan(notebook, profile, **_given(parameter))
    rows = [{"digest": run.digest[:24], "stored": runs.load(run) is not None, "run": run.label()} for run in planned]
    if as_json:
        _show(rows)
    else:
        for row in rows:
            print(row["digest"][:12], "stored " if row["stored"] else "missing", row["run"])


@runs_app.command("list")
def runs_list(as_json: Json = False) -> None:
    """List all stored runs, newest first."""
    from medrepro import runs

    found = runs.stored()
    if as_json:
        _show([{"digest": one.digest, "function": one.function, "metrics": one.metrics} for one in found])
    else:
        for one in found:
            told = ", ".join(f"{key}={value:.4g}" for key, value in one.metrics.items() if isinstance(value, float))
            print(one.digest[:12], f"{one.provenance['seconds']:8.2f} s", one.function.split(".", 1)[-1], told[:90])


@runs_app.command("show")
def runs_show(digest: str) -> None:
    """Show one stored run (its digest may be shortened): settings, metrics, provenance."""
    found = [path for path in paths.run_store().glob(f"{digest[:24]}*") if (path / "run.json").is_file()]
    if len(found) != 1:
        raise ValueError(f"{len(found)} stored runs begin with {digest!r}: 'medrepro runs list' shows all")
    print((found[0] / "run.json").read_text(encoding="utf-8"))


@runs_app.command("clean")
def runs_clean(everything: Annotated[bool, typer.Option("--all", help="remove all runs")] = False) -> None:
    """Remove runs that no notebook of the book asks for at smoke or cpu, and remains of killed processes."""
    from medrepro import runs, staging

    keep = (
        []
        if everything
        else [run for p in ("smoke", "cpu") for name in paths.notebooks() for run in staging.plan(name, p)]
    )
    print(f"{len(runs.clean(keep))} folders removed from {paths.run_store()}")


@runs_app.command("record")
def runs_record(
    notebook: str, only: Parameters = None, keep: Annotated[list[str] | None, typer.Option()] = None
) -> None:
    """Compute and record a notebook's long runs that results/ lacks (-p NAME=VALUE: those with this setting alone)."""
    from medrepro import recorded, runs

    chosen = _given(only)
    planned = [
        run for run in runs.experiments(notebook).recorded(notebook)
        if all(run.settings.get(key) == value for key, value in chosen.items())
    ]  # fmt: skip
    for path in recorded.record(planned, keep=keep or []):
        print(path)
    print(f"{len(recorded.found(planned))} of {len(planned)} runs of {notebook} are recorded")


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the data sets and where they are."""
    from medrepro.data import registry

    rows = []
    for name in registry.names():
        try:
            place = "made from a seed" if registry.resolve(name).is_phantom else str(registry.locate(name))
        except FileNotFoundError:
            place = "not found"
        rows.append({"name": name, "title": registry.resolve(name).title, "place": place})
    if as_json:
        _show(rows)
    else:
        for row in rows:
            print(f"{row['name']:20} {row['place']:40} {row['title']}")


@data_app.command("fetch")
def data_fetch(name: str) -> None:
    """Download a data set where its checksum is known; else say where to get it and where to put it."""
    from medrepro.data import registry

    print(registry.fetch(name))


@data_app.command("check")
def data_check(name: str) -> None:
    """Look for missing, unreadable or mismatched files in a data set."""
    from medrepro.data import registry

    for finding in registry.check(name):
        print(finding)


@job_app.command("runs")
def job_runs(notebook: str, profile: str) -> None:
    """Compute the runs behind a notebook and list them in its manifest."""
    from medrepro import bookbuild, runs, staging

    bookbuild.list_runs(notebook, profile, runs.ensure(staging.plan(notebook, profile)))


@job_app.command("notebook")
def job_notebook(notebook: str, profile: str) -> None:
    """Execute one notebook into the stage."""
    from medrepro import staging

    staging.execute_and_tell(notebook, profile)


@job_app.command("checks")
def job_checks(paper: str, profile: str) -> None:
    """Run the tests that decide ledger rows."""
    from medrepro import bookbuild

    bookbuild.run_checks(paper, profile)


@job_app.command("book")
def job_book(profile: str, stamp: Path) -> None:
    """Build the HTML."""
    from medrepro import bookbuild

    bookbuild.build_book(profile)
    stamp.write_text("built\n", encoding="utf-8")


def main() -> None:
    """Run the command; an expected error is one message on stderr and exit status 1."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("MEDREPRO_DEBUG"):
            raise
        print(f"medrepro: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
