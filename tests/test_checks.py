import pytest

from medrepro import checks, paths

TESTS = """
import pytest

def test_holds():
    assert True

def test_breaks():
    assert False

def test_left_out():
    pytest.skip("no reason")

@pytest.mark.parametrize("n", [1, 2, 3])
def test_some_break(n):
    assert n != 2

@pytest.mark.parametrize("n", [1, 2])
def test_all_hold(n):
    assert n

@pytest.fixture
def broken():
    raise RuntimeError("set-up")

def test_cannot_start(broken):
    pass

class TestGroup:
    def test_in_a_class(self):
        pass
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "test_fake.py").write_text(TESTS)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.setenv("MEDREPRO_BUILD", str(tmp_path / "build"))
    return tmp_path


def named(name):
    return f"tests/test_fake.py::{name}"


@pytest.mark.quick
def test_a_named_test_exists_when_its_file_defines_it(project):
    assert checks.exists(named("test_holds"))
    assert not checks.exists(named("test_gone"))
    assert not checks.exists("tests/test_gone.py::test_holds")
    assert not checks.exists("tests/test_fake.py")
    file = project / "tests" / "test_fake.py"
    file.write_text(TESTS.replace("test_holds", "test_still_holds"))
    assert not checks.exists(named("test_holds"))


@pytest.mark.quick
def test_there_are_no_outcomes_before_the_tests_ran(project):
    assert checks.outcomes("fake", "cpu") == {}
    checks.run("fake", "cpu", [])
    assert checks.outcomes("fake", "cpu") == {}
    assert checks.outcome_file("fake", "smoke") == project / "build" / "smoke" / "checks" / "fake.json"


def test_outcomes_are_those_of_pytest_and_all_cases_of_a_test_must_pass(project):
    expected = {
        "test_holds": "passed", "test_breaks": "failed", "test_left_out": "skipped", "test_some_break": "failed",
        "test_all_hold": "passed", "test_cannot_start": "failed",
    }  # fmt: skip
    checks.run("fake", "cpu", [named(name) for name in expected])
    assert checks.outcomes("fake", "cpu") == {named(name): state for name, state in expected.items()}


def test_a_named_test_whose_file_cannot_be_imported_has_not_passed(project):
    (project / "tests" / "test_fake.py").write_text("import a_module_that_is_nowhere\n")
    checks.run("fake", "cpu", [named("test_holds")])
    assert checks.outcomes("fake", "cpu") == {named("test_holds"): "missing"}
