import json
import re
import shlex
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from medrepro import paths, recorded, runs
from medrepro.page import Page
from tests import fake_experiments
from tests.test_plotting import Reader

pytestmark = pytest.mark.quick

NOTEBOOK = "fake/01-first"


@pytest.fixture
def shown(monkeypatch):
    """Bundles that were displayed, with their metadata."""
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata=None: seen.append((data, metadata)))
    return seen


@pytest.fixture
def open_page(store, results, tmp_path, monkeypatch, shown):
    monkeypatch.setattr(runs, "experiments", lambda notebook: fake_experiments)
    monkeypatch.setattr("medrepro.page.sources", SimpleNamespace(source_digest=lambda module: "0" * 64))
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path / "build"))
    return lambda profile="smoke", **given: Page(NOTEBOOK, profile=profile, **given)


def test_a_page_tells_profile_parameters_and_device(open_page, capsys):
    page = open_page(seed=3, data="phantom")
    assert capsys.readouterr().out == "profile smoke, seed 3, data phantom, device cpu\n"
    assert page.settings == {"device": "cpu", "count": 2}


def test_an_unknown_profile_is_told_with_the_known_ones(open_page):
    with pytest.raises(ValueError, match="unknown profile 'huge'; choose one of smoke, cpu"):
        open_page("huge")


def test_an_unknown_data_set_is_told_with_the_known_ones(open_page):
    with pytest.raises(ValueError, match=r"'lungs'.*phantom"):
        open_page(data="lungs")


def test_an_alias_of_a_data_set_becomes_its_name(open_page, monkeypatch):
    monkeypatch.setattr("medrepro.data.registry.fingerprint", lambda name: "f" * 64)
    assert open_page(data="kvasir-seg").parameters["data"] == "kvasir"


def test_a_real_set_that_is_not_there_is_told_before_anything_runs(open_page, monkeypatch, store):
    monkeypatch.delenv("MEDREPRO_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="MEDREPRO_DATA"):
        open_page(data="busi")
    assert not store.exists()


def test_runs_are_those_of_the_plan_with_the_pages_parameters(open_page):
    assert [run.metrics["sum"] for run in open_page(seed=10).runs()] == [10, 11]
    assert [run.metrics["sum"] for run in open_page("cpu").runs()] == [0, 1, 2]
    assert [run.metrics["sum"] for run in open_page(seed=10).runs(b=1)] == [11]
    with pytest.raises(ValueError, match=r"fake/01-first plans no run with \{'b': 7\}"):
        open_page().runs(b=7)


def test_recorded_results_are_shown_as_far_as_they_exist(open_page):
    assert open_page().recorded() == []
    recorded.record(fake_experiments.recorded(NOTEBOOK)[1:3])
    assert [run.metrics["sum"] for run in open_page().recorded()] == [101, 102]
    assert [run.metrics["sum"] for run in open_page().recorded(b=2)] == [102]


def picture():
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    return figure


TABLE = pd.DataFrame({"model": ["a", "b"], "dice": [1 / 3, np.nan]})


def test_a_figure_comes_with_its_numbers_and_their_source_and_a_csv(open_page, shown):
    page = open_page(seed=1)
    digest = page.runs()[0].digest[:8]
    page.figure(picture(), name="fig-x", caption="Dice", alt="Dice is 0.33 for a.", table=TABLE, source="recorded")
    [(data, metadata)] = shown
    below = metadata["medrepro"]["below"]
    assert below in data["text/html"]
    assert "Numbers behind: Dice" in below
    assert "Source: recorded. Data: made here. Profile: smoke. Runs: " in below
    assert digest in below
    assert "<code>papermill notebooks/fake/01-first.ipynb out.ipynb -p profile smoke -p seed 1</code>" in below
    file = paths.build("smoke") / "tables" / "fake" / "01-first" / "fig-x.csv"
    assert file.read_bytes() == b"model,dice\na,0.333333\nb,\n"
    assert len(list(file.parent.iterdir())) == 1
    Reader(below)


def test_csv_files_are_identical_from_time_to_time(open_page):
    file = paths.build("smoke") / "tables" / "fake" / "01-first" / "t.csv"
    found = []
    for _ in range(2):
        open_page().table(TABLE, name="t", caption="Dice")
        found.append(file.read_bytes())
    assert found[0] == found[1]


def test_what_is_timed_goes_to_the_timings(open_page):
    open_page().table(TABLE, name="t", caption="Seconds", timed=True)
    assert (paths.build("smoke") / "timings" / "fake" / "01-first" / "t.csv").is_file()
    assert not (paths.build("smoke") / "tables").exists()


def test_a_long_table_is_cut_on_the_page_and_whole_in_the_csv(open_page, shown):
    long = pd.DataFrame({"n": range(100)})
    open_page().figure(picture(), name="fig-long", caption="c", alt="100 rows.", table=long)
    below = shown[0][1]["medrepro"]["below"]
    assert "The first 60 rows; 40 more are in the CSV file." in below
    assert below.count('<th scope="row">') == 60
    file = paths.build("smoke") / "tables" / "fake" / "01-first" / "fig-long.csv"
    assert len(file.read_text().splitlines()) == 101


def test_the_footer_tells_what_made_the_page(open_page, shown):
    page = open_page(seed=4)
    results = page.runs()
    page.footer()
    data, _ = shown[-1]
    facts = json.loads(data["text/plain"])
    assert set(facts) == {"command", "data", "runs", "source", "commit", "device", "seconds", "peak memory", "versions"}
    assert facts["runs"].startswith("2: ")
    assert all(result.digest[:8] in facts["runs"] for result in results)
    assert facts["device"] == results[0].provenance["device_name"]
    assert re.search(r"torch \d", facts["versions"])
    page = Reader(data["text/html"])
    assert [cell[2] for cell in page.cells if cell[:2] == ["th", "row"]] == list(facts)


def test_the_command_that_repeats_a_page_survives_a_shell(open_page, shown):
    page = open_page(title="two words")
    page.footer()
    command = json.loads(shown[-1][0]["text/plain"])["command"]
    assert shlex.split(command)[-3:] == ["-p", "title", "two words"]


def test_a_quiz_shows_questions_options_and_folded_answers(open_page, shown, tmp_path, monkeypatch):
    folder = tmp_path / "notebooks" / "fake"
    folder.mkdir(parents=True)
    (folder / "quiz.yaml").write_text(
        "01-first:\n  - {question: 'Is 1 < 2?', options: [never, 'yes', 3], answer: 1, why: Since 2 > 1.}\n"
    )
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    open_page().quiz()
    data, _ = shown[-1]
    assert data["text/plain"] == "Is 1 < 2?"
    assert "Is 1 &lt; 2?" in data["text/html"]
    assert data["text/html"].count("<li>") == 3
    assert "<summary>Answer to question 1</summary><p><strong>yes</strong> Since 2 &gt; 1.</p>" in data["text/html"]
