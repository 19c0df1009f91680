"""Cross-validation folds: the paper's rule, and one that keeps patients and near duplicates together.

Rule ``authors`` follows the public code of Martins et al. 2025 (arXiv:2512.02198): contiguous blocks for ISIC18 and
Kvasir-SEG, stratified and shuffled for BUSI, grouping nowhere. Verdicts of this project use ``grouped``.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from medrepro.data.catalogue import resolve

RULES = ("authors", "grouped")
THUMBNAIL = 32  # side of the thumbnails that are compared
NEAR_DUPLICATE = 0.985  # correlation above which two thumbnails show the same scene


def thumbnails(images: np.ndarray, *, side: int = THUMBNAIL) -> np.ndarray:
    """Grey thumbnails by averaging boxes, shape (n, side, side), float32.

    Parameters
    ----------
    images
        Shape (n, C, H, W) or (n, H, W), any size and intensity range; channels are averaged.
    side
        Side of the thumbnails in pixels.
    """
    grey = np.asarray(images, np.float32)
    grey = grey.mean(axis=1) if grey.ndim == 4 else grey
    if grey.ndim != 3:
        raise ValueError(f"images have shape {np.shape(images)}: expected (n, C, H, W) or (n, H, W)")
    rows, columns = (_box_average(length, side) for length in grey.shape[1:])
    return (rows @ grey @ columns.T).astype(np.float32)


def _box_average(length: int, side: int) -> np.ndarray:
    """Matrix (side, length) that averages over boxes of equal width, whose edges may cut a pixel."""
    edges = np.linspace(0, length, side + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * side / length).astype(np.float32)


def _clusters(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """Connected components of a graph by its edges, numbered from 0 in the order of their first member."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(n, n))
    return _numbered(connected_components(graph, directed=False)[1])


def _numbered(keys: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """Keys as integers from 0, in the order of first appearance."""
    numbers: dict = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in np.asarray(keys).tolist()], int)


def near_duplicate_groups(
    images: np.ndarray, *, groups: Sequence[Hashable] | None = None, threshold: float = NEAR_DUPLICATE
) -> np.ndarray:
    """Group number of every image: images that look alike, or that were given the same group, share one.

    Parameters
    ----------
    images
        Shape (n, C, H, W) or (n, H, W); compared as 32 x 32 grey thumbnails.
    groups
        What is known to belong together already (patient, examination), one key an image.
    threshold
        Correlation of two thumbnails above which they count as near duplicates. Chains are followed: a like b, b like
        c puts all three together.

    Returns
    -------
    ndarray
        Shape (n,), int, numbered from 0 in the order of first appearance.

    Raises
    ------
    ValueError
        Images of another shape; as many groups as images are expected.

    Notes
    -----
    A constant image has no correlation and is joined with nothing. Memory: a block of 512 x n correlations.
    """
    small = thumbnails(images).reshape(len(images), -1)
    n = len(small)
    small = small - small.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(small, axis=1, keepdims=True)
    small /= np.where(norm > 1e-6, norm, np.inf)
    edges = [np.empty((0, 2), int)]
    for start in range(0, n, 512):
        alike = np.argwhere(small[start : start + 512] @ small.T > threshold)
        edges.append(np.add(alike, [start, 0]))
    if groups is not None:
        if len(groups) != n:
            raise ValueError(f"there are {n} images and {len(groups)} groups: expected one group an image")
        known = _numbered(groups)
        leader = np.unique(known, return_index=True)[1]  # the first member stands for its group
        edges.append(np.stack([np.arange(n), leader[known]], axis=1))
    first, second = np.concatenate(edges).T
    return _clusters(first, second, n)


def _contiguous(n: int, num_folds: int) -> list[dict[str, np.ndarray]]:
    """Blocks in file order, the first ones longer by one; validation is the last int(0.1 n) of the pool of n."""
    sizes = np.full(num_folds, n // num_folds)
    sizes[: n % num_folds] += 1
    ends = np.cumsum(sizes)
    result = []
    for end, length in zip(ends, sizes):
        test = np.arange(end - length, end)
        pool = np.delete(np.arange(n), test)
        num_val = int(0.1 * len(pool))
        result.append({"train": pool[: len(pool) - num_val], "val": pool[len(pool) - num_val :], "test": test})
    return result


def _stratified(labels: np.ndarray, num_folds: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Shuffled within each class; validation is a stratified 20 % of the pool; train keeps its shuffled order."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    result = []
    for pool, test in StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels):
        train, val = train_test_split(pool, test_size=0.2, stratify=labels[pool], random_state=seed)
        result.append({"train": train, "val": val, "test": test})
    return result


def _grouped(labels: np.ndarray, groups: np.ndarray, num_folds: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Whole groups, balanced by label as far as they allow; validation is about 20 % of the pool, whole groups too."""
    from sklearn.model_selection import StratifiedGroupKFold

    result = []
    outer = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    for pool, test in outer.split(labels, labels, groups):
        inner = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        train, val = next(inner.split(pool, labels[pool], groups[pool]))
        result.append({"train": pool[train], "val": pool[val], "test": test})
    return result


def folds(
    name: str,
    labels: Sequence[Hashable] | int,
    *,
    groups: Sequence[Hashable] | None = None,
    rule: str = "grouped",
    num_folds: int = 5,
    seed: int = 42,
) -> list[dict[str, np.ndarray]]:
    """Index arrays ``train``, ``val``, ``test`` of every fold; each index is tested exactly once.

    Parameters
    ----------
    name
        Data set: it decides what ``authors`` means.
    labels
        Label of every image in the order of the loader, or their number where there is one class.
    groups
        Group of every image (`SegmentationSet.groups`); needed by ``grouped``.
    rule
        ``authors``: ISIC18, Kvasir-SEG and phantoms in contiguous blocks, no shuffling, the validation set being the
        last tenth of all images in the pool, so that folds 0 to 3 share it; BUSI stratified by class and shuffled,
        20 % of the pool for validation. ``grouped``: no group is in two parts of a fold, labels balanced.
    num_folds
        Number of folds, at least 2.
    seed
        Seed of the shuffle; 42 in the paper's code. Contiguous blocks have none.

    Returns
    -------
    list of dict
        One a fold, of int arrays. Test indices ascend; train of BUSI under ``authors`` keeps its shuffled order, which
        the paper's training used as it was.

    Raises
    ------
    ValueError
        An unknown rule; fewer images, members of a class or groups than folds; `groups` missing or of another length.

    Examples
    --------
    >>> [len(fold["test"]) for fold in folds("kvasir", 12, rule="authors")]
    [3, 3, 2, 2, 2]
    """
    entry = resolve(name)
    keys = np.zeros(labels, int) if isinstance(labels, int | np.integer) else _numbered(labels)
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}: expected {' or '.join(RULES)}")
    if not 2 <= num_folds <= len(keys):
        raise ValueError(f"num_folds is {num_folds} for {len(keys)} images: expected 2 to as many as there are images")
    if rule == "authors" and entry.name != "busi":
        return _contiguous(len(keys), num_folds)
    smallest = int(np.bincount(keys).min())
    if rule == "authors":
        if smallest < num_folds:
            raise ValueError(f"the smallest class has {smallest} images: expected at least {num_folds}, one a fold")
        return _stratified(keys, num_folds, seed)
    if groups is None or len(groups) != len(keys):
        given = "none" if groups is None else f"{len(groups)}"
        raise ValueError(
            f"rule 'grouped' needs a group for each of the {len(keys)} images, {given} given: pass the data set's "
            "groups, or near_duplicate_groups(images)"
        )
    numbers = _numbered(groups)
    # the pool of one fold must still fill five parts, one of them for validation
    needed = max(num_folds, int(np.ceil(5 * num_folds / (num_folds - 1))))
    if smallest < max(num_folds, 5) or numbers.max() + 1 < needed:
        raise ValueError(
            f"{numbers.max() + 1} groups, smallest class of {smallest} images: expected at least {needed} groups and "
            f"{max(num_folds, 5)} images a class for {num_folds} folds; use fewer folds or more images"
        )
    return _grouped(keys, numbers, num_folds, seed)
