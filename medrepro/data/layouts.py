"""Which files make up a real set: pairs of image and masks, matched by stem, in the sets' original layouts."""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from medrepro.data.catalogue import DataSet, layout_root, locate, resolve

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """An image with its mask files: none where the class has no lesion, several where a lesion has its own file."""

    name: str
    label: str
    image: Path
    masks: tuple[Path, ...]
    group: str  # from the manifest, else the name

    @property
    def needs_mask(self) -> bool:
        """Whether a missing mask file is a fault: images of the class ``normal`` have nothing to outline."""
        return self.label != "normal"


def _images_in(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name as strings; an empty list if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def _by_stem(files: list[Path], pattern: str) -> dict[str, list[Path]]:
    """Mask files by the stem of their image; `pattern` is the ending that is stripped from the stem."""
    masks = defaultdict(list)
    for path in files:
        masks[re.sub(pattern, "", path.stem)].append(path)
    return masks


def _manifest_groups(folder: Path) -> dict[str, str]:
    """Column ``group`` of manifest.csv by the column ``file``; empty where there is no manifest."""
    path = folder / "manifest.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        if not {"file", "group"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} has the columns {rows.fieldnames}: expected file and group among them")
        return {row["file"]: row["group"] for row in rows if row["group"]}


def _split_busi(root: Path, folder: Path) -> list[tuple[str, Path, list[Path]]]:
    found = []
    for label in ("benign", "malignant", "normal"):
        files = _images_in(root / label)
        is_mask = re.compile(r"_mask(_\d+)?$").search
        masks = _by_stem([path for path in files if is_mask(path.stem)], r"_mask(_\d+)?$")
        images = [path for path in files if not is_mask(path.stem)]
        images += _images_in(folder / "images_only" / label)  # images for which no mask file could be had
        found += [(label, path, masks[path.stem]) for path in sorted(images, key=lambda path: path.name)]
    return found


def pairs(name: str, *, classes: tuple[str, ...] | None = None) -> list[Pair]:
    """Images of a real set with their mask files, classes in the order of the entry, file names sorted within.

    Parameters
    ----------
    name
        Name or alias of a real set.
    classes
        Labels to keep; default: those that the paper uses (BUSI without ``normal``).

    Raises
    ------
    ValueError
        An unknown class, or a layout that holds no images.
    FileNotFoundError
        The set was not found, see `locate`.
    """
    entry = resolve(name)
    wanted = check_classes(entry, classes)
    folder = locate(name)
    root = layout_root(entry, folder)
    if entry.name == "busi":
        found = _split_busi(root, folder)
    else:
        # choice: file names sorted; the paper's order for ISIC18 is that of an unsorted directory listing
        inputs, truth = (root / part for part in entry.parts)
        masks = _by_stem(_images_in(truth), r"_segmentation$")
        found = [(entry.classes[0], path, masks[path.stem]) for path in _images_in(inputs)]
    groups = _manifest_groups(folder)
    result = [
        Pair(
            name=path.stem,
            label=label,
            image=path,
            masks=tuple(sorted(files)),
            group=groups.get(path.relative_to(folder).as_posix(), path.stem),
        )
        for label, path, files in found
        if label in wanted
    ]
    if not result:
        raise ValueError(
            f"{root} holds no images of {', '.join(wanted)}: expected {', '.join(SUFFIXES[:3])} files there"
        )
    return result


def check_classes(entry: DataSet, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes to load, or a ValueError that lists those that exist."""
    wanted = entry.classes if classes is None else tuple(classes)
    if not wanted or not set(wanted) <= set(entry.all_classes):
        raise ValueError(f"classes is {classes} for {entry.name}: expected some of {', '.join(entry.all_classes)}")
    return wanted


def files(name: str) -> list[Path]:
    """All files that the loader of a real set may read: images and masks of every class, and the manifest."""
    entry = resolve(name)
    listed = [path for pair in pairs(name, classes=entry.all_classes) for path in (pair.image, *pair.masks)]
    manifest = locate(name) / "manifest.csv"
    return [*listed, manifest] if manifest.is_file() else listed
