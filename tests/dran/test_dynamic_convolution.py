"""Dynamic convolution: counts, attention, its three forms, cases by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from medrepro.dran.dynamic_convolution import DynamicConv2d
from tests.dran.reference import close


def layer(channels: int = 8, out: int = 8, seed: int = 0, **options) -> DynamicConv2d:
    torch.manual_seed(seed)
    conv = DynamicConv2d(channels, out, 3, **{"padding": 1, "temperature": 1.0, **options})
    with torch.no_grad():
        conv.bias.normal_()
    return conv


def mixing(conv: DynamicConv2d, x: torch.Tensor) -> torch.Tensor:
    """The linear form: K convolutions, then their weighted sum."""
    a = conv.attention(x)
    options = (conv.stride, conv.padding, conv.dilation, conv.groups)
    maps = [F.conv2d(x, conv.weight[k], conv.bias[k], *options) for k in range(conv.kernels)]
    return sum(a[:, k, None, None, None] * one for k, one in enumerate(maps))


@pytest.mark.parametrize(("channels", "kernels"), [(64, 4), (16, 2), (3, 4), (10, 8)])
def test_d02_parameters_by_formula(channels, kernels):
    conv = DynamicConv2d(channels, channels, kernels=kernels)
    h = kernels if channels == 3 else channels // 4
    expected = kernels * (channels**2 * 9 + channels) + channels * h + h * kernels
    assert sum(p.numel() for p in conv.parameters()) == expected


def test_d04_initialisation_has_the_stated_spread_and_zero_biases():
    torch.manual_seed(0)
    conv = DynamicConv2d(64, 64)
    bound = math.sqrt(6 / (64 * 9))
    assert not conv.bias.any()
    for kernel in conv.weight:
        assert 0.99 * bound < kernel.abs().max() <= bound
        assert kernel.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    many = torch.cat([DynamicConv2d(64, 1).squeeze.weight.flatten() for _ in range(10)])
    assert many.std().item() == pytest.approx(math.sqrt(2 / 16), rel=0.03)
    many = torch.cat([DynamicConv2d(64, 1).excite.weight.flatten() for _ in range(40)])
    assert many.std().item() == pytest.approx(math.sqrt(2 / 4), rel=0.05)


def test_d05_attention_is_a_distribution_and_temperature_orders_it():
    conv, x = layer(), torch.randn(5, 8, 6, 7)
    highest = []
    for temperature in (1e6, 100, 34, 10, 1, 0.3):
        conv.set_temperature(temperature)
        a = conv.attention(x)
        assert close(a.sum(1), torch.ones(5), 1e-6)
        assert ((a > 0) & (a < 1)).all()
        highest.append(a.max(1).values)
    assert close(highest[0], torch.full((5,), 0.25), 1e-5)
    assert (torch.stack(highest).diff(dim=0) >= -1e-7).all()
    conv.excite.weight.data.zero_()
    assert torch.equal(conv.attention(x), torch.full((5, 4), 0.25))


def test_d06_equal_attention_is_the_mean_kernel():
    conv, x = layer(), torch.randn(2, 8, 9, 5)
    conv.excite.weight.data.zero_()
    expected = F.conv2d(x, conv.weight.mean(0), conv.bias.mean(0), padding=1)
    assert close(conv(x), expected, 2e-6)


def test_d07_one_hot_attention_is_one_kernel_alone():
    conv, x = layer(), torch.rand(2, 8, 9, 5)
    with torch.no_grad():
        conv.squeeze.weight.fill_(1)
        conv.excite.weight.fill_(0)
        conv.excite.weight[2] = 1e4
    assert close(conv(x), F.conv2d(x, conv.weight[2], conv.bias[2], padding=1), 2e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"groups": 4, "kernels": 3, "padding": 0}],
)
def test_d08_grouped_loop_and_linear_mixing_agree_in_value_and_gradient(options):
    conv = layer(8, 12, **options)
    x = torch.randn(3, 8, 10, 9)
    results = {}
    for form in ("loop", "grouped", "mixing"):
        leaf = x.clone().requires_grad_()
        conv.zero_grad()
        y = mixing(conv, leaf) if form == "mixing" else _with_form(conv, form)(leaf)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        results[form] = (y.detach(), [leaf.grad, *(p.grad.clone() for p in conv.parameters())])
    for form in ("loop", "grouped"):
        assert close(results[form][0], results["mixing"][0], 1e-5)
        for one, other in zip(results[form][1], results["mixing"][1], strict=True):
            assert (one - other).abs().max() <= 1e-4 * max(1, other.abs().max())


def _with_form(conv: DynamicConv2d, form: str) -> DynamicConv2d:
    conv.form = form
    return conv


def test_f2_constant_input_by_hand():
    conv = DynamicConv2d(64, 64, padding=1)
    with torch.no_grad():
        conv.excite.weight.zero_()
        for k in range(4):
            conv.weight[k], conv.bias[k] = (k + 1) * 1e-3, 0.01 * k
        y = conv(torch.ones(1, 64, 5, 5))[0, 0]
    assert y[2, 2].item() == pytest.approx(1.455, abs=1e-5)
    assert y[0, 0].item() == pytest.approx(0.655, abs=1e-5)
    assert y[0, 2].item() == pytest.approx(0.975, abs=1e-5)


@pytest.mark.parametrize(("temperature", "lowest", "highest"), [(34, 0.0015, 0.016), (10, 0.004, 0.06), (1, 0.05, 0.6)])
def test_f3_attention_at_birth_hardly_differs_from_a_mean_at_34(temperature, lowest, highest):
    """Largest |a - 1/4|: .0025 to .0117 at T = 34, .030 at T = 10, .33 at T = 1, over several draws."""
    from medrepro.dran.network import DRAN

    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = DRAN("authors_code", temperature=temperature).eval()
        with torch.no_grad():
            found.append((net.attention(torch.rand(1, 3, 16, 16) * 2 - 1) - 0.25).abs().max().item())
    assert lowest < min(found)
    assert max(found) < highest


def test_annealing_goes_down_by_three_to_one_and_stays():
    conv = layer(temperature=34)
    assert [conv.cool() for _ in range(13)] == [*range(31, 0, -3), 1, 1]
    cold = layer(temperature=0.5)
    assert cold.cool() == 0.5


def test_temperature_is_kept_in_the_state_dict():
    other = layer(temperature=34, seed=1)
    other.load_state_dict(layer(temperature=7).state_dict())
    assert float(other.temperature) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature is 0: it must be above 0"),
        ({"kernels": 0}, "kernels is 0"),
        ({"groups": 3}, "groups=3 does not divide 8 channels"),
        ({"form": "fast"}, "form is 'fast': choose auto, loop or grouped"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        layer(**options)
