"""A copy of the project in a folder of its own, to build, break and kill without touching this checkout."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from medrepro import paths


class Checkout:
    """Copy of the tracked and new files, with a build folder and a run store inside."""

    def __init__(self, folder: Path):
        self.root = folder / "a copy"  # a path with a space, on purpose
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=paths.root(), capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, listed):
            source = paths.root() / name
            if source.is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, self.root / name)
        self.build = self.root / "_build" / "smoke"

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which the copy's own package is imported and its own build folder is used."""
        dropped = ("MEDREPRO_BUILD", "MEDREPRO_RUNS", "MEDREPRO_RESULTS", "PYTEST_ADDOPTS")
        kept = {
            key: value for key, value in os.environ.items() if key not in dropped and not key.startswith("PYTEST_XDIST")
        }
        return {**kept, "PYTHONPATH": str(self.root)}

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start ``medrepro`` in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "medrepro.cli", *arguments], cwd=self.root, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run ``medrepro`` to its end."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=1200)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def book(self) -> str:
        """Build the book at smoke; fails with the output where the build fails."""
        done = self.run("book", "--profile", "smoke")
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def kill_when(self, ready, timeout: float = 300) -> None:
        """Start a build and kill all its processes with SIGKILL as soon as `ready()` holds."""
        process = self.start("book", "--profile", "smoke")
        end = time.monotonic() + timeout
        while not ready():
            assert process.poll() is None, (
                f"the build ended before it could be killed:\n{process.stdout.read()[-3000:]}"
            )
            assert time.monotonic() < end, "the moment to kill never came"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    def tables(self) -> dict[str, bytes]:
        """Content of every CSV table of the build."""
        return {
            path.relative_to(self.build).as_posix(): path.read_bytes()
            for path in sorted(self.build.glob("tables/**/*.csv"))
        }

    def modified(self) -> dict[str, int]:
        """Time of last change of every stored run and executed notebook."""
        files = [*(self.root / "_build" / "runs").glob("[0-9a-f]*/run.json"), *self.build.glob("stage/**/*.ipynb")]
        return {path.relative_to(self.root).as_posix(): path.stat().st_mtime_ns for path in files}
