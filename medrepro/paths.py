"""Where things are: the project, its build folder, the run store and the recorded results."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Folder of the project: the checkout that holds this package, else the working directory."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else Path.cwd()


def build(profile: str = "cpu") -> Path:
    """Build folder of a profile: ``_build`` for ``cpu``, ``_build/<profile>`` for any other (`MEDREPRO_BUILD` moves it)."""
    base = Path(os.environ.get("MEDREPRO_BUILD") or root() / "_build").absolute()
    return base if profile == "cpu" else base / profile


def run_store() -> Path:
    """Folder of the run store, shared by all profiles (`MEDREPRO_RUNS` moves it)."""
    return Path(os.environ.get("MEDREPRO_RUNS") or build() / "runs").absolute()


def results() -> Path:
    """Folder of the recorded results (`MEDREPRO_RESULTS` moves it, for tests)."""
    return Path(os.environ.get("MEDREPRO_RESULTS") or root() / "results").absolute()


def papers() -> list[str]:
    """Names of the papers: the slices that have settings for their experiments."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/experiments.py"))


def notebooks(paper: str | None = None) -> list[str]:
    """Names ``paper/NN-topic`` of all notebooks, or of one paper's, in reading order."""
    folder = root() / "notebooks"
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(f"{paper or '*'}/*.ipynb")
    )


def notebook_file(notebook: str) -> Path:
    """Source file of a notebook, e.g. of ``multifractal/01-local-holder-exponent``."""
    path = root() / "notebooks" / f"{notebook}.ipynb"
    if not path.is_file():
        raise FileNotFoundError(f"no notebook {notebook!r}; there are: {', '.join(notebooks()) or 'none'}")
    return path
