"""Exponent maps: the checkable properties P1 to P16, then the fast form against the literal one.

Float64 throughout unless a test says otherwise, so that tolerances are those of the property and not of rounding.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from medrepro.data.phantoms import fractional_brownian_surface
from medrepro.multifractal.exponent import (
    Exponent,
    box_mass,
    literal_exponent,
    local_exponent,
    ols_slope,
    rescale,
    slope_coefficients,
)

PADDINGS = ("zero", "reflect", "circular")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).to(dtype)


def plane(size: int = 32) -> Tensor:
    return torch.zeros(1, 1, size, size, dtype=torch.float64)


def exponent(x: Tensor, **settings) -> Tensor:
    return local_exponent(rescale(x), **settings)


def half_log2(ratio: float) -> float:
    return 0.5 * math.log2(ratio)


def cascade(p: float, n: int) -> np.ndarray:
    """2-D binomial product measure of 2^n pixels a side."""
    step, mass = np.outer([p, 1 - p], [p, 1 - p]), np.ones((1, 1))
    for _ in range(n):
        mass = np.kron(mass, step)
    return mass


def dyadic_boxes(mass: np.ndarray, side: int) -> np.ndarray:
    """The aligned boxes of one side, picked out of the sliding ones."""
    start = (side - 1) // 2
    return box_mass(torch.from_numpy(mass)[None, None], side)[0, 0, start::side, start::side].numpy()


# -- the properties ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.3, 1.0, 7.0])
def test_p01_constant_image_interior_is_two(value):
    flat = torch.full((1, 2, 24, 17), value, dtype=torch.float64)
    for alpha in (local_exponent(flat), exponent(flat)):
        assert torch.allclose(alpha[..., 3:-4, 3:-4], torch.tensor(2.0, dtype=torch.float64), atol=1e-6)


def test_p02_constant_image_border_pins_the_padding():
    for size, mean in ((32, 1.91964), (224, 1.98852)):
        alpha = local_exponent(torch.ones(1, 1, size, size, dtype=torch.float64))[0, 0]
        d = torch.zeros(size, dtype=torch.float64)
        d[:3] = 0.5 * torch.log2(torch.tensor([5 / 8, 6 / 8, 7 / 8], dtype=torch.float64))
        d[-4:-1] = d[:3].flip(0)
        assert torch.allclose(alpha, 2 + d[:, None] + d[None, :], atol=1e-6)
        corners = alpha[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.tolist() == pytest.approx([1.3219, 1.6610, 1.6610, 2.0], abs=5e-5)
        assert alpha.mean().item() == pytest.approx(mean, abs=5e-6)


def test_p03_line_has_exponent_one():
    x = plane()
    x[..., 16] = 1
    alpha = local_exponent(x)[0, 0, 16]
    assert alpha[[15, 16]].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert alpha[5].item() == pytest.approx(0, abs=1e-12)
    alpha = exponent(x)[0, 0, 16]
    assert alpha[[15, 16]].tolist() == pytest.approx([half_log2(2104 / 514)] * 2, abs=1e-6)
    assert half_log2(2104 / 514) == pytest.approx(1.016647, abs=5e-7)
    assert alpha[5].item() == pytest.approx(2, abs=1e-6)


def test_p04_point_has_exponent_zero():
    x = plane()
    x[..., 16, 16] = 1
    assert local_exponent(x)[0, 0, 15:17, 15:17].abs().max() < 1e-6
    alpha = exponent(x)[0, 0]
    assert alpha[15:17, 15:17].flatten().tolist() == pytest.approx([0.150302] * 4, abs=1e-6)
    assert alpha[13, 16].item() == pytest.approx(3.1587, abs=5e-5)
    assert alpha[8, 8].item() == pytest.approx(2, abs=1e-6)


def test_p05_zero_mass_needs_the_rescale():
    x = plane()
    x[..., 16] = 1
    assert local_exponent(x)[0, 0, 16, 13].item() == pytest.approx(13.13, abs=5e-3)
    assert local_exponent(plane()).abs().max() == 0


def test_p06_step_edge_is_above_two_on_its_dark_side():
    x = plane()
    x[..., 16:] = 1
    expected = [2, 4.5195, 5.0084, 5.2972, 2, 1.6627, 1.7934, 1.9041, 2]
    assert exponent(x)[0, 0, 16, 11:20].tolist() == pytest.approx(expected, abs=5e-5)


def test_p07_bounds_of_a_rescaled_map():
    low, high = 2 + half_log2(1084 / 16384), 2 + half_log2(15364 / 64)
    assert (low, high) == pytest.approx((0.04107, 5.95363), abs=5e-6)
    for background, square, reached in ((0, 1, low), (1, 0, high)):
        x = plane() + background
        x[..., 16:18, 16:18] = square
        assert exponent(x)[0, 0, 16, 16].item() == pytest.approx(reached, abs=1e-6)
    alpha = exponent(noise(4, 3, 40, 40) ** 20)[..., 3:-4, 3:-4]
    assert low <= alpha.min()
    assert alpha.max() <= high


def test_p08_affine_invariance_and_what_it_says_of_the_gradient():
    x = noise(2, 3, 20, 20).requires_grad_()
    alpha = exponent(x)
    assert torch.allclose(exponent(3.7 * x - 11), alpha, atol=1e-12)
    assert (exponent(-x) - alpha).abs().max() > 0.1
    (alpha * noise(*x.shape, seed=1)).sum().backward()
    assert x.grad.sum((0, 2, 3)).abs().max() < 1e-11
    assert (x * x.grad).sum((0, 2, 3)).abs().max() < 1e-11


def test_p09_middle_scale_is_irrelevant_at_three_scales():
    assert slope_coefficients((2, 4, 8)).tolist() == [-0.5, 0.0, 0.5]
    assert slope_coefficients((2, 4)).tolist() == [-1.0, 1.0]
    assert slope_coefficients((2, 4, 8, 16)).tolist() == pytest.approx([-0.3, -0.1, 0.1, 0.3])
    assert slope_coefficients((2, 4, 8, 16, 32)).tolist() == pytest.approx([-0.2, -0.1, 0, 0.1, 0.2])
    y, t = noise(5, 3).requires_grad_(), torch.log(torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64))
    ols_slope(y, t).sum().backward()
    assert y.grad[:, 1].abs().max() < 1e-15
    x = noise(1, 1, 16, 16) + 1
    assert torch.allclose(local_exponent(x), local_exponent(x, scales=(2, 8)), atol=1e-14)
    assert (local_exponent(x, scales=(2, 4, 8, 16)) - local_exponent(x, scales=(2, 16))).abs().max() > 0.01
    w = torch.tensor([-0.4, 0.2, 0.9], dtype=torch.float64, requires_grad=True)
    (local_exponent(x, slope="weighted", weights=w.sigmoid()) ** 2).sum().backward()
    assert w.grad[1] == 0  # the middle weight of the authors' slope never learns
    assert w.grad[[0, 2]].abs().min() > 1e-3


def test_p10_flip_shifts_by_one_pixel():
    x = rescale(torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, 32, 32))))
    a, b = local_exponent(x), local_exponent(x.flip(-1))
    assert torch.allclose(b[..., :-1], a[..., :-1].flip(-1), atol=1e-12)
    assert (b - a.flip(-1)).abs().max() > 0.5


def test_p11_mean_is_at_least_two_on_a_torus():
    x = torch.from_numpy(np.random.default_rng(0).random((1, 1, 64, 64)))
    assert exponent(x, padding="circular").mean().item() == pytest.approx(2.031279, abs=1e-6)
    assert exponent(x).mean().item() == pytest.approx(1.991044, abs=1e-6)
    checkerboard = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64).repeat(8, 8)[None, None]
    assert torch.allclose(exponent(checkerboard, padding="circular"), torch.full_like(checkerboard, 2), atol=1e-9)


@pytest.mark.parametrize("p", [0.3, 0.4])
@pytest.mark.parametrize("q", [-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_p12_partition_function_of_a_cascade(p, q):
    n, sides = 7, np.array([2, 4, 8, 16])
    mass = cascade(p, n)
    log_z = [np.log2((dyadic_boxes(mass, int(side)) ** q).sum()) for side in sides]
    tau = -2 * np.log2(p**q + (1 - p) ** q)
    assert np.polyfit(np.log2(sides / 2**n), log_z, 1)[0] == pytest.approx(tau, abs=1e-6)
    published = {(0.3, -2.0): -7.434405, (0.3, 0.5): -0.938485, (0.3, 3.0): 2.868806, (0.4, 2.0): 1.886833}
    assert tau == pytest.approx(published.get((p, q), tau), abs=5e-7)


def test_p13_local_exponents_of_a_cascade():
    mass = cascade(0.3, 8)
    small = dyadic_boxes(mass, 2).reshape(32, 4, 32, 4).transpose(0, 2, 1, 3).reshape(32, 32, 16)
    slopes, counts = np.unique(np.round(0.5 * np.log2(dyadic_boxes(mass, 8)[..., None] / small), 6), return_counts=True)
    assert slopes.tolist() == pytest.approx([1.029146, 1.640343, 2.251539, 2.862735, 3.473931], abs=1e-6)
    assert (16 * counts / counts.sum()).tolist() == [1, 4, 6, 4, 1]
    raw = local_exponent(torch.from_numpy(mass)[None, None], eps=0.0)
    seen = [raw.mean().item(), raw.std(correction=0).item(), raw.min().item(), raw.max().item()]
    assert seen == pytest.approx([2.21705, 0.60917, 0.78958, 6.55378], abs=1e-5)
    flattened = exponent(torch.from_numpy(mass)[None, None])
    assert flattened.mean().item() == pytest.approx(2.02796, abs=1e-5)
    assert flattened.std(correction=0).item() == pytest.approx(0.23081, abs=1e-5)


def test_p14_fractional_surface_orders_only_the_spread():
    """Mean 2 whatever the roughness. 0.1 on the structure function: bias of the synthesis at both ends."""
    lags, hursts, means, spreads = np.array([2, 4, 8, 16, 32]), [], [], []
    for hurst in (0.2, 0.35, 0.5, 0.65, 0.8):
        surface = fractional_brownian_surface(512, hurst, 0, torus=1024)
        rises = [np.mean((surface[lag:] - surface[:-lag]) ** 2) for lag in lags]
        rises += [np.mean((surface[:, lag:] - surface[:, :-lag]) ** 2) for lag in lags]
        hursts.append(np.polyfit(np.log(np.tile(lags, 2)), np.log(rises), 1)[0] / 2)
        inside = exponent(torch.from_numpy(surface)[None, None].double())[..., 3:-4, 3:-4]
        means.append(inside.mean().item())
        spreads.append(inside.std().item())
    assert hursts == sorted(hursts)
    assert hursts == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8], abs=0.1)
    assert means == pytest.approx([2] * 5, abs=0.005)
    assert spreads == sorted(spreads, reverse=True)
    assert spreads == pytest.approx([0.0543, 0.0395, 0.0281, 0.0197, 0.0135], rel=0.25)  # one surface, not five


def test_p15_gradients_are_finite():
    tied = noise(2, 3, 12, 12, dtype=torch.float32).sub(0.7).relu()
    tied[:, 1] = 0.25
    for x in (torch.zeros(2, 3, 12, 12), tied):
        for over in ("batch", "sample"):
            leaf = x.clone().requires_grad_()
            (local_exponent(rescale(leaf, over=over)) ** 2).sum().backward()
            assert torch.isfinite(leaf.grad).all()
    leaf = torch.tensor([0.0, 0.0, 2.0, 3.0]).reshape(1, 1, 2, 2).requires_grad_()
    rescale(leaf)[0, 0, 1, 0].backward()  # d/dm at x = 2: 255 (x - M) / (M - m)^2, shared by two minima
    assert leaf.grad.flatten().tolist() == pytest.approx([-255 / 18, -255 / 18, 255 / 3, -255 * 2 / 9], rel=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8, 16])
def test_p16_transposed_box_sum_mirrors_the_padding(side):
    x, y = noise(1, 2, 9, 13).requires_grad_(), noise(1, 2, 9, 13, seed=1)
    (box_mass(x, side) * y).sum().backward()
    before, after = side // 2, (side - 1) // 2
    framed = torch.nn.functional.pad(y, (before, after, before, after))
    mirrored = torch.nn.functional.conv2d(framed.transpose(0, 1), y.new_ones(1, 1, side, side)).transpose(0, 1)
    assert torch.allclose(x.grad, mirrored, atol=1e-12)


# -- against the authors' code: statistics of its output -----------------------------------------------------------


@pytest.mark.parametrize(
    ("rectified", "tensor", "expected"),
    [
        (False, "rescaled", (128.544289, 38.170586, 1, 256)),
        (False, "box 2", (498.299959, 102.789718, 35.331211, 857.374329)),
        (False, "box 4", (1930.051873, 357.639344, 352.868042, 2937.862061)),
        (False, "box 8", (7230.205569, 1581.790704, 1426.821167, 10753.424805)),
        (False, "ols", (1.927070, 0.170860, 1.101157, 3.286660)),
        (False, "bn eval", (1.926108, 0.170775, 1.100607, 3.285018)),
        (False, "bn train", (0.0, 0.983192, -4.861193, 7.390622)),
        (False, "weighted", (1.921988, 0.167646, 1.135631, 3.170040)),
        (False, "pooled", (1.927070, 0.001782, 1.922982, 1.930908)),
        (True, "rescaled", (30.623039, 43.600552, 1, 256)),
        (True, "ols", (2.213426, 0.827327, 0.336581, 4.998116)),
        (True, "bn train", (0.0, 0.999264, -2.238735, 3.438181)),
        (True, "weighted", (2.176679, 0.738389, 0.376110, 4.911359)),
        (True, "pooled", (2.213426, 0.026600, 2.141949, 2.288198)),
    ],
)
def test_statistics_of_the_authors_tensors(rectified, tensor, expected):
    """Within 2e-5 of the values for exponents, 1e-6 relative for masses: float32 sums of up to 64 terms."""
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 32)).astype(np.float32)
    x = torch.from_numpy(np.maximum(x, 0) if rectified else x).permute(0, 3, 1, 2)
    raw = torch.tensor([-1.0, 0.0, 1.0])
    made = {
        "rescaled": lambda: rescale(x),
        "box 2": lambda: box_mass(rescale(x), 2),
        "box 4": lambda: box_mass(rescale(x), 4),
        "box 8": lambda: box_mass(rescale(x), 8),
        "ols": lambda: exponent(x),
        "bn eval": lambda: Exponent(32, batch_norm=True).eval()(x),
        "bn train": lambda: Exponent(32, batch_norm=True)(x),
        "weighted": lambda: exponent(x, slope="weighted", weights=raw.sigmoid()),
        "pooled": lambda: exponent(x).mean((2, 3)),
    }[tensor]().double()
    seen = (made.mean().item(), made.std(correction=0).item(), made.min().item(), made.max().item())
    assert seen == pytest.approx(expected, abs=2e-5, rel=1e-6)


# -- the fast form and the literal one -----------------------------------------------------------------------------


def agree(x: Tensor, *, atol: float, weights: Tensor | None = None, **settings) -> None:
    """Same value and same gradients from both forms."""
    upstream = noise(*x.shape, seed=7, dtype=x.dtype) - 0.5
    inputs = [x.requires_grad_()] + ([] if weights is None else [weights.requires_grad_()])
    both = [form(x, weights=weights, **settings) for form in (local_exponent, literal_exponent)]
    assert torch.allclose(*both, atol=atol)
    fast, literal = (torch.autograd.grad(alpha, inputs, upstream) for alpha in both)
    for ours, theirs in zip(fast, literal, strict=True):
        assert torch.allclose(ours, theirs, atol=atol, rtol=1e-4 if x.dtype == torch.float32 else 1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 19), st.integers(1, 19)),
    scales=st.sampled_from(
        [(2, 4, 8), (2, 4), (1, 2), (2, 4, 8, 16), (4, 8), (2, 8, 32), (3, 5, 7), (2, 3, 6), (1, 9)]
    ),
    slope=st.sampled_from(["ols", "weighted", "wls"]),
    padding=st.sampled_from(PADDINGS),
    seed=st.integers(0, 99),
)
def test_fast_form_equals_the_literal_form(shape, scales, slope, padding, seed):
    """1e-9: float64, both forms add the same numbers in another order."""
    smallest = {"zero": 1, "reflect": scales[-1] // 2 + 1, "circular": scales[-1] // 2}[padding]
    shape = (*shape[:2], max(shape[2], smallest), max(shape[3], smallest))
    weights = None if slope == "ols" else noise(len(scales), seed=seed) + 0.1
    agree(noise(*shape, seed=seed) + 0.1, atol=1e-9, weights=weights, scales=scales, slope=slope, padding=padding)


@pytest.mark.parametrize("padding", PADDINGS)
def test_fast_form_equals_the_literal_form_in_float32(padding):
    """1e-5: float32 sums of 64 terms, divided by log 2 at the end."""
    agree(noise(2, 4, 33, 30, dtype=torch.float32) * 255 + 1, atol=1e-5, padding=padding)


def both_ways(layer: Exponent, x: Tensor, upstream: Tensor, monkeypatch, *, pooled: bool) -> list[list[Tensor]]:
    """Output and gradients from compiled loops and from PyTorch."""
    made = []
    for least in (0, math.inf):
        monkeypatch.setattr("medrepro.multifractal.exponent_gradients.LOOPS_FROM", least)
        leaf = x.clone().requires_grad_()
        out = (layer.pooled if pooled else layer)(leaf)
        made.append([out, *torch.autograd.grad(out, (leaf, *layer.parameters()), upstream[: len(out)].view_as(out))])
    return made


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize("minmax", ["batch", "sample", "none"])
@pytest.mark.parametrize(
    ("scales", "slope"), [((2, 4, 8), "ols"), ((2, 4, 8), "wls"), ((1, 2), "ols"), ((4, 8, 16), "weighted")]
)
def test_compiled_loops_give_what_pytorch_gives(scales, slope, minmax, padding, pooled, monkeypatch):
    """2e-5 of the norm: float32 sums of 256 terms; on this seed no map has a gradient that cancels."""
    torch.manual_seed(1)
    layer = Exponent(3, scales=scales, slope=slope, minmax=minmax, padding=padding, batch_norm=True)
    x = (noise(2, 3, 21, 18, dtype=torch.float32) - (0 if minmax == "none" else 0.5)).relu() + 0.1
    upstream = noise(2, 3, *((1, 1) if pooled else x.shape[2:]), seed=2, dtype=torch.float32)
    for ours, theirs in zip(*both_ways(layer, x, upstream, monkeypatch, pooled=pooled), strict=True):
        assert (ours - theirs).norm() <= 2e-5 * theirs.norm() + 1e-5


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_compiled_loops_hide_no_number_that_is_none(value, monkeypatch):
    x = noise(1, 1, 24, 20, dtype=torch.float32) + 0.1
    x[..., :12, :] = value
    both = []
    for least in (0, math.inf):
        monkeypatch.setattr("medrepro.multifractal.exponent_gradients.LOOPS_FROM", least)
        both.append(local_exponent(x, eps=0.0))
    torch.testing.assert_close(*both, equal_nan=True, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_maps_in_parts_on_threads(threads, monkeypatch):
    x = noise(2, 2, 300, 310, dtype=torch.float32) + 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        agree(x, atol=2e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("error")  # of a buffer that is too small
@pytest.mark.parametrize("minmax", ["batch", "sample"])
@pytest.mark.parametrize("elements", [1, 700])
def test_the_size_of_a_block_changes_nothing(elements, minmax, monkeypatch):
    """In double precision, which goes through PyTorch: extremes are looked for, and their ties counted, in blocks."""
    layer, upstream, made = Exponent(minmax=minmax), noise(3, 5, 17, 12, seed=1), []
    for size in (10**9, elements):
        monkeypatch.setattr("medrepro.multifractal.maps.BLOCK", size)
        leaf = (noise(3, 5, 17, 12) - 0.5).relu().requires_grad_()
        alpha = layer(leaf)
        made.append((alpha, *torch.autograd.grad(alpha, leaf, upstream)))
    for one, other in zip(*made, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_non_contiguous_maps_give_the_same_exponent():
    x = noise(3, 12, 10, 4)
    for view in (x.permute(0, 3, 1, 2), x[:, ::2].transpose(1, 3), x[..., :1].expand(3, 12, 10, 5)):
        assert torch.equal(local_exponent(view + 0), local_exponent(view))
        agree((view.detach() + 0.1).permute(1, 0, 3, 2), atol=1e-9)


def test_gradients_hold_against_finite_differences():
    x, w = (noise(1, 2, 5, 6) + 0.5).requires_grad_(), noise(3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(local_exponent, x)
    for slope in ("weighted", "wls"):
        weighted = lambda x, w, slope=slope: local_exponent(x, slope=slope, weights=w.sigmoid())
        assert torch.autograd.gradcheck(weighted, (x, w))
    for over in ("batch", "sample", "none"):
        assert torch.autograd.gradcheck(lambda x, over=over: rescale(x, over=over), noise(2, 2, 3, 4).requires_grad_())
    plain = lambda x: 1 + 255 * (x - x.amin((0, 2, 3), True)) / (x.amax((0, 2, 3), True) - x.amin((0, 2, 3), True))
    tied = (noise(2, 3, 6, 6) - 0.5).relu().clamp_max(0.4).requires_grad_()
    upstream = noise(2, 3, 6, 6, seed=4)
    ours, theirs = (torch.autograd.grad(form(tied), tied, upstream)[0] for form in (rescale, plain))
    assert torch.allclose(ours, theirs, atol=1e-9)
    for padding in PADDINGS:
        assert torch.autograd.gradcheck(lambda x, padding=padding: box_mass(x, 3, padding=padding), x)
    assert torch.autograd.gradgradcheck(lambda x: box_mass(x, 2), x)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("side", [1, 2, 3, 4, 6, 7, 8])
def test_box_mass_equals_an_all_ones_convolution(side, padding):
    x = noise(2, 3, 11, 8)
    mode = {"zero": "constant"}.get(padding, padding)
    framed = torch.nn.functional.pad(x, ((side - 1) // 2, side // 2) * 2, mode=mode)
    dense = torch.nn.functional.conv2d(framed, x.new_ones(3, 1, side, side), groups=3)
    assert torch.allclose(box_mass(x, side, padding=padding), dense, atol=1e-12)
    if padding == "zero":
        with warnings.catch_warnings(action="ignore"):  # PyTorch warns that even sides cost it a copy
            same = torch.nn.functional.conv2d(x, x.new_ones(3, 1, side, side), groups=3, padding="same")
        assert torch.allclose(box_mass(x, side), same, atol=1e-12)


@pytest.mark.parametrize("slope", ["ols", "weighted", "wls"])
def test_slopes_are_exact_on_a_power_law(slope):
    t = torch.log(torch.tensor([2.0, 3.0, 7.0, 12.0], dtype=torch.float64))
    weights = None if slope == "ols" else noise(4) + 0.1
    means = "weighted" if slope == "wls" else "plain"
    assert ols_slope(1.37 * t - 4, t, weights=weights, means=means).item() == pytest.approx(1.37, abs=1e-12)
    c = slope_coefficients((2, 3, 7, 12), slope=slope, weights=weights)
    y = noise(4, seed=5)
    assert (c * y).sum().item() == pytest.approx(
        ols_slope(y * math.log(2), t, weights=weights, means=means).item(), abs=1e-12
    )


def test_true_weighted_least_squares_equals_polyfit():
    t, y, r = np.log([2.0, 4.0, 8.0, 16.0]), np.array([0.3, 1.9, 2.2, 5.0]), np.array([0.2, 0.9, 0.4, 0.7])
    ours = ols_slope(*map(torch.from_numpy, (y, t)), weights=torch.from_numpy(r), means="weighted")
    assert ours.item() == pytest.approx(np.polyfit(t, y, 1, w=np.sqrt(r))[0], abs=1e-12)


# -- the module ----------------------------------------------------------------------------------------------------


def test_exponent_ignores_a_constant_factor():
    x = noise(1, 2, 15, 14) + 0.5
    assert torch.allclose(local_exponent(1000 * x), local_exponent(x), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = noise(1, 2, 16, 16, dtype=torch.float32).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alpha = Exponent(2, slope="weighted", batch_norm=True)(x)
    assert alpha.dtype == torch.float32
    assert torch.equal(exponent(x), exponent(x.float()))


@pytest.mark.parametrize(
    ("settings", "count"), [({}, 0), ({"slope": "weighted"}, 3), ({"batch_norm": True}, 64), ({"slope": "wls"}, 3)]
)
def test_number_of_parameters(settings, count):
    assert sum(p.numel() for p in Exponent(32, **settings).parameters()) == count


def test_slope_weights_start_as_glorot_uniform():
    torch.manual_seed(0)
    drawn = torch.stack([Exponent(slope="weighted").slope_weights.detach() for _ in range(300)])
    assert drawn.abs().max() <= 1
    assert drawn.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.03)  # 900 draws: standard error .01


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: local_exponent(torch.ones(3, 16, 16)), r"shape \(B, C, H, W\).*got \(3, 16, 16\)"),
        (lambda: local_exponent(torch.ones(1, 0, 16, 16)), "without an empty axis"),
        (lambda: local_exponent(plane(), scales=(2,)), r"at least two ascending box sides in pixels, got \(2,\)"),
        (lambda: local_exponent(plane(), scales=(4, 2)), "ascending"),
        (lambda: local_exponent(plane(), slope="theil"), "slope='theil' is unknown; known: ols, weighted, wls"),
        (lambda: local_exponent(plane(), slope="wls"), "needs one weight for each of the 3 scales, got none"),
        (lambda: local_exponent(plane() - 1, check=True), "none negative: rescale"),
        (lambda: local_exponent(plane() * torch.nan, check=True), "finite"),
        (lambda: local_exponent(plane(4), padding="reflect"), "4 x 4 pixels is too small.*needs 5 x 5"),
        (lambda: local_exponent(plane(3), padding="circular"), "needs 4 x 4"),
        (lambda: box_mass(plane(), 2, padding="edge"), "padding='edge' is unknown; known: zero, reflect, circular"),
        (lambda: box_mass(plane(), 0), "positive number of pixels, got 0"),
        (lambda: rescale(plane(), over="pixel"), "over='pixel' is unknown; known: batch, sample, none"),
        (lambda: Exponent(batch_norm=True), "needs the number of channels"),
        (lambda: Exponent(4)(plane()), "expected 4 channels, got 1"),
    ],
)
def test_faults_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("least", [0.0, 1e-9, 1e-7, 1e-3, 0.5, 1.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eps_counts_wherever_it_moves_a_mass(least, dtype):
    x = least + (noise(1, 2, 24, 20) * max(least, 1e-6)).round(decimals=9)
    wanted = literal_exponent(x, eps=1e-7)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(local_exponent(x.to(dtype), eps=1e-7).double(), wanted, rtol=0, atol=tolerance)
