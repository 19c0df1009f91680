"""Loss, Dice and IoU as the authors' code computes them (Martins, Coimbra, Renna 2025).

Code that informed it: github.com/miguelmartins/multifractal-recalibration, commit 3b723cd. These are the paper's own
definitions, with their surprises: masks need not be binary, and IoU counts as foreground only pixels of exactly 1.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1e-12  # added above and below, so that an empty prediction of an empty mask scores 1


def _same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.ndim < 2:
        raise ValueError(
            f"prediction is {tuple(first.shape)}, mask is {tuple(second.shape)}: both are (B, 1, H, W) and equal"
        )


def _overlap(prob: Tensor, mask: Tensor) -> Tensor:
    """(2 sum p y + e) / (sum p + sum y + e) of every image, sums over its pixels, shape (B,)."""
    p, y = prob.flatten(1), mask.flatten(1)
    return (2 * (p * y).sum(1) + SMOOTH) / (p.sum(1) + y.sum(1) + SMOOTH)


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    r"""Half binary cross-entropy, half soft Dice loss.

    .. math:: L = \tfrac12\,\mathrm{BCE} + \tfrac12\,\frac1B \sum_b
              \Big(1 - \frac{2 \sum p y + e}{\sum p + \sum y + e}\Big), \qquad e = 10^{-12}

    Parameters
    ----------
    logits
        Network output before the sigmoid, shape (B, 1, H, W).
    mask
        Target in [0, 1], not necessarily binary, shape of `logits`.

    Returns
    -------
    Tensor
        Loss, a scalar, in float32 at least.

    Raises
    ------
    ValueError
        Shapes differ.

    Notes
    -----
    Cross-entropy is averaged over all pixels of the batch, Dice per image and then over images.

    Examples
    --------
    >>> round(segmentation_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).item(), 4)
    0.5132
    """
    _same_shape(logits, mask)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    mask = mask.to(logits.dtype)
    dice = 1 - _overlap(torch.sigmoid(logits), mask).mean()
    return 0.5 * F.binary_cross_entropy_with_logits(logits, mask) + 0.5 * dice


def dice_per_image(prob: Tensor, mask: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Dice of every image: prediction thresholded (p >= `threshold`), mask taken as it is.

    Parameters
    ----------
    prob
        Foreground probability, shape (B, 1, H, W).
    mask
        Target in [0, 1], shape of `prob`. A mask stored at 0.97 cannot score above 0.985.
    threshold
        Of the probability, no unit.

    Returns
    -------
    Tensor
        Dice in [0, 1], shape (B,), float64; 1 where mask and prediction are both empty. The published score is the mean
        over images, times 100.

    Raises
    ------
    ValueError
        Shapes differ.

    Examples
    --------
    >>> prob, mask = torch.tensor([[[[0.9, 0.5, 0.2]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]])
    >>> round(dice_per_image(prob, mask).item(), 4)
    0.6667
    """
    _same_shape(prob, mask)
    return _overlap((prob >= threshold).double(), mask.double())


class Confusion(NamedTuple):
    """Pixel counts of a data set, added up batch by batch with `plus`."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def plus(self, prob: Tensor, mask: Tensor, *, threshold: float = 0.5) -> "Confusion":
        """Counts with those of a batch added; the mask is cut down to integers, so that 0.97 counts as background."""
        _same_shape(prob, mask)
        p, y = prob >= threshold, mask.long() == 1
        cells = ((p & y), (p & ~y), (~p & y), (~p & ~y))
        return Confusion(*(old + int(cell.sum()) for old, cell in zip(self, cells, strict=True)))

    def iou(self) -> float:
        """Intersection over union of the foreground over the whole data set, in [0, 1]; 0 if there is no foreground.

        Examples
        --------
        >>> mask = torch.tensor([[[[1.0, 1.0, 0.97, 0.0]]]])
        >>> Confusion().plus(torch.ones(1, 1, 1, 4), mask).iou()
        0.5
        """
        union = self.true_positive + self.false_positive + self.false_negative
        # choice: 0 for an empty union, where the definition is 0 / 0
        return self.true_positive / union if union else 0.0
