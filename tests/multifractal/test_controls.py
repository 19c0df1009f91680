"""Controls for Mono and Multi."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medrepro.multifractal import controls, experiments
from medrepro.multifractal.exponent import Exponent, rescale
from medrepro.multifractal.recalibration import Multi
from medrepro.multifractal.segmentation_runs import seeded_unet

CHANNELS = (4, 8)


def net(model, control, preset="authors_code"):
    return seeded_unet(model, seed=0, channels=CHANNELS, size=24, preset=preset, control=control)


@pytest.fixture
def maps():
    return torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sigma", controls.BLURS)
def test_blur_is_scipys(maps, sigma):
    truncate = max(1, round(4 * sigma)) / sigma
    expected = ndimage.gaussian_filter(maps.numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=truncate)
    np.testing.assert_allclose(controls.gaussian_blur(maps, sigma), expected, atol=1e-12)


def test_ratio_of_blurs_behaves_as_the_exponent():
    image = torch.as_tensor(ndimage.gaussian_filter(np.random.default_rng(0).random((1, 3, 64, 64)), (0, 0, 1, 1)))
    shifted = 0.25 * (
        image + image.roll(1, 2) + image.roll(1, 3) + image.roll((1, 1), (2, 3))
    )  # boxes sit half a pixel off
    replaced = controls.ReplacedExponent(Exponent(3), "blurs")(shifted)[..., 8:-8, 8:-8]
    boxes = Exponent(3)(image).roll((1, 1), (2, 3))[..., 8:-8, 8:-8]
    assert np.corrcoef(replaced.flatten(), boxes.flatten())[0, 1] > 0.9
    constant = controls.ReplacedExponent(Exponent(3), "blurs")(torch.ones(1, 3, 20, 20))
    assert torch.allclose(constant, torch.tensor(2.0), atol=1e-5)


def test_laplacian_is_scipys(maps):
    expected = ndimage.laplace(rescale(maps).numpy()[0, 1], mode="nearest") / 255
    np.testing.assert_allclose(controls.ReplacedExponent(Exponent(3), "laplacian")(maps)[0, 1], expected, atol=1e-12)


def test_noise_looks_at_no_image(maps):
    replaced = controls.ReplacedExponent(Exponent(3), "noise")
    assert torch.equal(replaced(maps), replaced(maps**2))
    assert torch.equal(replaced(maps)[0], replaced(maps)[1])
    assert replaced(maps).std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("model", ["mono", "multi"])
@pytest.mark.parametrize("descriptor", ["blurs", "laplacian", "noise"])
def test_a_replaced_exponent_keeps_batch_norm_and_everything_else(model, descriptor):
    plain, changed = net(model, None), net(model, descriptor)
    assert isinstance(changed.encoder[0].recalibrate.exponent.norm, torch.nn.BatchNorm2d)
    assert net(model, descriptor, preset="paper").encoder[0].recalibrate.exponent.norm is None
    weights = dict(plain.named_parameters())
    for name, weight in changed.named_parameters():
        assert torch.equal(weight, weights[name])
    x = torch.rand(2, 3, 24, 24)
    assert changed(x).shape == plain(x).shape
    assert not torch.equal(changed(x), plain(x))
    changed(x).sum().backward()
    assert all(weight.grad is not None for weight in changed.parameters())


def test_whole_blocks_are_replaced_in_the_plain_network_alone():
    x = torch.rand(2, 3, 24, 24)
    added = net("unet", "constant")
    assert torch.allclose(added.encoder[0](x), net("unet", None).encoder[0](x) + controls.CONSTANT)
    normed = net("unet", "batch_norm").encoder[0](x)
    assert torch.allclose(normed.mean((0, 2, 3)), torch.zeros(4), atol=1e-6)
    for model, control in (("cse", "blurs"), ("unet", "noise"), ("mono", "constant")):
        with pytest.raises(ValueError, match=f"control '{control}' needs"):
            net(model, control)
    with pytest.raises(ValueError, match="known: blurs, laplacian"):
        net("mono", "sobel")


def test_the_constant_is_what_a_fresh_multi_adds():
    x = torch.rand(2, 4, 16, 16)
    layer = Multi(4, preset="authors_code").eval()
    assert (layer(x) - x).detach().numpy() == pytest.approx(controls.CONSTANT, abs=1e-6)


def test_every_arm_differs_from_every_other_in_its_own_settings_alone():
    digests = {run.identity for arm in experiments.ARMS for run in experiments.arm_runs(arm)}
    assert len(digests) == 3 * len(experiments.ARMS)
    own = {"model", "preset", "switches", "control", "seed"}
    shared = [
        {k: v for k, v in run.settings.items() if k not in own}
        for a in experiments.ARMS
        for run in experiments.arm_runs(a)
    ]
    assert all(one == shared[0] for one in shared)


@pytest.mark.parametrize("arm", experiments.ARMS)
def test_the_network_of_every_arm_can_be_built(arm):
    settings = experiments.arm_runs(arm)[0].settings
    built = seeded_unet(
        settings["model"], seed=0, channels=CHANNELS, size=40, preset=settings["preset"],
        switches=settings.get("switches"), control=settings.get("control"),
    )  # fmt: skip
    assert built(torch.rand(1, 3, 40, 40)).shape == (1, 1, 40, 40)
