"""Provenance of a run: versions, commit, device, peak memory."""

import contextlib
import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

from medrepro import paths

#: Packages whose versions decide a run's numbers and so its digest.
DECIDING = ("torch", "numpy", "monai", "scikit-image", "scikit-learn", "pywavelets")


@cache
def version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def deciding_versions() -> dict[str, str | None]:
    """Versions that enter every digest, without the build tag (``2.13.0+cpu`` and ``2.13.0`` are one version)."""
    return {name: (version(name) or "").split("+")[0] or None for name in DECIDING}


@cache
def device_name(device: str) -> str:
    """Name of the processor or of the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit of the project, with ``+changes`` where files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(paths.root()), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def all_versions() -> dict[str, str | None]:
    """Python and every package that a run may touch, for provenance."""
    names = (*DECIDING, "scipy", "pandas", "lightning", "nibabel", "nilearn", "pydicom", "medrepro")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def reset_peak_memory(device: str) -> None:
    """Start counting anew, where the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb(device: str) -> float | None:
    """Largest memory since the last reset in MiB: of the GPU, or of this process."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    return None
