"""Loss, Dice and IoU: numbers by hand, against other libraries, surprises of the authors' definitions."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from torch import Tensor

from medrepro.multifractal.objectives import Confusion, dice_per_image, segmentation_loss


def row(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 1, 1, -1)


def test_loss_by_hand():
    """Probabilities 3/4 and 1/5 against 1 and 0."""
    logits, mask = row(math.log(3), math.log(0.25)), row(1.0, 0.0)
    bce = -(math.log(0.75) + math.log(0.8)) / 2
    dice = 1 - 2 * 0.75 / (0.95 + 1)
    assert segmentation_loss(logits, mask).item() == pytest.approx(0.5 * bce + 0.5 * dice, abs=1e-6)


def test_loss_averages_dice_over_images():
    logits, mask = torch.randn(3, 1, 5, 4), torch.rand(3, 1, 5, 4).round()
    parts = [segmentation_loss(logits[i : i + 1], mask[i : i + 1]) for i in range(3)]
    assert segmentation_loss(logits, mask).item() == pytest.approx(torch.stack(parts).mean().item(), abs=1e-6)


def test_loss_is_finite_far_out_and_in_half_precision():
    for logits in (row(200.0, -200.0), row(-200.0, 200.0)):
        logits.requires_grad_()
        loss = segmentation_loss(logits, row(1.0, 0.0))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()
    assert segmentation_loss(row(1.0, 2.0).bfloat16(), row(1.0, 0.0)).dtype == torch.float32


def test_loss_of_empty_masks():
    """An empty mask that is predicted empty costs nothing; e = 1e-12 is below what float32 adds to a sum of 1."""
    assert segmentation_loss(row(-200.0, -200.0), row(0.0, 0.0)).item() == pytest.approx(0, abs=1e-6)
    assert segmentation_loss(row(0.0, 0.0), row(0.0, 0.0)).item() == pytest.approx(0.5 * math.log(2) + 0.5, abs=1e-6)


def test_loss_gradient_holds_against_finite_differences():
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(segmentation_loss, (logits, torch.rand(2, 1, 3, 3, dtype=torch.float64)))


def test_dice_by_hand():
    prob = torch.cat([row(0.9, 0.5, 0.49, 0.1), row(0, 0, 0, 0), row(1, 0, 0, 0), row(0, 0, 0, 0)])
    mask = torch.cat([row(1, 0, 1, 0), row(0, 0, 0, 0), row(0, 0, 0, 0), row(1, 0, 0, 0)])
    assert dice_per_image(prob, mask).tolist() == pytest.approx([2 / 4, 1, 0, 0], abs=1e-11)


def test_dice_equals_monai_on_binary_masks():
    rng = np.random.default_rng(0)
    prob, mask = (torch.from_numpy(rng.random((5, 1, 9, 11))) for _ in range(2))
    expected = compute_dice((prob >= 0.5).float(), mask.round(), include_background=True)[:, 0]
    assert dice_per_image(prob, mask.round()).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_perfect_prediction_of_a_grey_mask_scores_less_than_one():
    mask = 0.97 * torch.ones(1, 1, 4, 4)
    assert dice_per_image(torch.ones(1, 1, 4, 4), mask).item() == pytest.approx(0.985, abs=5e-4)
    assert Confusion().plus(torch.ones(1, 1, 4, 4), mask).iou() == 0


def test_iou_is_taken_over_the_data_set():
    one, two = (row(1, 1, 0, 0), row(1, 0, 1, 0)), (row(1, 1, 1, 1), row(1, 1, 1, 1))
    counts = Confusion().plus(*one).plus(*two)
    assert counts == (5, 1, 1, 1)
    assert counts.iou() == pytest.approx(5 / 7)
    assert Confusion().plus(torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]])) == counts
    assert Confusion().iou() == 0


@pytest.mark.parametrize("call", [segmentation_loss, dice_per_image, Confusion().plus])
def test_faults_say_what_was_expected(call):
    with pytest.raises(ValueError, match=r"prediction is \(2, 1, 8, 8\), mask is \(2, 8, 8\)"):
        call(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8))
