import ast
import itertools
import os
import subprocess
import sys
import textwrap
import time

import pytest

from medrepro import paths, runs, sources

MAIN = '''
"""A module."""
from . import helper
from .deep.inner import value


def run(x):
    """Add."""
    # a comment
    return {"metrics": {"y": helper.add(x, value)}}
'''
FILES = {
    "__init__.py": "",
    "main.py": MAIN,
    "helper.py": "def add(a, b):\n    from . import lazy\n    return a + b + lazy.ZERO\n",
    "lazy.py": "ZERO = 0\n",
    "deep/__init__.py": "",
    "deep/inner.py": "import os\nvalue = 1\n",
    "stranger.py": "NOBODY = 'imports me'\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A package on disk; returns its name and a function that rewrites one of its files."""
    name = f"pkg_{abs(hash((str(tmp_path), request.node.name)))}"
    monkeypatch.syspath_prepend(tmp_path)

    def write(file, text):
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        os.utime(path, ns=(0, next(clock)))  # the clock of a file system may tick slower than this test writes

    clock = itertools.count(1_700_000_000_000_000_000, 1_000_000)
    for file, text in FILES.items():
        write(file, text)
    return name, write


def test_libraries_are_found_inside_functions_too(package):
    name, write = package
    write("lazy.py", "def f():\n    from json import dumps\n    return dumps\n")
    assert {"json", "json.dumps", "os"} <= set(sources.libraries(f"{name}.main"))
    assert "ast" not in sources.libraries(f"{name}.main")


@pytest.mark.quick
def test_imports_are_followed_at_the_top_inside_functions_and_through_packages(package):
    name, _ = package
    expected = ["", ".deep", ".deep.inner", ".helper", ".lazy", ".main"]
    assert sources.followed(f"{name}.main") == [name + part for part in expected]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("main.py", MAIN.replace("helper.add(x, value)", "helper.add(value, x)")),
        ("helper.py", "def add(a, b):\n    from . import lazy\n    return a - b + lazy.ZERO\n"),
        ("lazy.py", "ZERO = 1\n"),
        ("lazy.py", "ZERO = 0.0\n"),
        ("deep/inner.py", "import os\nvalue = 2\n"),
        ("deep/__init__.py", "import sys\n"),
    ],
    ids=["function", "import", "import in a function", "type of a number", "sub-package", "package's own file"],
)
def test_an_edit_of_any_followed_module_changes_the_digest_within_the_same_process(package, file, text):
    name, write = package
    before = sources.source_digest(f"{name}.main")
    assert sources.source_digest(f"{name}.main") == before
    write(file, text)
    assert sources.source_digest(f"{name}.main") != before
    write(file, FILES[file])
    assert sources.source_digest(f"{name}.main") == before


@pytest.mark.quick
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("main.py", MAIN.replace("a comment", "another comment, longer than the first")),
        ("main.py", MAIN.replace('"""Add."""', '"""Add two numbers."""')),
        ("main.py", MAIN.replace('"""A module."""', "")),
        ("main.py", MAIN.replace("\n\n\ndef", "\n\n\n\n\ndef").replace('{"y"', "{  'y'")),
        ("stranger.py", "NOBODY = 'follows me'\n"),
    ],
    ids=["comment", "docstring of a function", "docstring of the module", "blanks and quotes", "module not imported"],
)
def test_comments_docstrings_blanks_and_other_modules_do_not_change_the_digest(package, file, text):
    name, write = package
    before = sources.source_digest(f"{name}.main")
    write(file, text)
    assert sources.source_digest(f"{name}.main") == before


@pytest.mark.quick
def test_a_string_that_is_no_docstring_changes_the_digest(package):
    name, write = package
    write("lazy.py", "ZERO = 'a'\n")
    before = sources.source_digest(f"{name}.lazy")
    write("lazy.py", "ZERO = 'b'\n")
    assert sources.source_digest(f"{name}.lazy") != before


@pytest.mark.quick
def test_a_new_module_that_an_import_now_finds_changes_the_digest(package):
    name, write = package
    write("lazy.py", "from . import later\nZERO = 0\n")
    before = sources.source_digest(f"{name}.main")
    write("later.py", "X = 1\n")
    assert f"{name}.later" in sources.followed(f"{name}.main")
    assert sources.source_digest(f"{name}.main") != before


@pytest.mark.quick
def test_circular_imports_are_followed_once(package):
    name, write = package
    write("lazy.py", "from . import main\nZERO = 0\n")
    assert sources.followed(f"{name}.main").count(f"{name}.main") == 1


@pytest.mark.quick
def test_the_order_of_starting_modules_does_not_matter(package):
    name, _ = package
    pair = [f"{name}.main", f"{name}.stranger"]
    assert sources.source_digest(pair) == sources.source_digest(pair[::-1]) != sources.source_digest(pair[0])


@pytest.mark.quick
def test_an_unknown_module_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"no module 'medrepro\.nonsense'.*module:function"):
        sources.followed("medrepro.nonsense")


@pytest.mark.quick
def test_a_file_that_is_no_python_is_named_with_its_line(package):
    name, write = package
    write("lazy.py", "ZERO = 0\nZERO = = 1\n")
    with pytest.raises(SyntaxError, match=r"lazy\.py: line 2: .*mend it"):
        sources.source_digest(f"{name}.main")


@pytest.mark.quick
def test_imports_of_a_notebook_are_its_medrepro_modules():
    code = (
        "import numpy\nfrom medrepro import page, runs\nfrom medrepro.page import Page\nimport medrepro.data.phantoms\n"
    )
    expected = ["medrepro", "medrepro.data.phantoms", "medrepro.page", "medrepro.runs"]
    assert sources.imports_of(code) == expected


def planned_functions():
    """Every run function that a plan names, of every notebook and profile, live and recorded, parents too."""
    found = set()
    for notebook in paths.notebooks():
        module = runs.experiments(notebook)
        for profile in module.PROFILES:
            planned = list(module.runs(notebook, profile)) + list(module.recorded(notebook))
            while planned:
                run = planned.pop()
                found.add(run.function)
                planned += run.parents()
    return sorted(found)


@pytest.mark.quick
@pytest.mark.parametrize("function", planned_functions())
def test_no_run_depends_on_settings_pictures_or_verdicts(function):
    module, name = function.split(":")
    followed = sources.followed(module)
    print(f"{function} follows {', '.join(followed)}")
    wrong = [one for one in followed if set(one.split(".")[1:]) & set(sources.NOT_FOR_RUNS)]
    assert not wrong, f"{function} follows {wrong}; all: {followed}"
    tree = ast.parse(sources.module_file(module).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.quick
def test_the_list_of_what_runs_must_not_reach_names_modules_that_exist():
    """A module that was renamed would slip through the list unseen."""
    missing = [
        name
        for name in sources.NOT_FOR_RUNS
        if name not in ("experiments", "provenance") and sources.module_file(f"medrepro.{name}") is None
    ]
    assert not missing
    assert paths.papers()  # experiments.py is there


def test_a_digest_of_a_large_slice_costs_milliseconds_once_read():
    module = planned_functions()[0].split(":")[0]
    sources.source_digest(module)
    start = time.perf_counter()
    for _ in range(10):
        sources.source_digest(module)
    assert (time.perf_counter() - start) / 10 < 0.03  # about 20 files: a stat and two look-ups each


@pytest.mark.quick
def test_two_processes_agree_on_a_digest():
    code = "from medrepro import sources; print(sources.source_digest('medrepro.runs'))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == sources.source_digest("medrepro.runs")
