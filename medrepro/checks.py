"""Named tests that decide ledger rows: which there are, running them, and their outcomes in a build."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

from medrepro import paths


@lru_cache(maxsize=128)
def _functions(path: Path, mtime_ns: int) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def exists(test: str) -> bool:
    """Whether ``tests/<file>::<name>`` is there."""
    file, _, name = test.partition("::")
    path = paths.root() / file
    return path.is_file() and name in _functions(path, path.stat().st_mtime_ns)


def outcome_file(paper: str, profile: str) -> Path:
    """Where a build keeps the outcomes of a paper's named tests."""
    return paths.build(profile) / "checks" / f"{paper}.json"


def outcomes(paper: str, profile: str) -> dict[str, str]:
    """Outcome of each named test in this build (``passed``, ``failed``, ``skipped``); empty before they ran."""
    path = outcome_file(paper, profile)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def run(paper: str, profile: str, tests: Sequence[str]) -> Path:
    """Run the named tests of a paper's ledger in a process of their own and keep their outcomes."""
    path = outcome_file(paper, profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, str] = {}
    if tests:
        report = path.with_suffix(".xml")
        report.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            *sorted(set(tests)),
        ]
        done = subprocess.run(
            command, cwd=paths.root(), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        if not report.is_file():
            raise RuntimeError(
                f"the tests that decide the ledger of {paper} could not be run:\n{done.stdout}{done.stderr}"
            )
        result = {test: "missing" for test in tests}
        for case in ElementTree.parse(report).iter("testcase"):
            base = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '').split('[')[0]}"
            state = "passed"
            if case.find("failure") is not None or case.find("error") is not None:
                state = "failed"
            elif case.find("skipped") is not None:
                state = "skipped"
            if base in result:  # a parameterised test has passed when all its cases have
                result[base] = state if result[base] in ("missing", "passed") else result[base]
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path
