"""The graph of the book: what is run again after which change, kills, failures. Builds at smoke in a copy of the project."""

import random
import time

import nbformat
import pytest

from tests.checkout import Checkout

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workflow")]
NOTEBOOK = "multifractal/01-local-holder-exponent"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    copy = Checkout(tmp_path_factory.mktemp("workflow"))
    copy.book()
    return copy


def edit(copy, change):
    path = copy.root / "notebooks" / f"{NOTEBOOK}.ipynb"
    content = nbformat.read(path, as_version=4)
    change(content)
    nbformat.write(content, path)


def changed(before, after):
    return {name for name in after if before.get(name) != after[name]}


def test_a_second_build_runs_nothing_again_and_takes_under_ten_seconds(built):
    before, start = built.modified(), time.monotonic()
    output = built.book()
    assert time.monotonic() - start < 10
    assert built.modified() == before
    assert output.strip().endswith("html/index.html")


def test_touched_files_and_a_lost_snakemake_folder_run_nothing_again(built):
    import shutil

    before = built.modified()
    for path in [*(built.root / "medrepro").rglob("*.py"), *(built.root / "notebooks").rglob("*.ipynb")]:
        path.touch()
    shutil.rmtree(built.build / ".snakemake")
    built.book()
    assert built.modified() == before


def test_a_text_edit_executes_that_notebook_alone_with_runs_from_the_store(built):
    before, tables = built.modified(), built.tables()
    edit(built, lambda content: content.cells[2].update(source=content.cells[2].source + "\n# a remark"))
    built.book()
    assert changed(before, built.modified()) == {f"_build/smoke/stage/notebooks/{NOTEBOOK}.ipynb"}
    assert built.tables() == tables


def test_an_edit_of_plotting_trains_nothing_and_an_edit_of_a_model_trains_what_uses_it(built):
    before = built.modified()
    plotting = built.root / "medrepro" / "plotting.py"
    plotting.write_text(plotting.read_text() + "\nUNUSED = 1\n")
    built.book()
    assert not any("runs/" in name for name in changed(before, built.modified()))
    before = built.modified()
    module = built.root / "medrepro" / "multifractal" / "exponent_statistics.py"
    module.write_text(module.read_text() + "\nUNUSED = 1\n")
    planned = built.run("runs", "plan", NOTEBOOK, "--profile", "smoke").stdout.splitlines()
    assert planned
    assert all(" missing " in line for line in planned if line.startswith(tuple("0123456789abcdef")))
    built.book()
    assert f"_build/smoke/stage/notebooks/{NOTEBOOK}.ipynb" in changed(before, built.modified())


def test_a_failing_notebook_names_its_cell_and_the_last_good_book_stays(built):
    page = built.build / "html" / "notebooks" / f"{NOTEBOOK}.html"
    good = page.read_bytes()

    def break_it(content):
        cell = next(cell for cell in content.cells if cell.id == "two-boxes-code")
        cell.source += "\nraise ValueError('broken on purpose')"

    source = (built.root / "notebooks" / f"{NOTEBOOK}.ipynb").read_bytes()
    edit(built, break_it)
    done = built.run("book", "--profile", "smoke")
    assert done.returncode != 0
    assert "two-boxes-code" in done.stdout
    assert "broken on purpose" in done.stdout
    assert page.read_bytes() == good
    assert (built.build / "logs" / f"{NOTEBOOK}.log").is_file()
    (built.root / "notebooks" / f"{NOTEBOOK}.ipynb").write_bytes(source)
    built.book()


def test_a_dead_link_stops_the_book_and_the_last_good_one_stays(built):
    page = built.root / "book" / "use.md"
    text, good = page.read_text(), (built.build / "html" / "index.html").stat().st_mtime_ns
    page.write_text(text + "\n\n[nowhere](no-such-page.md)\n")
    done = built.run("book", "--profile", "smoke")
    assert done.returncode != 0
    assert "no-such-page" in done.stdout
    assert (built.build / "html" / "index.html").stat().st_mtime_ns == good
    page.write_text(text)
    built.book()


def test_kill_9_in_each_stage_then_a_build_gives_the_tables_of_an_undisturbed_one(tmp_path):
    copy, rng = Checkout(tmp_path), random.Random(time.time_ns())
    store = copy.root / "_build" / "runs"
    wanted = rng.randint(1, 4)
    copy.kill_when(lambda: len(list(store.glob("[0-9a-f]*/run.json"))) >= wanted)
    copy.kill_when(
        lambda: (copy.build / "logs" / f"{NOTEBOOK}.log").is_file() and time.sleep(rng.uniform(0, 4)) is None
    )
    copy.kill_when(lambda: any(copy.build.glob("book-*/source")) and time.sleep(rng.uniform(0, 4)) is None)
    copy.book()
    assert not list(copy.build.glob("book-[0-9]*"))
    disturbed = copy.tables()
    undisturbed = Checkout(tmp_path / "undisturbed")
    undisturbed.book()
    assert disturbed == undisturbed.tables()
    assert disturbed
