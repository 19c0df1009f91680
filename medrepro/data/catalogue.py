"""Which data sets there are, and where their files lie: names, aliases, terms, original layouts, `MEDREPRO_DATA`.

Terms and citations are as the publications give them; where mirrors disagree the entry says "unsure". No address and
no SHA-256 stands here that was not read in a named source or computed from the file.
"""

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path

# the first of each need not be said in a phantom's name; written here again so that this file imports no numpy
PHANTOM_LOOKS = ("ultrasound", "dermoscopy", "endoscopy")
PHANTOM_CUES = ("hurst", "mean", "contrast")


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is, under which terms, and how its files are laid out."""

    name: str
    title: str
    modality: str
    aliases: tuple[str, ...] = ()
    terms: str = "made by this project, free to use"
    citation: str = ""
    where: str = "nowhere: it is made from a seed"  # in words
    url: str | None = None  # address of one archive
    sha256: str | None = None  # of that archive
    roots: tuple[str, ...] = ()  # original top folders; "" where the parts lie at the top
    parts: tuple[str, ...] = ()  # folders that must be there, relative to the root
    classes: tuple[str, ...] = ()  # labels that are loaded unless the caller asks for others
    all_classes: tuple[str, ...] = ()  # labels that exist
    expected_images: int | None = None  # size of the full published set
    phantom: dict = field(default_factory=dict, hash=False)  # look and cue, where the set is made from a seed

    @property
    def is_phantom(self) -> bool:
        """Whether the images are made from a seed, so that no files are needed."""
        return bool(self.phantom)

    @property
    def layout(self) -> str:
        """The folders that are looked for, in words."""
        top = next((root for root in self.roots if root), "")
        return " and ".join(f"{top}/{part}" if top else part for part in self.parts)


REAL = (
    DataSet(
        name="isic18",
        aliases=("isic2018_task1", "isic2018", "isic-2018"),
        title="ISIC 2018 Task 1, skin lesions",
        modality="dermoscopy",
        terms="ISIC Archive: mostly CC0, some images CC BY-NC; the challenge data are cited as CC BY-NC 4.0 or CC0 "
        "(unsure which holds: check before you publish an image)",
        citation="N. Codella et al., Skin lesion analysis toward melanoma detection 2018, arXiv:1902.03368; earlier "
        "challenge: N. Codella et al., ISBI 2018, pages 168-172, arXiv:1710.05006",
        where="the ISIC Challenge of 2018, Task 1, training input and training ground truth",
        roots=("",),
        parts=("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
        classes=("lesion",),
        all_classes=("lesion",),
        expected_images=2594,
    ),
    DataSet(
        name="kvasir",
        aliases=("kvasir-seg", "kvasir_seg", "kvasirseg"),
        title="Kvasir-SEG, polyps",
        modality="endoscopy",
        terms="research and education with citation, other use needs a written permission; newer descriptions by the "
        "same group say CC BY 4.0 (unsure which holds: check before you publish an image)",
        citation="D. Jha, P. H. Smedsrud, M. A. Riegler, P. Halvorsen, T. de Lange, D. Johansen, H. D. Johansen, "
        "Kvasir-SEG: a segmented polyp dataset, MultiMedia Modeling 2020",
        where="the data page of the Kvasir-SEG authors (Simula)",
        roots=("Kvasir-SEG", ""),
        parts=("images", "masks"),
        classes=("polyp",),
        all_classes=("polyp",),
        expected_images=1000,
    ),
    DataSet(
        name="busi",
        aliases=("dataset_busi", "breast-ultrasound"),
        title="BUSI, breast ultrasound images",
        modality="ultrasound",
        terms="the article is CC BY 4.0 and its authors allow research use with citation; mirrors give different "
        "licences for the image files (unsure which holds: check before you publish an image)",
        citation="W. Al-Dhabyani, M. Gomaa, H. Khaled, A. Fahmy, Dataset of breast ultrasound images, Data in Brief "
        "28, 2020, 104863",
        where="the data statement of the article in Data in Brief (Cairo University)",
        roots=("Dataset_BUSI_with_GT", ""),
        parts=("benign", "malignant"),
        classes=("benign", "malignant"),
        all_classes=("benign", "malignant", "normal"),
        expected_images=780,
    ),
)


def _phantoms() -> tuple[DataSet, ...]:
    """The nine phantoms: ``phantom[-LOOK][-CUE]``, where ultrasound and hurst need not be said."""
    entries = []
    for look in PHANTOM_LOOKS:
        for cue in PHANTOM_CUES:
            full = f"phantom-{look}-{cue}"
            looks = {look, ""} if look == PHANTOM_LOOKS[0] else {look}
            cues = {cue, ""} if cue == PHANTOM_CUES[0] else {cue}
            names = {"-".join(["phantom", *filter(None, (a, b))]) for a in looks for b in cues} | {full}
            short = min(names, key=len)
            entries.append(
                DataSet(
                    name=short,
                    aliases=tuple(sorted(names - {short})),
                    title=f"procedural lesions, {look} look, told apart by {cue}",
                    modality=look,
                    phantom={"look": look, "cue": cue},
                    classes=("lesion",),
                    all_classes=("lesion",),
                )
            )
    return tuple(entries)


ENTRIES = {entry.name: entry for entry in (*_phantoms(), *REAL)}
_ALIASES = {alias: entry for entry in ENTRIES.values() for alias in (entry.name, *entry.aliases)}


def names(*, modality: str | None = None) -> list[str]:
    """Names of all data sets, phantoms first, or of one modality (``dermoscopy``, ``endoscopy``, ``ultrasound``)."""
    return [entry.name for entry in ENTRIES.values() if modality in (None, entry.modality)]


def resolve(name: str) -> DataSet:
    """Entry of a data set by its name or an alias, in any case.

    Raises
    ------
    ValueError
        No data set has this name; the message lists the known ones and the closest.

    Examples
    --------
    >>> resolve("Kvasir-SEG").name
    'kvasir'
    """
    if entry := _ALIASES.get(str(name).lower()):
        return entry
    close = difflib.get_close_matches(str(name).lower(), _ALIASES, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"no data set {name!r}; {hint}known: {', '.join(ENTRIES)}")


def data_folders() -> list[Path]:
    """Folders that `MEDREPRO_DATA` lists, separated as in PATH; an empty list if it is unset."""
    return [Path(part).expanduser() for part in os.environ.get("MEDREPRO_DATA", "").split(os.pathsep) if part.strip()]


def layout_root(entry: DataSet, folder: Path) -> Path | None:
    """Folder below (or equal to) `folder` that holds the parts of the original layout, or None."""
    for root in entry.roots:
        if all((folder / root / part).is_dir() for part in entry.parts):
            return folder / root
    return None


def how_to_get(entry: DataSet) -> str:
    """Where the files are published, under which terms, and where to put them, in words."""
    return (
        f"Get {entry.title} from {entry.where}; unpack it so that {entry.layout} lie in a folder named {entry.name} "
        f"(or {', '.join(entry.aliases)}) inside one of the folders of MEDREPRO_DATA. Terms: {entry.terms}. "
        f"Cite: {entry.citation}."
    )


def _candidates(entry: DataSet, folder: Path) -> list[Path]:
    """Folders that may hold the set: those named after it, in any case, then the folder itself if it says enough."""
    wanted = (entry.name, *entry.aliases)
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    found = [inside[alias] for alias in wanted if alias in inside]
    # at the top, "images" and "masks" could be anybody's: only parts or a root with a name of their own count
    distinct = entry.roots == ("",) or folder.name.lower() in wanted
    if distinct or any(root and (folder / root).is_dir() for root in entry.roots):
        found.append(folder)
    return found


def locate(name: str) -> Path:
    """Folder of a real data set: it holds the original layout and, where there is one, ``manifest.csv``.

    Parameters
    ----------
    name
        Name or alias. Each folder of `MEDREPRO_DATA` is searched in order for a folder with this name or an alias, then
        for the original layout itself.

    Raises
    ------
    ValueError
        An unknown name, or a phantom, which has no files.
    FileNotFoundError
        No folder holds it; the message says what to set, which layout is expected, where the files are published and
        under which terms.
    """
    entry = resolve(name)
    if entry.is_phantom:
        raise ValueError(f"{entry.name} has no files: it is made from a seed")
    folders = data_folders()
    incomplete = []
    for folder in folders:
        if not folder.is_dir():
            incomplete.append(f"{folder} is no folder")
            continue
        for candidate in _candidates(entry, folder):
            if layout_root(entry, candidate):
                return candidate
            incomplete.append(f"{candidate} lacks {entry.layout}")
    if not folders:
        looked = "MEDREPRO_DATA is not set: set it to the folder (or folders, separated like PATH) of your data sets."
    else:
        looked = f"Looked in {os.pathsep.join(map(str, folders))} (from MEDREPRO_DATA)"
        looked += f"; {'; '.join(incomplete)}." if incomplete else "."
    raise FileNotFoundError(f"data set {entry.name} was not found. {looked} {how_to_get(entry)}")
