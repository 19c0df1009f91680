"""``python -m benchmarks.run``: measure every row, write ``_build/bench.json``, fail where a row is below its target."""

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks import dran, multifractal
from benchmarks.measure import Result, Row, measure
from medrepro import paths

ROWS: list[Row] = [*multifractal.ROWS, *dran.ROWS]


def chosen(only: str) -> list[Row]:
    """Rows whose name contains `only`.

    Raises
    ------
    ValueError
        No row's name does; the message lists all.
    """
    rows = [row for row in ROWS if only in row.name]
    if not rows:
        raise ValueError(f"no row contains {only!r}; there are: {', '.join(row.name for row in ROWS)}")
    return rows


def keep(results: Sequence[Result]) -> None:
    """Write the results; rows that were not measured this time stay as they were."""
    path = paths.build() / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {entry["name"]: entry for entry in json.loads(path.read_text())} if path.is_file() else {}
    kept |= {result.name: result.as_json() for result in results}
    known = [kept[row.name] for row in ROWS if row.name in kept]
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def line(result: Result) -> str:
    """A row as it is printed."""
    times = "" if result.plain_s is None else f"{1e3 * result.plain_s:9.1f} ms over {1e3 * result.ours_s:8.1f} ms"
    target = "" if result.target is None else f"  target {result.target:g}"
    missed = "" if result.meets_target() else "  BELOW TARGET"
    return f"{result.name:56} {result.ratio:8.2f} {times:28}{target}{missed}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a row is below its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="measure the rows whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7, help="timed pairs a row, at least 7 for a result to quote")
    options = parser.parse_args(arguments)
    results = []
    for row in chosen(options.only):
        results.append(measure(row, threads=options.threads, pairs=options.pairs))
        print(line(results[-1]), flush=True)
        keep(results)
    missed = [result.name for result in results if not result.meets_target()]
    if missed:
        print(f"below target: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
