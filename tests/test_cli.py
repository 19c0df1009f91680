import json
import re
import subprocess
import sys
import time

import nbformat
import pytest
import typer.main

from medrepro import checks, cli, ledger, paths, published, recorded, runs
from medrepro.data import registry
from tests import fake_experiments

NOTEBOOK = "fake/01-first"


@pytest.fixture
def medrepro(monkeypatch, capsys, store, results):
    """The command in this process: exit status, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medrepro", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as done:
            status = done.code or 0
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A checkout with one notebook of a paper that does not exist."""
    folder = tmp_path / "notebooks" / "fake"
    folder.mkdir(parents=True)
    cell = nbformat.v4.new_code_cell('profile = "cpu"\nseed = 0', metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "01-first.ipynb")
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.setattr(runs, "experiments", lambda notebook: fake_experiments)


@pytest.fixture
def passed(monkeypatch):
    """All named tests have passed."""
    monkeypatch.setattr(
        checks,
        "outcomes",
        lambda paper, profile: {test: "passed" for row in ledger.read(paper).rows for test in row.tests},
    )


@pytest.mark.quick
def test_the_ledger_as_json_has_the_promised_keys(medrepro, passed, monkeypatch):
    monkeypatch.delenv("MEDREPRO_RESULTS")
    status, out, _ = medrepro("ledger", "--json")
    rows = json.loads(out)
    assert status == 0
    assert len(rows) == sum(len(ledger.read(paper).rows) for paper in ledger.papers())
    for row in rows:
        assert list(row) == ["paper", "item", "kind", "verdict", "data", "profile", "notebook", "note"]
        assert row["verdict"]
    status, out, _ = medrepro("ledger", "--paper", "multifractal")
    assert status == 0
    assert all(line.startswith("multifractal ") for line in out.splitlines())
    assert re.search(r"^multifractal +Equation 16 +reproduced$", out, re.M)


@pytest.mark.quick
def test_committed_verdicts_are_written_where_results_are(medrepro, passed, results, monkeypatch):
    papers = [paper for paper in ledger.papers() if all(not row.evidence for row in ledger.read(paper).rows)]
    if not papers:
        pytest.skip("every real ledger has rows that runs decide")
    status, out, _ = medrepro("ledger", "--commit", "--paper", papers[0])
    assert (status, out.strip()) == (0, str(results / papers[0] / "verdicts.json"))
    assert {row["paper"] for row in json.loads((results / papers[0] / "verdicts.json").read_text())} == {papers[0]}


@pytest.mark.quick
def test_published_numbers_as_json_and_as_text(medrepro):
    status, out, _ = medrepro("published", "multifractal", "table_1", "--json")
    told = json.loads(out)
    assert status == 0
    assert told == published.table("multifractal", "table_1").model_dump()
    assert len(told["values"]) == 21
    status, out, _ = medrepro("published", "multifractal", "table_1")
    assert status == 0
    assert len(out.splitlines()) == 22
    assert out.splitlines()[0].split() == ["model", "data", "value", "spread", "mark", "note"]


@pytest.mark.quick
def test_a_plan_lists_runs_and_whether_they_are_stored_and_computes_nothing(medrepro, notebook, store):
    runs.ensure(fake_experiments.runs(NOTEBOOK, "smoke", seed=3)[:1], quiet=True)
    status, out, _ = medrepro("runs", "plan", NOTEBOOK, "--profile", "smoke", "-p", "seed=3", "--json")
    told = json.loads(out)
    assert status == 0
    assert [row["stored"] for row in told] == [True, False]
    assert [row["run"] for row in told] == ["fake_runs:add(a=3, b=0)", "fake_runs:add(a=3, b=1)"]
    assert [row["digest"] for row in told] == [
        run.digest[:24] for run in fake_experiments.runs(NOTEBOOK, "smoke", seed=3)
    ]
    status, out, _ = medrepro("runs", "plan", NOTEBOOK)
    assert [line.split()[1] for line in out.splitlines()] == ["missing"] * 3
    assert len(list(store.iterdir())) == 1


@pytest.mark.quick
def test_every_real_plan_can_be_listed(medrepro):
    for name in paths.notebooks():
        status, out, err = medrepro("runs", "plan", name, "--profile", "smoke", "--json")
        assert (status, err) == (0, "")
        assert isinstance(json.loads(out), list)


@pytest.mark.quick
def test_stored_runs_are_listed_shown_and_cleaned(medrepro, notebook, store):
    kept = runs.ensure(fake_experiments.runs(NOTEBOOK, "cpu"), quiet=True)
    extra = runs.ensure([runs.Run("tests.fake_runs:add", {"a": 50, "b": 0.5})], quiet=True)[0]
    status, out, _ = medrepro("runs", "list", "--json")
    assert status == 0
    assert {row["digest"] for row in json.loads(out)} == {one.digest for one in [*kept, extra]}
    assert "sum=50.5" in medrepro("runs", "list")[1]
    status, out, _ = medrepro("runs", "show", extra.digest[:10])
    assert json.loads(out)["metrics"] == {"sum": 50.5}
    assert medrepro("runs", "clean")[1] == f"1 folders removed from {store}\n"
    assert len(runs.stored()) == 3
    assert medrepro("runs", "clean", "--all")[1].startswith("3 folders removed")


@pytest.mark.quick
def test_recording_takes_the_chosen_runs_and_tells_how_far_the_grid_is(medrepro, notebook):
    status, out, _ = medrepro("runs", "record", NOTEBOOK, "-p", "b=2")
    assert status == 0
    assert out.splitlines()[-1] == "1 of 1 runs of fake/01-first are recorded"
    status, out, _ = medrepro("runs", "record", NOTEBOOK)
    assert out.splitlines()[-1] == "4 of 4 runs of fake/01-first are recorded"
    assert len(out.splitlines()) == 4  # three new files
    assert [one.metrics["sum"] for one in recorded.found(fake_experiments.recorded(NOTEBOOK))] == [100, 101, 102, 103]


@pytest.mark.quick
def test_a_job_computes_the_runs_of_a_notebook_and_writes_their_digests(medrepro, notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path / "build"))
    manifest = paths.build("smoke") / "manifests" / f"{NOTEBOOK}.json"
    assert medrepro("job", "runs", NOTEBOOK, "smoke")[0] == 0
    assert json.loads(manifest.read_text()) == [run.digest for run in fake_experiments.runs(NOTEBOOK, "smoke")]


@pytest.mark.quick
def test_data_sets_are_listed_without_any_data_folder(medrepro, monkeypatch):
    monkeypatch.delenv("MEDREPRO_DATA", raising=False)
    status, out, err = medrepro("data", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (status, err) == (0, "")
    assert set(rows) == set(registry.names())
    assert {"busi", "kvasir", "isic18"} <= {name for name, row in rows.items() if row["place"] == "not found"}
    assert rows["phantom"]["place"] == "made from a seed"
    assert all(row["title"] for row in rows.values())
    assert len(medrepro("data", "list")[1].splitlines()) == len(rows)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("runs", "plan", "nonsense/01-x"), "no notebook 'nonsense/01-x'; there are: .*multifractal/01"),
        (("runs", "plan", "multifractal/01-local-holder-exponent", "--profile", "huge"), "unknown profile 'huge'; choose one of smoke"),
        (("runs", "plan", "multifractal/01-local-holder-exponent", "-p", "seed"), "a parameter is given as NAME=VALUE, got 'seed'"),
        (("runs", "plan", "multifractal/01-local-holder-exponent", "-p", "sead=1"), "has no parameter 'sead'; known: profile, seed, data"),
        (("runs", "record", "nonsense/01-x"), "no paper 'nonsense' in 'nonsense/01-x'; known: .*multifractal"),
        (("runs", "show", "0123"), "0 stored runs begin with '0123': 'medrepro runs list' shows all"),
        (("ledger", "--paper", "nonsense"), "no ledger for 'nonsense'; known papers: .*multifractal"),
        (("published", "nonsense", "table_1"), "no published numbers for 'nonsense'; known papers: .*multifractal"),
        (("published", "multifractal", "table_99"), "no published table 'table_99' of multifractal; known: .*table_1"),
        (("data", "fetch", "lungs"), "'lungs'.*phantom"),
        (("data", "check", "lungs"), "'lungs'.*phantom"),
        (("data", "check", "busi"), "busi.*MEDREPRO_DATA"),
        (("data", "fetch", "busi"), "busi.*MEDREPRO_DATA"),
        (("notebook", "nonsense/01-x", "--profile", "smoke"), "no notebook 'nonsense/01-x'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_is_unknown_is_one_line_on_stderr_and_status_1(medrepro, monkeypatch, arguments, told):
    monkeypatch.delenv("MEDREPRO_DATA", raising=False)
    status, out, err = medrepro(*arguments)
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    assert re.match(f"medrepro: .*{told}", err), err


@pytest.mark.quick
def test_a_failing_run_ends_with_status_1_and_its_name(medrepro, notebook, monkeypatch, tmp_path):
    failing = [runs.Run("tests.fake_runs:fails", {"reason": "loss is not finite"})]
    monkeypatch.setattr(fake_experiments, "runs", lambda *given, **more: failing)
    status, _, err = medrepro("job", "runs", NOTEBOOK, "smoke")
    assert status == 1
    assert "1 of 1 runs failed" in err
    assert "fake_runs:fails(reason=loss is not finite)" in err
    assert not (tmp_path / "m.json").exists()


@pytest.mark.quick
def test_parameters_are_numbers_where_they_look_like_numbers():
    given = ["seed=3", "rate=0.5", "data=busi", "flag=true", "text=a=b", 'list=["a"]', "none=null"]
    expected = {"seed": 3, "rate": 0.5, "data": "busi", "flag": True, "text": "a=b", "list": ["a"], "none": None}
    assert cli._given(given) == expected
    assert cli._given(None) == {}


@pytest.mark.quick
def test_every_command_says_what_it_does():
    def walk(command, path):
        assert command.help, f"{' '.join(path)} has no help"
        for name, child in getattr(command, "commands", {}).items():
            walk(child, [*path, name])

    walk(typer.main.get_command(cli.app), ["medrepro"])


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['medrepro', '--help']\nfrom medrepro import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print('heavy:', sorted({'torch', 'numpy', 'pandas', 'snakemake', 'nbformat'} & set(sys.modules)))"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert "heavy: []" in done.stdout
    for command in ("book", "notebook", "ledger", "published", "runs", "data"):
        assert re.search(rf"\b{command}\b", done.stdout)
    assert min(seconds) < 2  # half a second on an idle core
