"""What identifies the files of a data set, and the cache folder: a set that changed is never taken for the old one."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from medrepro.data.catalogue import locate, resolve
from medrepro.data.layouts import files


def cache_folder() -> Path:
    """Folder for what can be made again: `MEDREPRO_CACHE`, else the user's cache folder."""
    if given := os.environ.get("MEDREPRO_CACHE"):
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("medrepro", appauthor=False))


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name in its folder, then rename: readers see the old one or the new, whole.

    Parameters
    ----------
    path
        The file; its folder is made if need be.
    write
        Writes the content to an open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _known_hashes(path: Path) -> dict:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # missing or damaged: the hashes are computed again
    return known if isinstance(known, dict) else {}


def fingerprint(name: str) -> str | None:
    """SHA-256 over the files behind a data set; None where no files are behind it.

    Relative paths, sizes and contents count, in sorted order; where the folder lies and when files were touched do not.
    Phantoms are None: they follow from source and package versions, which are recorded elsewhere.

    Parameters
    ----------
    name
        Name or alias of a data set.

    Returns
    -------
    str or None
        64 hexadecimal digits.

    Raises
    ------
    ValueError
        An unknown name.
    FileNotFoundError
        A real set that was not found, see `locate`.

    Notes
    -----
    The hash of each file is kept in the cache folder under its path, size and modification time, so that a second call
    only asks the file system.
    """
    if resolve(name).is_phantom:
        return None
    folder = locate(name)
    store = cache_folder() / "hashes.json"
    known = _known_hashes(store)
    fresh = {}
    total = hashlib.sha256()
    for path in sorted(files(name), key=lambda path: path.relative_to(folder).as_posix()):
        stat = path.stat()
        key = f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            with path.open("rb") as stream:
                known[key] = fresh[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\0{stat.st_size}\0{known[key]}\n".encode())
    if fresh:
        merged = _known_hashes(store) | fresh  # another process may have written in the meantime
        try:
            write_atomically(store, lambda stream: stream.write(json.dumps(merged).encode()))
        except OSError:
            pass  # a cache that cannot be written costs time, not correctness
    return total.hexdigest()
