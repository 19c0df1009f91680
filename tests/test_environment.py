"""The pins: one list for pip, the same for conda, everything that is asked for, and nothing that must not be there."""

import importlib.metadata
import importlib.util
import re

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from medrepro import paths

pytestmark = pytest.mark.quick


def constraints():
    lines = (paths.root() / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if line}


def asked_for():
    """Requirements of pyproject.toml, those of `make test` too."""
    import tomllib

    project = tomllib.loads((paths.root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]


def test_torchvision_is_not_in_the_environment():
    """Beside this torch it makes lightning and torchmetrics fail on import; other packages may bring it."""
    assert importlib.util.find_spec("torchvision") is None
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torchvision")
    assert "torchvision" not in constraints()


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    pins = constraints()
    missing = [one.name for one in asked_for() if canonicalize_name(one.name) not in pins]
    assert not missing
    wrong = [
        f"{one} but {pins[canonicalize_name(one.name)]}"
        for one in asked_for()
        if not one.specifier.contains(pins[canonicalize_name(one.name)])
    ]
    assert not wrong


def test_every_pin_is_one_exact_version():
    text = (paths.root() / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]
    assert len(lines) == len(constraints()), "a package is pinned twice"


def test_what_is_installed_is_what_is_pinned():
    wrong = []
    for name, version in constraints().items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        if Version(found).public != Version(version).public:
            wrong.append(f"{name} {found}, pinned {version}")
    assert not wrong


def test_conda_users_get_the_same_versions_of_the_same_packages():
    file = paths.root() / "environment.yml"
    if not file.is_file():
        pytest.skip("environment.yml is not written yet")
    [pip] = [
        entry["pip"]
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["dependencies"]
        if isinstance(entry, dict)
    ]
    listed = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in pip if not line.startswith("-")}
    pins = constraints()
    assert listed == {name: pins[name] for name in listed}
    assert set(listed) == {canonicalize_name(one.name) for one in asked_for()}
    assert [line for line in pip if line.startswith("-")] == ["--editable ."]
