"""Recalibration layers: values of the authors' code, properties P17 to P22, presets where they differ, gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from torch import Tensor, nn

from medrepro.multifractal.exponent import BN_EPS, Exponent, local_exponent, rescale
from medrepro.multifractal.level_table import interpolate, soft_counts
from medrepro.multifractal.recalibration import (
    FCA,
    PRESETS,
    RECALIBRATIONS,
    SRM,
    ChannelSE,
    Mono,
    Multi,
    SpatialChannelSE,
    VectorBatchNorm,
    recalibration,
)

from .reference import set_reference_weights, statistics


@pytest.fixture(autouse=True)
def _table_at_every_size(monkeypatch):
    """Small maps take the exact form; here the table is what is tested."""
    monkeypatch.setattr(Multi, "table_from", 0)


NAMES = tuple(name for name in RECALIBRATIONS if name != "none")
ALL = [(name, preset) for name in NAMES for preset in ("paper", "authors_code", "corrected")]

# Every value of every switch at least once, beside the presets.
SWITCHES = [
    *(("mono", {"minmax": over}) for over in ("batch", "sample", "none")),
    *(("mono", {"slope": slope}) for slope in ("weighted", "wls")),
    *(("mono", {"combine": combine}) for combine in ("sum", "residual_product")),
    *(("mono", {"padding": padding}) for padding in ("reflect", "circular")),
    ("mono", {"alpha_bn": True}),
    ("mono", {"max_scale": 4}),
    ("mono", {"scales": (3, 5, 9)}),
    *(("multi", {"minmax": over}) for over in ("sample", "none")),
    *(("multi", {"slope": slope}) for slope in ("weighted", "wls")),
    *(("multi", {"precision": kind}) for kind in ("relu", "softplus")),
    *(("multi", {"phi": phi, "relu": relu}) for phi in ("linear", "bn") for relu in ("after_sum", "per_q")),
    *(("multi", {"combine": combine}) for combine in ("product", "residual_product")),
    ("multi", {"per_channel": True}),
    ("multi", {"phi": "bn", "per_channel": True}),
    ("multi", {"alpha_bn": True}),
    ("multi", {"max_scale": 4, "padding": "circular"}),
    ("srm", {"per_channel": True}),
    ("fca", {"fca_mode": "dct2"}),
    ("cse", {"reduction": 4}),
    ("scse", {"reduction": 1}),
]


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rectified noise, as after a ReLU."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype).relu()


def authors_input() -> Tensor:
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 32)).astype(np.float32)
    return torch.from_numpy(np.maximum(x, 0)).permute(0, 3, 1, 2)


def build(name: str, channels: int = 16, *, seed: int = 0, **settings) -> nn.Module:
    torch.manual_seed(seed)
    return recalibration(name, channels, **settings).double()


def count(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


# -- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "training", "expected"),
    [
        ("none", False, (0.400107, 0.583307, 0, 4.731958)),
        ("cse", False, (0.199573, 0.293609, 0, 2.360177)),
        ("scse", False, (0.212543, 0.314233, 0, 2.733433)),
        ("srm", False, (0.248293, 0.362073, 0, 2.961771)),
        ("srm", True, (0.201043, 0.299150, 0, 3.013634)),
        ("fca", False, (0.174061, 0.425846, 0, 4.083823)),
        ("mono", False, (0.198287, 0.338181, 0, 3.476433)),
        ("mono", True, (0.200070, 0.291691, 0, 2.367766)),
        ("multi", False, (1.131067, 0.583307, 0.730960, 5.462918)),
        ("multi minus input", True, (0.986946, 0.014267, 0.957211, 0.999997)),
    ],
)
def test_statistics_of_the_authors_layers(name, training, expected):
    """2e-5: the published statistics are of float32 layers, rounded to six places."""
    x, kind = authors_input(), name.split()[0]
    forms = ({}, {"form": "table"}, {"per_channel": True})  # the same levels for all channels: the same output
    for switches in forms if kind == "multi" else ({},):
        layer = recalibration(kind, 32, preset="authors_code", **switches).train(training)
        out = set_reference_weights(layer, 32)(x)
        assert statistics(out - x if name.endswith("input") else out) == pytest.approx(expected, abs=2e-5)


def test_authors_random_start_of_multi():
    """H~ has mean .54 to .56 and standard deviation .05 to .07 over four starts, as published; .01 for other draws."""
    for seed in range(4):
        torch.manual_seed(seed)
        mean, std, *_ = statistics(Multi(32, preset="authors_code").level_map(authors_input()))
        assert 0.53 <= mean <= 0.57
        assert 0.04 <= std <= 0.08


def test_channel_gates_by_hand():
    x = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).reshape(1, 2, 1, 2)  # means 2 and 6
    layer = ChannelSE(2)
    with torch.no_grad():
        layer.gate.squeeze.weight.copy_(torch.tensor([[1.0, -0.5]]))  # 2 - 3 = -1, and ReLU gives 0
        layer.gate.excite.weight.fill_(9.0)
        layer.gate.excite.bias.copy_(torch.tensor([0.0, math.log(3)]))  # gates 1/2 and 3/4
    assert layer(x).flatten().tolist() == pytest.approx([0.5, 1.5, 3.75, 5.25])
    spatial = SpatialChannelSE(2)
    with torch.no_grad():
        spatial.gate.load_state_dict(layer.gate.state_dict())
        spatial.spatial.weight.zero_()
        spatial.spatial.bias.fill_(math.log(1.5))  # pixel gate 3/5, between the two channel gates
    assert spatial(x).flatten().tolist() == pytest.approx([0.6, 1.8, 3.75, 5.25])


def test_multi_paper_form_by_hand():
    """One pixel value, two levels: softmax of two squared distances, a weighted sum, sigmoid, all by math."""
    layer = Multi(1, num_levels=2).double()
    with torch.no_grad():
        layer.centres.copy_(torch.tensor([[1.5, 2.5]]))
        layer.raw_precisions.copy_(torch.tensor([[-1.0, 2.0]]))
        layer.phi.weight.copy_(torch.tensor([[0.7, -0.4]]))
        layer.phi.bias.fill_(0.1)
    alpha = torch.full((1, 1, 1, 1), 2.2, dtype=torch.float64)
    e = [math.exp(-1 * 0.7**2), math.exp(-4 * 0.3**2)]
    p = [value / sum(e) for value in e]
    assert layer.memberships(alpha).flatten().tolist() == pytest.approx(p)
    expected = 1 / (1 + math.exp(-max(0, 0.7 * p[0] - 0.4 * p[1] + 0.1)))
    assert layer.response(layer.memberships(alpha)).item() == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["authors", "dct2"])
def test_fca_coefficients(mode):
    """The authors' basis by its definition; the DCT-II against SciPy."""
    x = maps(2, 32, 7, 10)
    got = FCA(32, fca_mode=mode).coefficients(x).numpy()
    i, j = np.arange(7)[:, None], np.arange(10)[None]
    expected = np.empty((2, 32))
    for channel in range(32):
        u, v = divmod(channel // 2, 4)
        plane = x[:, channel].numpy()
        if mode == "authors":
            basis = np.cos(np.pi * i * (u + 0.5) / 7) * np.cos(np.pi * j * (v + 0.5) / 10)
            expected[:, channel] = (plane * basis).sum((1, 2))
        else:
            expected[:, channel] = dctn(plane, axes=(1, 2), norm="ortho")[:, u, v] / math.sqrt(70)
    assert got == pytest.approx(expected, abs=1e-12)
    if mode == "dct2":
        assert got[:, :2] == pytest.approx(x[:, :2].mean((2, 3)).numpy())


# -- properties ----------------------------------------------------------------------------------------------------


def test_p17_channel_permutation():
    x, order = maps(2, 32, 12, 12), torch.randperm(32, generator=torch.Generator().manual_seed(0))
    for name, equivariant in [("srm", True), ("multi", True), ("cse", False), ("scse", False), ("mono", False)]:
        layer = build(name, 32, preset="authors_code").train()
        same = torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-12)
        assert same == equivariant, name
        if not equivariant:  # with the weights permuted as well it is
            permuted = build(name, 32, preset="authors_code").train()
            permuted.load_state_dict(layer.state_dict())
            with torch.no_grad():
                permuted.gate.squeeze.weight.copy_(layer.gate.squeeze.weight[:, order])
                permuted.gate.excite.weight.copy_(layer.gate.excite.weight[order])
                if name == "scse":
                    permuted.spatial.weight.copy_(layer.spatial.weight[:, order])
            assert torch.allclose(permuted(x[:, order]), layer(x)[:, order], atol=1e-12), name
    alpha = local_exponent(rescale(x))
    assert torch.equal(local_exponent(rescale(x[:, order])), alpha[:, order])
    fca = FCA(32)
    assert (fca.coefficients(x[:, order]) - fca.coefficients(x)[:, order]).abs().max() > 1


@pytest.mark.parametrize("name", ["mono", "multi"])
def test_p18_batch_dependence(name):
    x = maps(3, 16, 14, 14)
    louder = torch.cat([4 * x[:1], x[1:]])
    by_batch, by_sample = (build(name, minmax=over).eval() for over in ("batch", "sample"))
    assert (by_batch(louder)[1:] - by_batch(x)[1:]).abs().max() > 1e-3
    assert torch.allclose(by_sample(louder)[1:], by_sample(x)[1:], atol=1e-12)
    assert torch.allclose(by_sample(x)[1:2], by_sample(x[1:2]), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(levels=st.integers(1, 20), seed=st.integers(0, 99), per_channel=st.booleans())
def test_p19_memberships_sum_to_one(levels, seed, per_channel):
    layer = build("multi", 2, num_levels=levels, per_channel=per_channel, seed=seed)
    nn.init.normal_(layer.raw_precisions)
    p = layer.memberships(6 * torch.rand(1, 2, 3, 3, dtype=torch.float64))
    assert p.shape == (1, 2, 3, 3, levels)
    assert p.min() >= 0
    assert torch.allclose(p.sum(-1), torch.ones(1, 2, 3, 3, dtype=torch.float64), atol=1e-12)


def test_p19_memberships_in_their_limits():
    alpha = 6 * torch.rand(1, 1, 5, 5, dtype=torch.float64)
    layer = build("multi", 1, num_levels=4)
    with torch.no_grad():
        layer.raw_precisions.zero_()
        assert torch.allclose(layer.memberships(alpha), torch.tensor(0.25, dtype=torch.float64))
        layer.raw_precisions.fill_(1e4)
        nearest = (alpha[..., None] - layer.centres[0]).abs().argmin(-1)
        assert torch.equal(layer.memberships(alpha).argmax(-1), nearest)
        assert layer.memberships(alpha).amax(-1).min() > 0.999
        layer.raw_precisions.fill_(1.3)
        layer.centres.fill_(2.0)
        assert torch.allclose(layer.memberships(alpha), torch.tensor(0.25, dtype=torch.float64))


@pytest.mark.parametrize(("phi", "relu"), itertools.product(("linear", "bn"), ("after_sum", "per_q")))
def test_p20_what_multi_adds_lies_between_a_half_and_one(phi, relu):
    x = maps(2, 4, 15, 15)
    layer = build("multi", 4, phi=phi, relu=relu)
    for parameter in layer.phi.parameters():
        nn.init.normal_(parameter)
    added = layer(x) - x
    assert added.min() >= 0.5 - 1e-12
    assert added.max() < 1


def test_p20_uniform_phi_gives_a_constant():
    x, layer = maps(2, 4, 15, 15), build("multi", 4)
    nn.init.constant_(layer.phi.weight, 0.37)
    assert statistics(layer(x) - x)[1] < 1e-12
    fresh = build("multi", 4, preset="authors_code").eval()
    expected = 1 / (1 + math.exp(-1 / math.sqrt(1.001)))
    assert expected == pytest.approx(0.730962, abs=2e-6)  # measured in float32 on the authors' code
    assert torch.allclose(fresh(x) - x, torch.full_like(x, expected), atol=1e-12)


@pytest.mark.parametrize(("precision", "dead"), [("relu", True), ("square", False), ("softplus", False)])
def test_p21_dead_level_sets(precision, dead):
    layer = build("multi", 4, preset="authors_code", precision=precision, num_levels=4)
    with torch.no_grad():
        layer.centres.copy_(torch.tensor([[-1.0, 0.0, 0.5, 1.0]]))
        layer.raw_precisions.copy_(torch.tensor([[-0.8, 0.7, -0.3, 0.4]]))
    (layer(maps(2, 4, 16, 16)) ** 2).sum().backward()
    negative = torch.tensor([True, False, True, False])
    for gradient in (layer.centres.grad[0], layer.raw_precisions.grad[0]):
        assert (gradient[~negative] != 0).all()
        assert ((gradient[negative] == 0) == dead).all()


@pytest.mark.parametrize("training", [True, False])
def test_p22_mean_of_batch_normed_exponents(training):
    """`pooled` equals the mean of the batch-normed map, in value, gradient and running statistics."""
    x = maps(3, 4, 15, 13)
    one, other = Exponent(4, batch_norm=True).double(), Exponent(4, batch_norm=True).double()
    for layer in (one, other):
        with torch.no_grad():
            layer.norm.weight.copy_(torch.linspace(0.5, 2, 4))
            layer.norm.bias.copy_(torch.linspace(-1, 1, 4))
            layer.norm.running_mean.fill_(1.9)
            layer.norm.running_var.fill_(0.3)
    x_one, x_other = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = one.train(training).pooled(x_one), other.train(training)(x_other).mean((2, 3))
    assert torch.allclose(a, b, atol=1e-12)
    upstream = maps(3, 4, seed=3)
    a.backward(upstream), b.backward(upstream)
    assert torch.allclose(x_one.grad, x_other.grad, atol=1e-10)
    for key, value in one.state_dict().items():
        assert torch.allclose(value.double(), other.state_dict()[key].double(), atol=1e-12), key


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("cse", {}, 1072),
        ("scse", {}, 1105),
        ("srm", {}, 66),
        ("srm", {"preset": "corrected"}, 128),
        ("fca", {}, 1072),
        ("mono", {}, 1072),
        ("mono", {"preset": "authors_code"}, 1136),
        ("multi", {}, 49),
        ("multi", {"preset": "authors_code"}, 131),
        ("multi", {"preset": "authors_code", "per_channel": True}, 1123),
        ("none", {}, 0),
    ],
)
def test_p23_parameters_of_a_layer(name, settings, expected):
    assert count(recalibration(name, 32, **settings)) == expected


# -- where paper and authors' code differ --------------------------------------------------------------------------


def test_difference_01_relu_of_multi_stands_after_or_before_the_sum():
    p = torch.tensor([[[[[0.9, 0.1]]]]], dtype=torch.float64)
    sums = {}
    for relu in ("after_sum", "per_q"):
        layer = build("multi", 1, num_levels=2, relu=relu)
        with torch.no_grad():
            layer.phi.weight.copy_(torch.tensor([[1.0, -4.0]]))
            layer.phi.bias.zero_()
        sums[relu] = torch.logit(layer.response(p)).item()
    assert sums == pytest.approx({"after_sum": 0.5, "per_q": 0.9})
    assert PRESETS["multi"]["paper"]["relu"] == "after_sum"
    assert PRESETS["multi"]["authors_code"]["relu"] == "per_q"


def test_difference_02_phi_is_a_linear_map_or_batch_norm():
    paper, code = (build("multi", 4, preset=preset) for preset in ("paper", "authors_code"))
    assert isinstance(paper.phi, nn.Linear)
    assert isinstance(code.phi, nn.BatchNorm1d)
    assert (code.phi.eps, code.phi.momentum) == (BN_EPS, 0.01)
    x = maps(1, 4, 12, 12)
    assert statistics(paper.eval().level_map(x))[1] > 1e-4
    assert statistics(code.eval().level_map(x))[1] < 1e-12  # P20: a constant until the norm has learned


def test_difference_03_half_of_the_authors_precisions_start_dead():
    torch.manual_seed(0)
    dead = [int((Multi(32, preset="authors_code").precisions() == 0).sum()) for _ in range(50)]
    assert np.mean(dead) == pytest.approx(8, abs=1)  # of 16; standard error .3
    assert (Multi(32).precisions() == 1).all()
    corrected = Multi(32, preset="corrected").precisions()
    assert torch.allclose(corrected, torch.ones_like(corrected))


def test_difference_04_slope_inside_multi():
    paper, code = (build("multi", 4, preset=preset) for preset in ("paper", "authors_code"))
    assert paper.exponent.slope_weights is None
    assert code.exponent.slope_weights.shape == (3,)
    with torch.no_grad():
        code.exponent.slope_weights.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    x = maps(1, 4, 12, 12)
    assert 1e-3 < (code.exponent.raw(x) - paper.exponent.raw(x)).abs().max() < 2


@pytest.mark.parametrize("name", ["mono", "multi"])
def test_difference_05_batch_norm_on_alpha(name):
    paper, code = (build(name, 32, preset=preset) for preset in ("paper", "authors_code"))
    assert paper.exponent.norm is None
    assert code.exponent.norm.eps == BN_EPS
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 32, 32, 32))).permute(0, 3, 1, 2)
    spread = [layer.exponent.pooled(x).std().item() for layer in (paper, code)]
    assert spread[0] < 0.003  # the raw mean exponent of noise hardly moves
    assert spread[1] > 3 * spread[0]


@pytest.mark.parametrize("name", ["mono", "multi"])
def test_difference_06_only_the_corrected_preset_ignores_batch_mates(name):
    x = maps(2, 16, 14, 14)
    for preset in ("paper", "authors_code", "corrected"):
        layer = build(name, preset=preset)
        layer.train()(x)  # so that running statistics have moved
        layer.eval()
        gap = (layer(x)[:1] - layer(x[:1])).abs().max()
        assert (gap < 1e-12) == (preset == "corrected"), preset


def test_difference_07_epsilon_does_nothing_to_a_rescaled_map():
    x = rescale(maps(1, 2, 16, 16))
    assert torch.allclose(local_exponent(x, eps=0), local_exponent(x, eps=1e-7), atol=1e-7)


def test_difference_08_both_presets_add():
    assert {PRESETS["multi"][preset]["combine"] for preset in PRESETS["multi"]} == {"sum"}
    x = maps(1, 4, 12, 12)
    h = build("multi", 4).level_map(x)
    for combine, expected in (("sum", x + h), ("product", x * h), ("residual_product", x * (1 + h))):
        assert torch.allclose(build("multi", 4, combine=combine)(x), expected)


def test_difference_09_multi_is_no_channel_attention():
    x = maps(1, 4, 12, 12)
    mono, multi = build("mono", 4), build("multi", 4)
    assert mono.excitation(x).shape == (1, 4)
    assert not hasattr(multi, "excitation")
    assert multi.level_map(x)[0, 0].unique().numel() > 20


def test_difference_10_pairs_of_srm():
    assert SRM(32).style.shape == SRM(32, preset="authors_code").style.shape == (1, 2)
    assert SRM(32, preset="corrected").style.shape == (32, 2)


def test_difference_11_descriptor_of_fca_grows_with_the_map():
    x = 0.5 + maps(1, 16, 12, 12)
    larger = x.repeat_interleave(4, -1).repeat_interleave(4, -2)  # the same picture, finer
    authors, corrected = FCA(16), FCA(16, preset="corrected")
    growth = authors.coefficients(larger)[0, 0] / authors.coefficients(x)[0, 0]
    assert growth.item() == pytest.approx(16, rel=0.2)
    assert torch.allclose(corrected.coefficients(larger)[0, 0], corrected.coefficients(x)[0, 0])


def test_difference_12_batch_norm_in_the_network_is_off():
    from medrepro.multifractal.segmenter import UNet

    kinds = [sum(isinstance(m, nn.BatchNorm2d) for m in UNet((4, 8), with_bn=on).modules()) for on in (False, True)]
    assert kinds == [0, 6]


def test_difference_13_reduction_of_fca_is_read():
    assert FCA(16, reduction=4).gate.squeeze.out_features == 4
    assert FCA(16).gate.squeeze.out_features == 8


# -- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "switches"), [(name, {"preset": preset}) for name, preset in ALL] + SWITCHES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_hold_against_finite_differences(name, switches, training):
    """Of the input and of every parameter, in float64; 16 channels on 5 x 6 pixels, larger boxes than the map."""
    small = name == "multi" or (name == "mono" and "reduction" not in switches)
    channels = 2 if small or name in ("cse", "scse", "srm") else 16
    channels = 4 if switches.get("reduction") == 4 else channels
    literal = {"num_levels": 3, "form": "literal"} if name == "multi" else {}  # a table has a kink at every point
    layer = build(name, channels, **literal, **switches).train(training)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = (0.1 + torch.rand(2, channels, 5, 6, dtype=torch.float64)).requires_grad_()
    names = [key for key, _ in layer.named_parameters()]

    def response(x: Tensor, *parameters: Tensor) -> Tensor:
        buffers = {key: value.clone() for key, value in layer.named_buffers()}  # running statistics start afresh
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)) | buffers, (x,))

    parameters = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(response, (x, *parameters), fast_mode=True)


# -- the table and the literal form --------------------------------------------------------------------------------

MULTI = [{"preset": preset} for preset in ("paper", "authors_code", "corrected")]
MULTI += [switches for name, switches in SWITCHES if name == "multi" and "per_channel" not in switches]


@pytest.mark.parametrize("switches", MULTI, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_table_equals_the_literal_form(switches, training, monkeypatch):
    """Values to 1e-7 and gradients to 1e-3 where H~ is smooth: step^2 / 8 is 2e-8, and a chord's slope is off by a step.

    Batch statistics make steep levels, and a ReLU has its kink inside some step: values then agree to 1e-4, and single
    pixels in that step decide a gradient. On a grid so fine that no pixel is left there, gradients agree to 1e-4 again.
    """
    kinked = training and (switches.get("phi") == "bn" or switches.get("preset") == "authors_code")
    compare_forms(switches, training, value=1e-4 if kinked else 1e-7, gradient=math.inf if kinked else 1e-3)
    if kinked:
        monkeypatch.setattr("medrepro.multifractal.multi.POINTS", 1 << 18)
        compare_forms(switches, training, value=1e-8, gradient=1e-4)


def compare_forms(switches: dict, training: bool, *, value: float, gradient: float) -> None:
    """Outputs to `value`, gradients to `gradient` of their norm, running statistics to 1e-6."""
    x, upstream = 3 * maps(2, 6, 21, 18), maps(2, 6, 21, 18, seed=9) - 0.4
    results = []
    for form in ("table", "literal"):
        layer = build("multi", 6, form=form, **switches).train(training)
        with torch.no_grad():
            layer.centres.copy_(torch.linspace(-0.5, 3, 16).expand_as(layer.centres))
            layer.raw_precisions.copy_(torch.linspace(-0.5, 1.5, 16).expand_as(layer.centres))
            layer.phi.weight.add_(torch.linspace(-0.5, 0.9, 16))
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        gradients = torch.autograd.grad(out, (leaf, *layer.parameters()), upstream, materialize_grads=True)
        results.append((out, gradients, dict(layer.named_buffers())))
    (table, ours, kept), (literal, theirs, kept_literally) = results
    assert torch.allclose(table, literal, atol=value, rtol=0)
    largest = max(other.norm() for other in theirs[1:])
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= gradient * max(other.norm(), 0.1 * largest)
    for key, value in kept.items():
        assert torch.allclose(value.double(), kept_literally[key].double(), atol=1e-6), key


def test_tables_own_gradients_hold_against_finite_differences():
    """On a grid that stays where it is, away from its points."""
    alpha = (torch.rand(2, 2, 3, 4, dtype=torch.float64) * 0.8 + 0.1 + torch.arange(4)).requires_grad_()
    table = torch.randn(6, dtype=torch.float64, requires_grad=True)
    low, step = torch.tensor(-0.5, dtype=torch.float64), torch.tensor(1.03, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, t: interpolate(a, t, low, step), (alpha, table))
    assert torch.autograd.gradcheck(lambda a: soft_counts(a, low, step, points=6) ** 2, alpha)
    counts = soft_counts(alpha, low, step, points=6)
    assert counts.sum().item() == pytest.approx(alpha.numel())
    assert (counts @ table).item() == pytest.approx(interpolate(alpha, table, low, step).sum().item())


def test_per_channel_levels_use_the_literal_form():
    assert Multi(4).form == Multi(4, preset="authors_code", form="table").form == "table"
    assert Multi(4, preset="authors_code").form == "literal"
    assert Multi(4, per_channel=True).form == "literal"


# -- contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_contract(name, preset):
    torch.manual_seed(0)
    layer = recalibration(name, 16, preset=preset)
    for shape in ((2, 16, 12, 12), (1, 16, 7, 9), (3, 16, 1, 5)):
        x = maps(*shape, dtype=torch.float32).requires_grad_()
        out = layer(x)
        assert out.shape == x.shape
        out.square().mean().backward()
        assert torch.isfinite(x.grad).all()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    layer.eval()
    x = maps(2, 16, 9, 9, dtype=torch.float32)
    again = recalibration(name, 16, preset=preset).eval()
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))
    for dtype in (torch.bfloat16, torch.float32):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = layer(x.to(dtype))
        assert low.dtype == dtype
        # 4e-2: bfloat16 keeps 8 bits of a response around 4; a saturated gate of FCA moves with them
        assert (low.float() - layer(x.to(dtype).float())).abs().max() < 4e-2
    out = layer(x.permute(0, 1, 3, 2))  # not contiguous
    assert torch.allclose(out, layer(x.permute(0, 1, 3, 2).contiguous()), atol=1e-6)


def test_vector_batch_norm_takes_the_biased_variance():
    x, norm = maps(16, 3, dtype=torch.float32), VectorBatchNorm(3, eps=BN_EPS, momentum=0.01)
    assert torch.allclose(norm(x), F.batch_norm(x, None, None, training=True, eps=BN_EPS), atol=1e-5)
    assert torch.allclose(norm.running_var, 0.99 + 0.01 * x.var(0, correction=0))
    assert torch.allclose(norm.running_mean, 0.01 * x.mean(0))
    assert torch.equal(norm(x[:1]), torch.zeros(1, 3))
    norm.eval()
    assert torch.allclose(norm(x), nn.BatchNorm1d.forward(norm, x), atol=1e-6)


def test_starts_are_those_that_are_documented():
    torch.manual_seed(0)
    layer = Multi(8, preset="authors_code")
    assert layer.centres.abs().max() <= 0.05
    assert layer.raw_precisions.abs().max() <= 0.05
    paper = Multi(8)
    assert torch.allclose(paper.centres[0], torch.linspace(1, 3, 16))
    assert paper.phi.bias.item() == 0.5
    gate = Mono(32).gate
    assert gate.squeeze.weight.abs().max() <= math.sqrt(6 / 48)
    assert gate.squeeze.weight.std().item() == pytest.approx(math.sqrt(6 / 48 / 3), rel=0.1)
    assert gate.excite.bias.abs().max() == 0


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: recalibration("se", 16),
            "recalibration='se' is unknown; known: none, cse, scse, srm, fca, mono, multi",
        ),
        (
            lambda: recalibration("mono", 16, preset="v1"),
            "preset='v1' is unknown; known: paper, authors_code, corrected",
        ),
        (lambda: recalibration("none", 16, preset="v1"), "preset='v1' is unknown"),
        (lambda: recalibration("cse", 16, q=3), "'cse' has no switch 'q'; it has: reduction"),
        (lambda: recalibration("none", 16, q=3), "it has: none"),
        (lambda: Multi(16, phi="mlp"), "phi='mlp' is unknown; known: linear, bn"),
        (lambda: Multi(16, precision="exp"), "precision='exp' is unknown"),
        (lambda: Multi(16, form="fast"), "form='fast' is unknown; known: table, literal"),
        (lambda: Multi(16, num_levels=0), "at least 1, got 0"),
        (lambda: Mono(16, combine="max"), "combine='max' is unknown; known: sum, product, residual_product"),
        (lambda: Mono(16, minmax="image"), "minmax='image' is unknown; known: batch, sample, none"),
        (lambda: Mono(16, max_scale=6), "power of two, at least 4, got 6"),
        (lambda: Mono(16, max_scale=4, scales=(2, 6)), "not both"),
        (lambda: ChannelSE(5), "reduction=2 does not divide 5 channels"),
        (lambda: FCA(24), "24 is not divisible by 16"),
        (lambda: FCA(16, size=(8, 8))(torch.ones(1, 16, 8, 9)), r"built for maps of \(8, 8\), got \(8, 9\)"),
        (lambda: ChannelSE(4)(torch.ones(1, 6, 8, 8)), "expected 4 channels, got 6"),
        (lambda: Multi(4)(torch.ones(1, 6, 8, 8)), "expected 4 channels, got 6"),
        (lambda: Multi(4)(torch.ones(4, 8, 8)), r"shape \(B, C, H, W\)"),
    ],
)
def test_faults_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fca_of_eight_channels_takes_the_first_eight_frequencies():
    x = torch.rand(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    wide = torch.zeros(2, 16, 6, 6)
    wide[:, :8] = x
    assert torch.allclose(FCA(8).coefficients(x), FCA(16).coefficients(wide)[:, :8], atol=1e-5)  # sums of 36 in float32


def test_small_maps_take_the_exact_form(monkeypatch):
    monkeypatch.undo()  # the threshold as it is
    x = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    table, literal = Multi(4, form="table").eval(), Multi(4, form="literal").eval()
    literal.load_state_dict(table.state_dict())
    assert x.numel() <= Multi.table_from
    assert torch.allclose(table(x), literal(x), atol=1e-6)  # the same numbers, added in another order
