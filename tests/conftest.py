"""For all tests: no window, one thread, and no writing into the checkout's build folder, run store or user's cache."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

SESSION = Path(tempfile.mkdtemp(prefix="medrepro-tests-"))
atexit.register(shutil.rmtree, SESSION, ignore_errors=True)

# before medrepro, torch or matplotlib are imported; child processes inherit all of it
os.environ.update({
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "MEDREPRO_BUILD": str(SESSION / "build"),
    "MEDREPRO_RUNS": str(SESSION / "runs"),
    "MEDREPRO_CACHE": str(SESSION / "cache"),
    "HYPOTHESIS_STORAGE_DIRECTORY": str(SESSION / "hypothesis"),
})  # fmt: skip
for name in ("MEDREPRO_WORKERS", "MEDREPRO_RESULTS", "MEDREPRO_DEBUG"):
    os.environ.pop(name, None)


def pytest_configure(config):
    """Print the reason of every skip, whatever options were given."""
    if not {"s", "a", "A"} & set(config.option.reportchars):
        config.option.reportchars += "s"


@pytest.fixture(autouse=True)
def _one_thread():
    """Torch keeps to one thread, also after a test that asked for more."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty run store of this test's own, one worker."""
    monkeypatch.setenv("MEDREPRO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MEDREPRO_WORKERS", "1")
    return tmp_path / "runs"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of recorded results of this test's own."""
    monkeypatch.setenv("MEDREPRO_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"
