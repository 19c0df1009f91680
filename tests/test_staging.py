import ast
import itertools
import json
import re
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from medrepro import paths, runs, staging
from tests import fake_experiments

NOTEBOOK = "fake/01-first"
PARAMETERS = 'profile = "cpu"  # how big\nseed = 0\ndata = "phantom"'
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


@pytest.fixture
def notebook(tmp_path, monkeypatch, store, results):
    """A checkout with one notebook; returns a function that writes its cells."""
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.setattr(runs, "experiments", lambda notebook: fake_experiments)
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path / "build"))
    folder = tmp_path / "notebooks" / "fake"
    folder.mkdir(parents=True)

    def write(*cells):
        nbformat.write(new_notebook(cells=list(cells), metadata=KERNEL), folder / "01-first.ipynb")

    write(parameters(), code("print(profile, seed)"))
    return write


def code(source, id="work", **more):
    return new_code_cell(source, id=id, **more)


def parameters(source=PARAMETERS, id="parameters"):
    return code(source, id, metadata={"tags": ["parameters"]})


def figure(name="fig-x"):
    told = {"name": name, "caption": "Dice of two", "alt": "Dice is 0.5.", "below": "<details>the table</details>"}
    data = {"text/html": "<figure>all</figure>", "image/png": "cG5n", "text/plain": "Dice is 0.5."}
    return new_output("display_data", data, metadata={"medrepro": told})


def stage(*cells):
    content = new_notebook(cells=list(cells))
    staging.stage(content, NOTEBOOK, "smoke", "It took 3 s.")
    nbformat.validate(content)
    return content


# -- parameters and plans --------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_parameters_are_the_literals_of_their_cell(notebook):
    notebook(code("seed = 9"), parameters("# comment\na = 1\nb = -0.5\nc = ['x', None, True]\nd = {'k': (1, 2)}"))
    assert staging.parameters(NOTEBOOK) == {"a": 1, "b": -0.5, "c": ["x", None, True], "d": {"k": (1, 2)}}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ([code("a = 1")], "fake/01-first: expected one cell tagged 'parameters', found 0"),
        ([parameters(), parameters(id="more")], "fake/01-first: expected one cell tagged 'parameters', found 2"),
        (
            [parameters("a = 1\nprint(a)")],
            "fake/01-first: the parameters cell holds plain assignments only, line 2 is none",
        ),
        ([parameters("import os")], "fake/01-first: .*plain assignments only, line 1 is none"),
        ([parameters("a, b = 1, 2")], "fake/01-first: .*plain assignments only, line 1 is none"),
        ([parameters("a = b = 1")], "fake/01-first: .*plain assignments only, line 1 is none"),
        ([parameters("a: int = 1")], "fake/01-first: .*plain assignments only, line 1 is none"),
        ([parameters("a = 1\nb = [n for n in range(3)]")], "fake/01-first: .*plain .*line 2 is none"),
        ([parameters("a = 2 * 3")], "fake/01-first: .*plain .*line 1 is none"),
        ([parameters("a = = 3")], "fake/01-first: .*line 1"),
    ],
)
def test_a_fault_in_the_parameters_is_told_with_the_notebook(notebook, cells, told):
    notebook(*cells)
    with pytest.raises(ValueError, match=told):
        staging.parameters(NOTEBOOK)


@pytest.mark.quick
def test_a_plan_uses_the_default_parameters_and_those_that_were_changed(notebook):
    notebook(parameters(PARAMETERS.replace("seed = 0", "seed = 5")))
    assert [dict(run.settings) for run in staging.plan(NOTEBOOK, "smoke")] == [{"a": 5, "b": 0}, {"a": 5, "b": 1}]
    assert [run.settings["a"] for run in staging.plan(NOTEBOOK, "cpu", seed=7)] == [7, 7, 7]


@pytest.mark.quick
def test_an_unknown_parameter_is_told_with_the_known_ones(notebook):
    with pytest.raises(ValueError, match=r"fake/01-first has no parameter 'sead'; known: profile, seed, data"):
        staging.plan(NOTEBOOK, "smoke", sead=1)


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(notebook, tmp_path, monkeypatch):
    """Key of the notebook; its paper's own files lie in a folder of this test."""
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "package")
    (tmp_path / "package" / "fake").mkdir(parents=True)
    digests = {"source": "a"}
    real = staging.sources.source_digest

    def source_digest(modules):
        return digests["source"] if isinstance(modules, list) else real(modules)

    monkeypatch.setattr(staging.sources, "source_digest", source_digest)

    def compute(profile="smoke", source="a"):
        digests["source"] = source
        return staging.key(NOTEBOOK, profile)

    return compute


@pytest.mark.quick
def test_the_key_changes_with_all_that_decides_a_page(key, notebook, tmp_path, results):
    def edit_cell():
        notebook(parameters(), code("print(seed)"))

    def edit_text():
        notebook(parameters(), code("print(seed)"), new_markdown_cell("text", id="text"))

    def tag_cell():
        notebook(parameters(), code("print(seed)", metadata={"tags": ["hide-input"]}))

    def change_default():
        notebook(parameters(PARAMETERS.replace("seed = 0", "seed = 1")))

    def publish():
        (tmp_path / "package" / "fake" / "published.yaml").write_text("paper: fake")

    def ask():
        (tmp_path / "notebooks" / "fake" / "quiz.yaml").write_text("01-first: []")

    def record():
        (results / "fake").mkdir(parents=True)
        (results / "fake" / "add-0123.json").write_text("{}")

    seen = [key(), key("cpu"), key(source="b")]
    for change in (edit_cell, edit_text, tag_cell, change_default, publish, ask, record):
        change()
        seen.append(key())
    for (first, one), (second, other) in itertools.combinations(enumerate(seen), 2):
        assert one != other, f"states {first} and {second} have one key"


@pytest.mark.quick
def test_the_key_does_not_change_with_outputs_counts_and_verdicts(key, notebook, results):
    before = key()
    notebook(parameters(), code("print(profile, seed)", execution_count=7, outputs=[figure()]))
    (results / "fake").mkdir(parents=True)
    (results / "fake" / "verdicts.json").write_text("[]")
    assert key() == before


# -- staging ---------------------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_a_figure_bundle_becomes_a_numbered_figure_with_alt_text_and_a_folded_table_below():
    content = stage(parameters(), code("page.figure()", outputs=[new_output("stream", text="told"), figure()]))
    shown, below = content.cells[2:]
    assert shown.metadata["mystnb"] == {
        "image": {"alt": "Dice is 0.5."},
        "figure": {"name": "fig-x", "caption": "Dice of two"},
    }
    assert set(shown.outputs[1].data) == {"image/png", "text/plain"}
    assert "medrepro" not in shown.outputs[1].metadata
    assert [output.data["text/html"] for output in below.outputs] == ["<details>the table</details>"]
    assert below.metadata["tags"] == ["remove-input"]
    assert below.id == "below-fig-x"


@pytest.mark.quick
def test_two_figures_in_a_cell_are_refused_with_notebook_and_cell():
    with pytest.raises(staging.NotebookError, match="fake/01-first: cell 'work' shows 2 figures, one a cell"):
        stage(parameters(), code("both", outputs=[figure("fig-a"), figure("fig-b")]))


@pytest.mark.quick
def test_one_figure_each_in_two_cells_is_fine():
    content = stage(parameters(), code("a", "a", outputs=[figure("fig-a")]), code("b", "b", outputs=[figure("fig-b")]))
    ids = [cell.id for cell in content.cells]
    assert ids == ["measured-time", "parameters", "a", "below-fig-a", "b", "below-fig-b"]


@pytest.mark.quick
def test_injected_parameters_are_hidden_and_kept():
    injected = code("seed = 3", id="injected", metadata={"tags": ["injected-parameters"]})
    content = stage(parameters(), injected, code("print(seed)"))
    [found] = [cell for cell in content.cells if cell.id == "injected"]
    assert found.source == "seed = 3"
    assert found.metadata["tags"] == ["injected-parameters", "remove-cell"]


@pytest.mark.quick
def test_the_measured_time_stands_before_the_parameters():
    content = stage(new_markdown_cell("# Title", id="title"), parameters(), code("1"))
    assert [cell.id for cell in content.cells] == ["title", "measured-time", "parameters", "work"]
    assert content.cells[1].source == "*It took 3 s.*"


@pytest.mark.quick
def test_progress_goes_and_other_words_on_stderr_stay():
    def stderr(text):
        return new_output("stream", name="stderr", text=text)

    lines = (
        "runs [####......] 2/5  1 s, about 2 s left  add(a=1)\nruns [##########] 5/5  3 s, about 0 s left  add(a=2)\n"
    )
    mixed = lines + "UserWarning: look here\n"
    content = stage(parameters(), code("x", outputs=[stderr(lines), stderr(mixed), new_output("stream", text=lines)]))
    assert [output.text for output in content.cells[2].outputs] == [mixed, lines]


@pytest.mark.quick
def test_progress_as_the_store_prints_it_is_recognised(store, capsys):
    runs.ensure([runs.Run("tests.fake_runs:add", {"a": 1, "b": 2})])
    output = new_output("stream", name="stderr", text=capsys.readouterr().err)
    assert output.text
    assert stage(parameters(), code("x", outputs=[output])).cells[2].outputs == []


@pytest.mark.quick
def test_no_path_of_this_machine_is_left_in_metadata(notebook, tmp_path):
    copy = staging.prepare(NOTEBOOK, tmp_path / "out" / "copy.ipynb", seed=3)
    content = nbformat.read(copy, as_version=4)
    assert str(tmp_path) in json.dumps(content.metadata)  # papermill wrote it there
    for cell in content.cells:
        cell.metadata["papermill"] = {"input_path": str(tmp_path)}
        cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00"}
    staging.stage(content, NOTEBOOK, "smoke", "It took 3 s.")
    assert str(tmp_path) not in nbformat.writes(content)
    assert "papermill" not in json.dumps([content.metadata, [cell.metadata for cell in content.cells]])
    assert "iopub" not in nbformat.writes(content)


@pytest.mark.quick
def test_a_prepared_copy_carries_the_parameters_and_is_not_executed(notebook, tmp_path):
    content = nbformat.read(staging.prepare(NOTEBOOK, tmp_path / "new" / "copy.ipynb", seed=3), as_version=4)
    [injected] = [cell for cell in content.cells if "injected-parameters" in staging.tags(cell)]
    names = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(injected.source).body}
    assert names == {"seed": 3}
    assert all(not cell.outputs for cell in content.cells if cell.cell_type == "code")


@pytest.mark.quick
def test_the_failed_cell_is_named_by_id_and_first_line(tmp_path):
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    path = tmp_path / "executed.ipynb"
    nbformat.write(new_notebook(cells=[code("fine", "a"), code("\nraise it\nnow", "second", outputs=[error])]), path)
    assert staging.failed_cell(path) == "'second' (raise it)"


@pytest.mark.quick
def test_the_time_line_counts_stored_runs_and_is_kept_as_json(notebook):
    results = runs.ensure(staging.plan(NOTEBOOK, "smoke"), quiet=True)
    line = staging.measured(NOTEBOOK, "smoke", 12.3456, {})
    assert re.fullmatch(
        r"Measured for this page, at profile `smoke`: 12 s for the page and 0 s of computing in 2 stored runs\.", line
    )
    told = json.loads((paths.build("smoke") / "timings" / f"{NOTEBOOK}.json").read_text())
    assert (told["notebook"], told["profile"], told["page_seconds"], told["runs"]) == (NOTEBOOK, "smoke", 12.35, 2)
    assert told["run_seconds"] == pytest.approx(sum(one.provenance["seconds"] for one in results), abs=0.01)


# -- execution: a kernel of its own, two seconds each ----------------------------------------------------------------


def test_an_executed_notebook_is_staged_with_its_parameters_and_a_failing_one_keeps_the_last_copy(notebook):
    pytest.importorskip("ipykernel")
    notebook(parameters(), code("print(profile, seed)"))
    target = staging.execute(NOTEBOOK, "smoke", seed=4)
    assert target == paths.build("smoke") / "stage" / "notebooks" / "fake" / "01-first.ipynb"
    content = nbformat.read(target, as_version=4)
    assert content.cells[-1].outputs[0].text == "smoke 4\n"
    assert [cell.id for cell in content.cells][:2] == ["measured-time", "parameters"]
    assert str(paths.root()) not in nbformat.writes(content)
    assert len(runs.stored()) == 2  # its runs were computed
    before = target.read_bytes()

    notebook(parameters(), code("1", "fine"), code("raise ValueError('mask of another size')", "broken"))
    with pytest.raises(staging.NotebookError) as told:
        staging.execute(NOTEBOOK, "smoke")
    message = str(told.value)
    assert "fake/01-first: cell 'broken' (raise ValueError('mask of another size')) failed with ValueError" in message
    log = paths.build("smoke") / "logs" / "fake" / "01-first.log"
    assert str(log) in message
    assert "mask of another size" in log.read_text()
    assert target.read_bytes() == before


@pytest.mark.quick
def test_staging_needs_neither_torch_nor_matplotlib():
    import subprocess

    line = "import sys, medrepro.staging; print(sorted({'torch', 'matplotlib', 'papermill'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
