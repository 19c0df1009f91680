"""The front door to data sets: what there is, where it lies, how to fetch it, what identifies it, whether it is whole.

Loaders import the parts (`catalogue`, `layouts`, `fingerprints`) and not this file, so that a change to fetching or
checking does not count as a change of what a run depends on.
"""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medrepro.data import fingerprints
from medrepro.data.archives import safe_extract
from medrepro.data.catalogue import (
    ENTRIES,
    DataSet,
    data_folders,
    how_to_get,
    layout_root,
    locate,
    names,
    resolve,
)
from medrepro.data.fingerprints import cache_folder
from medrepro.data.layouts import Pair, pairs

__all__ = [
    "ENTRIES",
    "DataSet",
    "Finding",
    "cache_folder",
    "check",
    "data_folders",
    "fetch",
    "fingerprint",
    "how_to_get",
    "locate",
    "names",
    "resolve",
]


def fingerprint(name: str) -> str | None:
    """SHA-256 over the files behind a data set; None for phantoms, packaged images and packaged volumes.

    Raises
    ------
    ValueError
        A name that is neither that of a data set nor of a packaged image or volume.
    FileNotFoundError
        A real set that was not found, see `locate`.
    """
    from medrepro.data import packaged

    return None if name in packaged.ENTRIES else fingerprints.fingerprint(name)


def fetch(name: str) -> Path:
    """Folder of a real data set; it is downloaded first if need be, and only if its SHA-256 is known.

    Parameters
    ----------
    name
        Name or alias. A set that is there already is not fetched again. A new one is put into the first folder of
        `MEDREPRO_DATA`, under its name.

    Returns
    -------
    Path
        As `locate` gives it.

    Raises
    ------
    ValueError
        A phantom; a download whose SHA-256 is another than expected, or whose archive is damaged or malicious. Nothing
        is left behind.
    FileNotFoundError
        The SHA-256 or the address is not known: the message says where to get the files and where to put them.
    """
    entry = resolve(name)
    try:
        return locate(name)
    except FileNotFoundError as missing:
        if entry.url is None or entry.sha256 is None:
            raise FileNotFoundError(
                f"{entry.name} is not fetched by this project: no address with a known SHA-256 is on record. {missing}"
            ) from None
        if not data_folders():
            raise
    return _download(entry, data_folders()[0])


def _download(entry: DataSet, folder: Path) -> Path:
    """Fetch an archive, check it, unpack it beside its place, and rename it into place."""
    import pooch

    target = folder / entry.name
    if target.exists():
        raise FileExistsError(f"{target} exists, but lacks {entry.layout}: move it away, then fetch again")
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=folder))
    try:
        try:
            # choice: no retry and no redirect rules of our own; pooch streams to a file and removes it on a mismatch
            archive = pooch.retrieve(
                entry.url, known_hash=f"sha256:{entry.sha256}", path=work, fname="archive", progressbar=False
            )
        except ValueError as error:
            raise ValueError(
                f"the file at {entry.url} does not have the SHA-256 {entry.sha256} ({error}): it was removed. "
                "It is damaged or was replaced; get the set by hand, or report it"
            ) from error
        safe_extract(Path(archive), work / "unpacked")
        if layout_root(entry, work / "unpacked") is None:
            raise ValueError(f"the archive from {entry.url} lacks {entry.layout}: nothing was kept")
        (work / "unpacked").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


@dataclass(frozen=True)
class Finding:
    """One line of a check."""

    kind: str  # count, missing mask, size mismatch, unreadable, empty mask, near duplicates
    message: str
    problem: bool = False  # whether the loader stops at it

    def __str__(self) -> str:
        return f"{'PROBLEM' if self.problem else 'note'}: {self.kind}: {self.message}"


def _look_at(pair: Pair) -> tuple[list[Finding], object]:
    """Findings on one image, and the image (H, W, 3), or None where it cannot be read."""
    from medrepro.data.segmentation import read_image, read_mask

    found = []
    if pair.needs_mask and not pair.masks:
        found.append(Finding("missing mask", f"{pair.image} has no mask file", problem=True))
    try:
        image = read_image(pair.image)
    except ValueError as error:
        return [*found, Finding("unreadable", str(error), problem=True)], None
    try:
        mask = read_mask(pair.masks, pair.image, image.shape[:2])
    except ValueError as error:
        kind = "size mismatch" if str(error).startswith("mask ") else "unreadable"
        return [*found, Finding(kind, str(error), problem=True)], image
    if pair.masks and pair.needs_mask and not (mask > 127).any():
        found.append(Finding("empty mask", f"{pair.masks[0]} outlines nothing, though the label is {pair.label}"))
    return found, image


def check(name: str) -> list[Finding]:
    """What a look at every file of a real set finds.

    Parameters
    ----------
    name
        Name or alias. Phantoms have no files and nothing to find.

    Returns
    -------
    list of Finding
        Counts first, then one finding a faulty file, then the number of near duplicates. Those with ``problem`` stop
        the loader.

    Raises
    ------
    ValueError
        An unknown name.
    FileNotFoundError
        The set was not found, see `locate`.
    """
    import numpy as np

    from medrepro.data.splits import near_duplicate_groups, thumbnails

    entry = resolve(name)
    if entry.is_phantom:
        return []
    listed = pairs(name, classes=entry.all_classes)
    labels = ", ".join(f"{number} {label}" for label, number in Counter(pair.label for pair in listed).items())
    full = f"; the published set has {entry.expected_images}" if entry.expected_images != len(listed) else ""
    num_masks = sum(len(pair.masks) for pair in listed)
    findings = [Finding("count", f"{len(listed)} images ({labels}), {num_masks} mask files{full}")]
    small = []
    for pair in listed:
        found, image = _look_at(pair)
        findings += found
        if image is not None:
            small.append(thumbnails(image.transpose(2, 0, 1)[None].astype(np.float32))[0])
    if small:
        sizes = np.bincount(near_duplicate_groups(np.stack(small)))
        clusters = sizes[sizes > 1]
        if len(clusters):
            findings.append(
                Finding(
                    "near duplicates",
                    f"{clusters.sum()} images in {len(clusters)} clusters look alike: split with rule 'grouped'",
                )
            )
    return findings
