"""Unpack archives from outside without trusting the names in them."""

import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath


def _checked(name: str, archive: Path) -> PurePosixPath:
    """Relative path of a member, or a ValueError if it would lie outside the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0] or "\0" in name:
        raise ValueError(f"{archive} holds {name!r}, which would lie outside the folder: nothing was unpacked")
    return path


def _refuse_kind(name: str, archive: Path) -> None:
    raise ValueError(f"{archive} holds {name!r}, a link or a device: only files and folders are accepted")


def _copy(source, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        while piece := source.read(1 << 20):
            stream.write(piece)


def safe_extract(archive: Path, folder: Path) -> list[Path]:
    """Unpack a zip or tar archive into a folder; members that would leave it are refused before anything is written.

    Parameters
    ----------
    archive
        A zip file, or a tar file with any compression that Python reads.
    folder
        Where to; it is made if need be.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        A member with an absolute path, with ``..``, a drive or a backslash way out; a link or a device; a file that is
        no archive, or a damaged one.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        if zipfile.is_zipfile(archive):
            return _extract_zip(archive, folder)
        if tarfile.is_tarfile(archive):
            return _extract_tar(archive, folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} is damaged ({error}): fetch it again") from error
    raise ValueError(f"{archive} is neither a zip nor a tar archive")


def _extract_zip(archive: Path, folder: Path) -> list[Path]:
    with zipfile.ZipFile(archive) as opened:
        members = []
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                _refuse_kind(info.filename, archive)
            target = folder / _checked(info.filename, archive)
            if not info.is_dir():
                members.append((info, target))
        for info, target in members:
            with opened.open(info) as source:
                _copy(source, target)
    return [target for _, target in members]


def _extract_tar(archive: Path, folder: Path) -> list[Path]:
    with tarfile.open(archive) as opened:
        members = []
        for info in opened.getmembers():
            if not (info.isreg() or info.isdir()):
                _refuse_kind(info.name, archive)
            target = folder / _checked(info.name, archive)
            if info.isreg():
                members.append((info, target))
        for info, target in members:
            with opened.extractfile(info) as source:
                _copy(source, target)
    return [target for _, target in members]
