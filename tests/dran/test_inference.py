"""Denoising front: self-ensemble, tiles, batch norm at test time, wrong input."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.dran import network
from medrepro.dran.inference import batch_norm, denoise, denoise_batch, recalibrate, self_ensemble, tiled
from medrepro.dran.network import DRAN
from tests.dran.reference import close


@pytest.fixture(scope="module")
def net() -> DRAN:
    return network("paper", features=8, layers=2, temperature=1.0)


def image(*shape: int, seed: int = 3) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


SYMMETRIES = [
    lambda x, t=turns, f=flip: torch.rot90(x.flip(3) if f else x, t, (2, 3)) for turns in range(4) for flip in (0, 1)
]


@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
@torch.no_grad()
def test_d15_self_ensemble_commutes_with_all_eight_symmetries(net, size):
    predict, x = self_ensemble(net), image(2, 3, *size)
    for change in SYMMETRIES:
        assert close(predict(change(x)), change(predict(x)), 1e-6)
    assert (predict(x) - net(x)).abs().max() > 1e-4


@torch.no_grad()
def test_d15_self_ensemble_is_the_mean_over_the_symmetries(net):
    x, inverse = image(1, 3, 10, 10), {}
    marks = torch.arange(100.0).view(1, 1, 10, 10)
    for i, change in enumerate(SYMMETRIES):  # the inverse of each, found by trial
        inverse[i] = next(back for back in SYMMETRIES if torch.equal(back(change(marks)), marks))
    expected = sum(inverse[i](net(change(x))) for i, change in enumerate(SYMMETRIES)) / 8
    assert close(self_ensemble(net)(x), expected, 1e-6)


@pytest.mark.parametrize("size", [(40, 44), (33, 16), (17, 50)])
@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_tiles_with_the_attention_of_the_whole_image_equal_the_whole_image(net, size, fused):
    model, x = net.fuse() if fused else net, image(2, 3, *size)
    assert close(tiled(model, x, tile=16), model(x), 1e-6)


@torch.no_grad()
def test_tiles_of_their_own_attention_or_a_short_halo_differ(net):
    x = image(1, 3, 40, 44)
    assert (tiled(net, x, tile=16, attention="tile") - net(x)).abs().max() > 1e-5
    assert (tiled(net, x, tile=16, halo=2) - net(x)).abs().max() > 1e-5


@torch.no_grad()
def test_attention_of_the_whole_image_frozen_gives_the_live_result(net):
    x = image(2, 3, 12, 14)
    a = net.attention(x)
    assert a.shape == (6, 2, 4)
    assert close(net(x, attention=a), net(x), 1e-7)
    assert (net(x, attention=a.flip(1)) - net(x)).abs().max() > 1e-6


@torch.no_grad()
def test_statistics_of_the_image_are_train_mode_without_its_trace(net):
    x = (image(2, 3, 12, 14) + 1) / 2
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = denoise_batch(net, x, statistics="image")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not net.training
    other = network("paper", features=8, layers=2, temperature=1.0).train()
    for i in range(2):
        v = 2 * x[i : i + 1] - 1
        assert close(found[i : i + 1], (v - other(v) + 1) / 2, 1e-6)
    assert (found - denoise_batch(net, x)).abs().max() > 1e-3


def test_batch_norm_restores_modes_after_an_error(net):
    net.train()
    with pytest.raises(RuntimeError, match="stop"), batch_norm(net, "image"):
        raise RuntimeError("stop")
    assert all(module.training for module in net.modules())
    net.eval()


@torch.no_grad()
def test_recalibrated_statistics_are_the_plain_average_over_batches():
    net = network("paper", features=8, layers=2)
    batches = [image(2, 3, 9, 10, seed=seed) for seed in range(4)]
    seen: list[Tensor] = []
    norm = net.blocks[0][0].norms[0]
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    assert recalibrate(net, iter(batches)) == 4
    handle.remove()
    means = torch.stack([x.mean((0, 2, 3)) for x in seen])
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen])
    assert close(norm.running_mean, means.mean(0), 1e-6)
    assert close(norm.running_var, variances.mean(0), 1e-6)
    assert norm.momentum == 0.1
    assert not net.training
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate(net, [])


@torch.no_grad()
def test_d16_front_function_by_hand_in_every_type(net):
    x = np.random.default_rng(0).integers(0, 256, (10, 12, 3)).astype(np.uint8)
    v = torch.from_numpy(x.astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)[None]
    expected = ((v - net(v))[0].permute(1, 2, 0).numpy().clip(-1, 1) + 1) / 2
    assert np.abs(denoise(net, x) - 255 * expected).max() <= 0.5 + 1e-3
    assert denoise(net, x).dtype == np.uint8
    assert denoise(net, x.astype(np.float32) / 255) == pytest.approx(expected, abs=1e-6)
    wide = x.astype(np.float64) * 4 + 100
    assert denoise(net, wide, value_range=(100, 1120)) == pytest.approx(100 + 1020 * expected, abs=1e-3)
    assert denoise(net, wide, value_range=(100, 1120)).dtype == np.float32


def test_front_function_passes_on_its_options(net):
    x = np.random.default_rng(0).random((24, 20, 3)).astype(np.float32)
    plain = denoise(net, x)
    assert denoise(net, x, tile=8) == pytest.approx(plain, abs=1e-6)
    turned = denoise(net, np.rot90(x).copy(), ensemble=True)
    assert turned == pytest.approx(np.rot90(denoise(net, x, ensemble=True)), abs=1e-6)
    for options in ({"ensemble": True}, {"statistics": "image"}, {"tile": 8, "attention": "tile"}):
        assert np.abs(denoise(net, x, **options) - plain).max() > 1e-6


def test_grey_images_keep_their_shape():
    net = network_grey()
    x = np.random.default_rng(0).random((9, 8))
    assert denoise(net, x).shape == (9, 8)
    assert denoise(net, x[..., None]).shape == (9, 8, 1)


def network_grey() -> DRAN:
    torch.manual_seed(0)
    return DRAN(features=8, layers=1, in_channels=1).eval()


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (np.where(np.eye(9)[..., None] > 0, np.nan, floats(9, 9, 3)), {}, "NaN or infinite"),
        (255 * floats(9, 9, 3), {}, r"do not fit value_range \(0.0, 1.0\)"),
        (floats(9, 9, 3), {"value_range": (1, 1)}, "name the range"),
        (floats(9, 9), {}, r"\(9, 9\) has 1 channel\(s\), the model takes 3"),
        (floats(9, 9, 4), {}, r"4 channel\(s\), the model takes 3"),
        (floats(2, 9, 9, 3), {}, r"shape \(H, W\) or \(H, W, C\), got \(2, 9, 9, 3\)"),
        (np.ones((9, 9, 3), int), {}, "type int64: give uint8"),
        (floats(1, 9, 3), {}, "1 x 9 is too small"),
        (floats(9, 9, 3), {"statistics": "batch"}, "statistics is 'batch': choose one of running, image"),
        (floats(9, 9, 3), {"statistics": "image", "tile": 8}, "tiles have statistics of their own"),
        (floats(9, 9, 3), {"tile": 1}, "tile is 1"),
        (floats(9, 9, 3), {"tile": 8, "attention": "none"}, "attention is 'none'"),
    ],
)
def test_wrong_input_is_named(net, given, options, message):
    with pytest.raises(ValueError, match=message):
        denoise(net, given, **options)


def test_a_fused_network_has_no_statistics_of_the_image(net):
    with pytest.raises(ValueError, match="running statistics only"):
        denoise(net.fuse(), floats(9, 9, 3), statistics="image")
