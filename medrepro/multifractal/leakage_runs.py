"""Run function: near duplicates of test images in training lists."""

from typing import Any

import numpy as np

from medrepro.data import segmentation, splits

NUM_FOLDS = 5


def leakage(data: str, size: int) -> dict[str, Any]:
    """Run function: how many test images of the authors' split have a near duplicate in the same fold's training list.

    Parameters
    ----------
    data
        Name of a real segmentation set.
    size
        Side in pixels at which images are read; near duplicates are told from thumbnails.

    Returns
    -------
    dict
        ``metrics``: images; groups; images in groups of two or more; mean share of leaked test images over five folds
        under either split.
    """
    whole = segmentation.load_segmentation(data, size=size)
    shares = {}
    for rule in ("authors", "grouped"):
        chosen = splits.folds(data, whole.labels, groups=whole.groups, rule=rule, num_folds=NUM_FOLDS)
        leaked = [np.isin(whole.groups[fold["test"]], whole.groups[fold["train"]]).mean() for fold in chosen]
        shares[f"leaked_{rule}"] = float(np.mean(leaked))
    sizes = np.unique(whole.groups, return_counts=True)[1]
    return {"metrics": {"images": len(whole), "groups": len(sizes), "in_groups": int(sizes[sizes > 1].sum()), **shares}}
