"""Every notebook runs at profile smoke from an empty store, marked cells show what they showed, and its form holds."""

import ast
import os
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from medrepro import paths, staging
from medrepro.strip import KEPT

NOTEBOOKS = paths.notebooks()


def papermill(command, environment):
    """Run papermill's own command; once more if it hangs, which its client now and then does when it stops a kernel."""
    for patience in (400, 400):
        try:
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail(f"papermill did not end: {' '.join(command)}")


def cells_of(notebook):
    return nbformat.read(paths.notebook_file(notebook), as_version=4).cells


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_runs_at_smoke_from_an_empty_store(notebook, tmp_path):
    copy = staging.prepare(notebook, tmp_path / "notebooks" / f"{notebook}.ipynb", profile="smoke")
    environment = {**os.environ, "MEDREPRO_RUNS": str(tmp_path / "runs"), "MEDREPRO_BUILD": str(tmp_path / "build")}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
    ]
    command += ["--nbval-lax", "--nbval-cell-timeout=300", str(copy)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert list((tmp_path / "runs").glob("[0-9a-f]*/run.json")) or not staging.plan(notebook, "smoke")


@pytest.mark.quick
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_only_marked_cells_are_committed_with_outputs(notebook):
    for cell in cells_of(notebook):
        if cell.cell_type != "code":
            continue
        if KEPT in staging.tags(cell):  # nbval compares nothing where the count is missing
            assert cell.outputs, f"marked cell {cell.id} has no output"
            assert cell.execution_count, f"marked cell {cell.id} has no execution count"
        else:
            assert not cell.outputs, f"cell {cell.id} carries outputs"
            assert cell.execution_count is None, f"cell {cell.id} carries an execution count"


@pytest.mark.quick
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_has_the_outline(notebook):
    cells = cells_of(notebook)
    assert cells[0].source.startswith("# ")
    objectives = nbformat.read(paths.notebook_file(notebook), as_version=4).metadata["medrepro"]["objectives"]
    for objective in objectives:
        assert f"- {objective}" in cells[1].source, f"objective not in the second cell: {objective}"
    assert len(objectives) == 3
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert "page.footer()" in code[-1].source
    assert not any(re.search(r"^\s*(!|%|pip )", cell.source, re.M) for cell in code)
    for cell in code:
        assert len(cell.source.splitlines()) <= 27, f"cell {cell.id} is too long"
        defined = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert not defined or {"exercise", "solution"} & set(staging.tags(cell)), (
            f"cell {cell.id} defines {defined[0].name}"
        )


@pytest.mark.quick
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_exercise_has_a_solution_in_step(notebook):
    def functions(tag):
        found = {}
        for cell in cells_of(notebook):
            if tag in staging.tags(cell):
                for node in ast.parse(cell.source).body:
                    if isinstance(node, ast.FunctionDef):
                        found[node.name] = (ast.unparse(node.args), ast.get_docstring(node), cell.source)
        return found

    stubs, solutions = functions("exercise"), functions("solution")
    assert len(stubs) == 3
    assert set(stubs) == set(solutions)
    for name, (arguments, docstring, _) in stubs.items():
        assert solutions[name][:2] == (arguments, docstring)
        assert f"exercises.check_{name}({name})" in solutions[name][2]
    text = "\n".join(cell.source for cell in cells_of(notebook) if cell.cell_type == "markdown")
    labels = re.findall(r":label: (ex-\S+)", text)
    assert len(labels) == len(set(labels)) == 3
    assert all(f"{{solution-start}} {label}" in text for label in labels)


@pytest.mark.quick
@pytest.mark.parametrize("paper", paths.papers())
def test_quiz_has_questions_for_every_notebook(paper):
    quiz = yaml.safe_load((paths.root() / "notebooks" / paper / "quiz.yaml").read_text(encoding="utf-8"))
    assert {f"{paper}/{name}" for name in quiz} == set(paths.notebooks(paper))
    for name, questions in quiz.items():
        assert len(questions) >= 3, name
        for entry in questions:
            assert set(entry) == {"question", "options", "answer", "why"}
            assert 0 <= entry["answer"] < len(entry["options"]) >= 2


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_takes_a_real_set(notebook, tmp_path):
    """Without the files it says what to set; with them, it runs on them."""
    if "data" not in staging.parameters(notebook):
        pytest.skip(f"{notebook} has no parameter data")
    given = {"MEDREPRO_RUNS": str(tmp_path / "runs"), "MEDREPRO_BUILD": str(tmp_path / "build")}
    command = [sys.executable, "-m", "papermill", str(paths.notebook_file(notebook)), str(tmp_path / "out.ipynb")]
    command += ["-p", "profile", "smoke", "-p", "data", "busi", "--no-progress-bar"]
    without = {**os.environ, **given, "MEDREPRO_DATA": ""}
    done = papermill(command, without)
    assert done.returncode != 0
    told = done.stderr
    assert "MEDREPRO_DATA" in told
    assert "Baheya" in told or "Al-Dhabyani" in told or "Data in Brief" in told


@pytest.mark.slow
@pytest.mark.parametrize("data", ["busi", "kvasir", "isic18"])
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_runs_on_real_images(notebook, data, tmp_path):
    from medrepro.data import registry

    try:
        registry.locate(data)
    except FileNotFoundError:
        pytest.skip(f"{data} is not under MEDREPRO_DATA")
    if "data" not in staging.parameters(notebook):
        pytest.skip(f"{notebook} has no parameter data")
    command = [sys.executable, "-m", "papermill", str(paths.notebook_file(notebook)), str(tmp_path / "out.ipynb")]
    command += ["-p", "profile", "smoke", "-p", "data", data, "--no-progress-bar"]
    given = {**os.environ, "MEDREPRO_RUNS": str(tmp_path / "runs"), "MEDREPRO_BUILD": str(tmp_path / "build")}
    done = papermill(command, given)
    assert done.returncode == 0, done.stderr[-3000:]
