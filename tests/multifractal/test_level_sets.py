"""Multi's response without an axis of level sets: exact in blocks, and from a table within its stated error."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medrepro.multifractal import level_sets
from medrepro.multifractal.level_sets import Levels, response
from medrepro.multifractal.level_table import POINTS, grid_of, interpolate
from medrepro.multifractal.literal import Literal, literal_rescale, with_literal_layers
from medrepro.multifractal.measure import rescale
from medrepro.multifractal.multi import Multi
from medrepro.multifractal.presets import combined
from medrepro.multifractal.recalibration import ChannelSE, recalibration
from medrepro.multifractal.segmenter import UNet

PHI = [(phi, relu) for phi in ("linear", "bn") for relu in ("after_sum", "per_q")]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def spread_out(layer: Multi) -> Multi:
    """Level sets of all widths, some of them dead, and weights of both signs: every ReLU is open for some pixels only."""
    with torch.no_grad():
        layer.centres.copy_(torch.linspace(-1.5, 3, layer.num_levels))
        layer.raw_precisions.copy_(torch.linspace(-0.5, 1.5, layer.num_levels))
        layer.phi.weight.copy_(torch.linspace(-1.5, 1.9, layer.num_levels))
    return layer


def both_forms(x: Tensor, training: bool, **switches) -> list[tuple[Tensor, list[Tensor], dict[str, Tensor]]]:
    """Output, gradients and running statistics, exact in blocks and literal."""
    made = []
    for form in ("table", "literal"):
        torch.manual_seed(0)
        layer = spread_out(Multi(x.shape[1], form=form, **switches)).double().train(training)
        layer.table_from = math.inf
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        gradients = torch.autograd.grad(
            out, (leaf, *layer.parameters()), draw(*x.shape, seed=3), materialize_grads=True
        )
        made.append((out, list(gradients), dict(layer.named_buffers())))
    return made


@pytest.mark.parametrize(("block", "kept"), [(1 << 18, 1 << 20), (16 * 50, 1 << 20), (16 * 50, 0), (1, 0)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("phi", "relu"), PHI)
def test_blocks_give_what_the_axis_of_level_sets_gives(phi, relu, training, block, kept, monkeypatch):
    """1e-10: float64, the same sums in another order; whatever the size of a block, and kept or made again."""
    monkeypatch.setattr(level_sets, "BLOCK", block)
    monkeypatch.setattr(level_sets, "KEPT", kept)
    shape = (2, 3, 4, 5) if block == 1 else (2, 3, 9, 11)
    (ours, gradients, buffers), (literal, expected, theirs) = both_forms(
        draw(*shape).relu(), training, phi=phi, relu=relu
    )
    assert torch.allclose(ours, literal, atol=1e-12)
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10 * max(1, other.abs().max().item()), rtol=1e-8)
    for key, value in buffers.items():
        assert torch.allclose(value.double(), theirs[key].double(), atol=1e-12), key


@pytest.mark.parametrize("preset", ["paper", "authors_code", "corrected"])
def test_presets_agree_in_float32(preset):
    """1e-5 of the output, 1e-3 of the gradients' norm: what the benchmark asks of the forms that it compares."""
    x = draw(4, 8, 20, 20).relu().float()
    layer = spread_out(Multi(8, preset=preset, form="table"))
    upstream = draw(*x.shape, seed=3).float()
    results = []
    for form in (layer, Literal(layer)):
        leaf = x.clone().requires_grad_()
        out = form(leaf)
        results.append((out, torch.autograd.grad(out, (leaf, *layer.parameters()), upstream)))
    (ours, gradients), (literal, expected) = results
    assert torch.allclose(ours, literal, atol=1e-5)
    largest = max(other.norm() for other in expected)
    for one, other in zip(gradients, expected, strict=True):
        assert (one - other).norm() <= 1e-3 * max(other.norm(), 0.01 * largest)


def test_a_value_that_occurs_twice_counts_twice():
    """Counts on distinct values are what repeated values are: same response, moments, and gradients of the levels."""
    values, counts = torch.tensor([0.3, 1.1, 2.0]).double(), torch.tensor([2.0, 1.0, 3.0]).double()
    repeated = values.repeat_interleave(counts.long())
    gradients = []
    for alpha, how_often in ((values, counts), (repeated, None)):
        parts = [draw(4, seed=seed).abs().requires_grad_() for seed in range(4)]
        h, mean, variance = response(alpha, Levels(*parts), per_q=True, eps=1e-3, counts=how_often, total=6)
        weighted = (h * (counts if how_often is not None else 1) * alpha).sum()
        gradients.append((mean, variance, *torch.autograd.grad(weighted, parts)))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_gradient_of_the_counts_holds_against_finite_differences():
    """Counts always add up to the number of pixels, here 7."""
    alpha, counts = draw(5).abs().requires_grad_(), (draw(5, seed=1).abs() + 0.5).requires_grad_()
    parts = [draw(3, seed=seed).abs().requires_grad_() for seed in range(4)]
    for per_q in (True, False):
        assert torch.autograd.gradcheck(
            lambda alpha, counts, *parts, per_q=per_q: response(
                alpha, Levels(*parts), per_q=per_q, eps=1e-3, counts=7 * counts / counts.sum(), total=7
            )[0],
            (alpha, counts, *parts),
        )


def test_far_values_belong_to_the_nearest_level():
    """exp(-s^2 d^2) of every level is 0 in float32 here: without the largest taken off first, shares would be 0 / 0."""
    one = torch.ones(2)
    levels = Levels(torch.tensor([0.0, 1.0]), 100 * one, torch.tensor([0.0, 2.0]), 0 * one)
    h, *_ = response(torch.tensor([-50.0, 50.0]), levels, per_q=False)
    assert h.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])


# -- the stated error of the table ---------------------------------------------------------------------------------


def interpolated(function, points: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Error of value and slope at random places of [0, 6], the places, and the step."""
    alpha = (
        6 * torch.rand(1, 1, 50, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).requires_grad_()
    low, step = grid_of(alpha, bounds=(0.0, 6.0), points=points)
    grid = low + step * torch.arange(points)
    [slope] = torch.autograd.grad(function(alpha).sum(), alpha)
    values = interpolate(alpha, function(grid), low, step)
    [ours] = torch.autograd.grad(values.sum(), alpha)
    return (values - function(alpha)).abs().detach(), (ours - slope).abs(), alpha.detach(), step.item()


@pytest.mark.parametrize("points", [64, 1024, POINTS])
def test_error_of_the_table_is_an_eighth_of_curvature_and_squared_step(points):
    """g = sin 3a: |g''| <= 9. The bound is met, and met closely: the largest error is above nine tenths of it."""
    error, of_slope, _, step = interpolated(lambda a: torch.sin(3 * a), points)
    assert error.max() <= 9 * step**2 / 8 + 1e-12
    assert error.max() >= 0.9 * 9 * step**2 / 8
    assert of_slope.max() <= 9 * step / 2 + 1e-9


def test_error_of_the_table_at_a_kink_is_a_quarter_step_times_the_change_of_slope():
    kink = 2.0 + 1e-3
    error, of_slope, alpha, step = interpolated(lambda a: 1.5 * (a - kink).relu(), 64)
    inside = (alpha / step).floor() == math.floor(kink / step)
    assert inside.any()
    assert error.max() <= 1.5 * step / 4
    assert error[~inside].max() < 1e-12
    assert of_slope[~inside].max() < 1e-9
    assert of_slope.max() <= 1.5


@pytest.mark.parametrize("seed", range(3))
def test_error_of_the_default_table_under_batch_norm(seed):
    """The authors' preset has a kink in every level: outputs within 1e-4, gradients within 1 % (input), 10 % (levels).

    Measured over four starts: outputs 2e-6 to 4e-5, gradient of the input .01 to .4 %, of the parameters up to 6.5 %,
    where sums of either sign nearly cancel.
    """
    x = draw(4, 8, 40, 40, seed=seed).relu()
    results = []
    for form in ("table", "literal"):
        torch.manual_seed(seed)
        layer = Multi(8, preset="authors_code", form=form).double()
        layer.table_from = 0
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        results.append((out, torch.autograd.grad(out, (leaf, *layer.parameters()), draw(*x.shape, seed=99))))
    (table, (to_x, *to_levels)), (literal, (expected, *to_parameters)) = results
    assert (table - literal).abs().max() < 1e-4
    assert (to_x - expected).norm() < 0.01 * expected.norm()
    for one, other in zip(to_levels, to_parameters, strict=True):
        assert (one - other).norm() < 0.1 * other.norm()


# -- what is kept, and the literal layers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "switches"), [("multi", {"form": "table"}), ("mono", {}), ("mono", {"preset": "authors_code"})]
)
def test_the_backward_pass_may_be_run_twice_and_input_may_not_be_changed_in_between(name, switches):
    torch.manual_seed(0)
    layer, x = recalibration(name, 4, **switches), torch.rand(2, 4, 12, 12)
    leaf = x.clone().requires_grad_()
    inner = leaf * 1
    out = layer(inner)
    first, second = (torch.autograd.grad(out.sum(), leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    with torch.no_grad():
        inner.mul_(2)
    with pytest.raises(RuntimeError, match="modified"):
        torch.autograd.grad(out.sum(), leaf)


@pytest.mark.parametrize("name", ["mono", "multi"])
def test_large_maps_keep_themselves_alone(name):
    """The map and a few numbers for each plane: no exponents, masses or level sets of pixels wait for the backward pass."""
    x, layer, kept = torch.rand(1, 8, 256, 256), recalibration(name, 8), {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer.exponent.pooled(x.requires_grad_()) if name == "mono" else layer(x.requires_grad_())
    table = POINTS * layer.num_levels * 8 if name == "multi" else 0  # the grid's memberships, in float64
    assert sum(kept.values()) - table < 1.3 * 4 * x.numel()


@pytest.mark.parametrize("over", ["batch", "sample", "none"])
def test_literal_rescaling(over):
    x = draw(2, 3, 5, 6)
    assert torch.allclose(literal_rescale(x, over=over), rescale(x, over=over), atol=1e-12)


@pytest.mark.parametrize("name", ["mono", "multi"])
@pytest.mark.parametrize("preset", ["paper", "authors_code", "corrected"])
def test_literal_layers_give_the_same_network(name, preset):
    torch.manual_seed(0)
    net = UNet((4, 8), recalibration=name, preset=preset).double().eval()
    image = draw(2, 3, 16, 16)
    expected = net(image)
    assert torch.allclose(with_literal_layers(net)(image), expected, atol=1e-10)


def test_only_mono_and_multi_have_a_literal_form():
    with pytest.raises(ValueError, match="only Mono and Multi have a literal form, got ChannelSE"):
        Literal(ChannelSE(4))


@pytest.mark.parametrize("loops_from", [0, math.inf])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("switches", [
    {}, {"combine": "product"}, {"combine": "residual_product"}, {"preset": "corrected"}, {"minmax": "none"},
    {"scales": (2, 8)}, {"slope": "weighted"}, {"padding": "reflect"},
    {"phi": "bn", "relu": "per_q"}, {"per_channel": True},
], ids=str)  # fmt: skip
def test_exponents_read_off_the_table_at_once_are_those_of_a_stored_map(switches, training, loops_from, monkeypatch):
    monkeypatch.setattr("medrepro.multifractal.exponent_gradients.LOOPS_FROM", loops_from)
    torch.manual_seed(3)
    layer = Multi(3, **switches).train(training)
    x = torch.randn(2, 3, 120, 100).relu() + 0.1
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    parameters = [p for p in layer.parameters() if p.requires_grad]
    upstream = torch.randn(x.shape)
    assert x.numel() > layer.table_from
    at_once, stored = layer(leaves[0]), combined(leaves[1], layer.level_map(leaves[1]), layer.combine)
    torch.testing.assert_close(at_once, stored, rtol=1e-5, atol=1e-5)
    ours, theirs = (
        torch.autograd.grad(out, (leaf, *parameters), upstream, allow_unused=True)
        for out, leaf in zip((at_once, stored), leaves, strict=True)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert (one - other).norm() <= 2e-3 * other.norm() + 1e-6


def test_maps_in_half_precision_or_another_order_in_memory_are_recalibrated_alike():
    layer, x = Multi(3), torch.rand(2, 3, 120, 100)
    wanted = layer(x)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), wanted)
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, layer(x.bfloat16().float()).bfloat16())
