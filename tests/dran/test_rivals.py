"""All rivals under one call: contract, what they are told, parameters of the networks."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medrepro.dran.cnn_rivals import DnCNN, dynamic_dncnn, residual_mid_like
from medrepro.dran.dynamic_convolution import DynamicConv2d
from medrepro.dran.network import DRAN
from medrepro.dran.quality import psnr
from medrepro.dran.rivals import CLASSICAL, Rival, channel_average, network_rival

NETWORKS = {
    "DnCNN": lambda **options: DnCNN(5, features=8, **options),
    "dynamic DnCNN": lambda **options: dynamic_dncnn(depth=5, features=8, **options),
    "Residual-MID-like": lambda **options: residual_mid_like(features=8, **options),
    "DRAN": lambda **options: DRAN(features=8, layers=1, **options),
}
NOT_BLIND = {"minus mean", "total variation", "wavelet", "non-local means", "BM3D"}


def rival(name: str, channels: int = 3) -> Rival:
    if name in CLASSICAL:
        return CLASSICAL[name]
    torch.manual_seed(0)
    return network_rival(name, NETWORKS[name](in_channels=channels).eval())


def scene(*shape: int) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]] / 20
    grey = 0.5 + 0.3 * np.sin(rows) * np.cos(columns) * (rows > columns)
    return (grey if len(shape) == 2 else np.stack([grey] * shape[2], -1)).astype(np.float32)


@pytest.mark.parametrize("name", [*CLASSICAL, *NETWORKS])
@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1), (20, 24, 3)])
def test_every_rival_keeps_shape_and_input_and_is_finite(name, shape):
    noisy = scene(*shape) + 0.1 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before = noisy.copy()
    found = rival(name, shape[2] if len(shape) == 3 else 1)(noisy, mean=0.05, sd=0.1)
    assert found.shape == shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.array_equal(noisy, before)


@pytest.mark.parametrize("name", ["median", "total variation", "wavelet", "non-local means", "BM3D"])
@pytest.mark.parametrize("channels", [1, 3])
def test_classical_rivals_gain_on_gaussian_noise_and_keep_its_mean(name, channels):
    clean = scene(64, 64, channels)
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    gain = lambda image: psnr(image[None], clean[None], clip=False)[0] - psnr(noisy[None], clean[None], clip=False)[0]
    denoised = CLASSICAL[name](noisy, sd=0.1)
    assert gain(denoised) > 3
    assert denoised.mean() == pytest.approx(noisy.mean(), abs=5e-3)


@pytest.mark.parametrize("name", [*CLASSICAL, *NETWORKS])
def test_a_given_mean_is_subtracted_first(name):
    noisy = scene(16, 16, 3) + 0.2 * np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    one = rival(name)
    expected = one(noisy - np.float32(0.1), mean=0.0, sd=0.06)
    assert one(noisy, mean=0.1, sd=0.06) == pytest.approx(expected, abs=1e-6)


def test_simple_rivals_by_hand():
    noisy = scene(9, 8)
    assert np.array_equal(CLASSICAL["noisy"](noisy), noisy)
    assert CLASSICAL["minus mean"](noisy, mean=0.25) == pytest.approx(noisy - 0.25)
    colour = np.random.default_rng(0).random((9, 8, 3)).astype(np.float32)
    expected = np.stack([ndimage.median_filter(colour[..., c], 3) for c in range(3)], -1)
    assert np.array_equal(CLASSICAL["median"](colour), expected)


def test_channel_average_of_a_grey_image_stored_thrice_is_worth_477_decibels():
    clean = scene(100, 100, 3)
    noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    value = lambda image: psnr(image[None], clean[None], clip=False)[0]
    assert value(channel_average(noisy)) - value(noisy) == pytest.approx(10 * np.log10(3), abs=0.1)
    with pytest.raises(ValueError, match=r"got shape \(4, 4\)"):
        channel_average(np.zeros((4, 4)))


@pytest.mark.parametrize("name", [*CLASSICAL, *NETWORKS])
def test_rivals_say_what_they_are_told(name):
    one = rival(name)
    assert one.blind == (name not in NOT_BLIND)
    if one.blind:
        one(scene(16, 16, 3))
        return
    with pytest.raises(ValueError, match=f"{name} is not blind: tell it the noise's {one.told[0]}"):
        one(scene(16, 16, 3))


def test_wrong_images_are_named():
    with pytest.raises(ValueError, match=r"finite images .* got shape \(4,\)"):
        CLASSICAL["median"](np.zeros(4))
    with pytest.raises(ValueError, match="noisy takes finite images"):
        CLASSICAL["noisy"](np.full((4, 4), np.inf))


def test_parameters_of_the_networks():
    count = lambda net: sum(p.numel() for p in net.parameters())
    assert count(DnCNN()) == 558_336
    assert count(dynamic_dncnn()) == 2_237_376
    assert count(residual_mid_like()) == 2 * 1728 + 6 * (36_864 + 128)
    assert sum(isinstance(module, DynamicConv2d) for module in dynamic_dncnn().modules()) == 15


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_every_parameter(name):
    net = NETWORKS[name]().train()
    net(torch.rand(2, 3, 9, 8) * 2 - 1).abs().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_dncnn_of_17_layers_sees_as_far_as_dran():
    torch.manual_seed(0)
    net = DnCNN(features=4).eval().double()
    x = torch.rand(1, 3, 41, 43).double()
    y = x.clone()
    y[0, :, 20, 21] += 0.5
    with torch.no_grad():
        rows, columns = (net(y) - net(x)).abs().amax((0, 1)).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 37, 4, 38)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DnCNN(1), "depth is 1"),
        (lambda: DnCNN(out_activation="relu"), "out_activation is 'relu'"),
        (lambda: DnCNN(3, features=4)(torch.zeros(1, 1, 8, 8)), r"\(B, 3, H, W\), got \(1, 1, 8, 8\)"),
    ],
)
def test_wrong_options_of_networks_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
