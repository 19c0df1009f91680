"""Make the virtual environment `.venv` with the pinned versions; called by make with a Python of 3.11 to 3.13."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def main() -> None:
    """Do nothing where the environment fits the pins; else make it from nothing."""
    pins = b"".join((ROOT / name).read_bytes() for name in ("constraints.txt", "pyproject.toml"))
    ready = VENV / f".ready-{hashlib.sha256(pins).hexdigest()[:16]}"
    if ready.is_file():
        return
    print(
        f"Making {VENV} with Python {sys.version.split()[0]}: 2 GB of packages, some minutes the first time.",
        flush=True,
    )
    start = time.monotonic()
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    python = VENV / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "-q",
        "-c",
        "constraints.txt",
        "-e",
        ".[dev]",
    ]
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit("The packages could not be installed: see pip's message above; 'make' again once it is mended.")
    subprocess.run([str(python), "-m", "medrepro.compiled"], cwd=ROOT)  # if it fails, loops are compiled when needed
    ready.touch()
    print(f"The environment is ready after {time.monotonic() - start:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
