"""Measurements inside the network against hand counts and the library, and the checks of the exercises."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medrepro.dran import network_diagram, network_exercises
from medrepro.dran import network_figures as figures
from medrepro.dran.network import DRAN

SMALL = {"features": 8, "layers": 1}
CLEAN = figures.phantoms(size=32)
IMAGES = figures.noisy_input(CLEAN, 25)


@pytest.fixture(autouse=True)
def closed():
    """Figures of a test are closed after it."""
    yield
    plt.close("all")


def first_layer(seed: int = 0):
    net = figures.fresh(seed=seed, **SMALL)
    conv = net.blocks[0][0].conv
    torch.nn.init.normal_(conv.bias, generator=torch.Generator().manual_seed(seed))
    return conv, net.layer_input(IMAGES[:1], torch.zeros(0, 1, net.kernels)).detach()


def test_forced_attention_is_the_plain_convolution_expected():
    table = figures.mixing_table(*first_layer())
    assert table["attention"].tolist() == ["equal", *[f"kernel {k} alone" for k in (1, 2, 3, 4)], "live"]
    assert (table["largest difference"] < 1e-5 * table["mean |y|"].max()).all()


def test_pictures_of_mixing_hold_the_mean_of_the_kernels():
    shown = figures.mixing_pictures(*first_layer())
    alone = np.mean([shown[f"kernel {k} alone"] for k in (1, 2, 3, 4)], 0)
    np.testing.assert_allclose(shown["equal attention"], alone, atol=1e-5)


def test_attention_leaves_uniformity_as_the_temperature_falls():
    net = figures.fresh(**SMALL)
    table = figures.attention_table({"new": (net, IMAGES)})
    assert table["departure"].is_monotonic_increasing
    assert table["entropy"].is_monotonic_decreasing
    assert table["departure"].iloc[0] < 0.02
    assert net.temperature == 34
    assert figures.attention_figure(table)


def test_negative_hidden_units_make_attention_exactly_equal():
    net = figures.fresh(**SMALL)
    for block in net.blocks[:2]:
        torch.nn.init.constant_(block[0].conv.squeeze.weight, -1.0)
    table = figures.attention_table({"new": (net, IMAGES)}, temperatures=(1.0,))
    assert table["exactly equal"].iloc[0] >= 2 / 3
    conv, x = figures.most_dynamic(net, IMAGES[:1])
    assert conv is net.blocks[2][0].conv
    torch.testing.assert_close(conv.attention(x), net.attention(IMAGES[:1])[2])


def test_live_attention_changes_nothing_against_itself():
    table = figures.attention_worth(figures.fresh(**SMALL), CLEAN, 25, "paper").set_index("attention")
    assert table.loc["live", "change (dB)"] == 0
    assert table["PSNR (dB)"].between(5, 40).all()


def test_large_biases_fill_the_range_with_running_statistics_alone():
    table = figures.bias_table((0.0, 1.0, 1e6, 1e38), features=8, layers=2)
    assert figures.bias_figure(table)
    by = table.set_index(["statistics", "size"])
    assert by.loc[("running", 1e6), "at the end"] > 0.9 > 0.01 > by.loc[("of the batch", 1e6), "at the end"]
    assert by.loc[("running", 1e38), "not finite"] == 1
    batch = by.loc["of the batch", "mean |F|"]
    assert batch[1.0] == pytest.approx(batch[0.0], rel=0.05)


def test_terms_add_up_to_the_input_of_the_next_block():
    for preset in ("paper", "authors_code"):
        found = figures.terms(figures.fresh(preset, **SMALL), IMAGES)
        assert len(found) == 3
        for part, following in itertools.pairwise(found):
            torch.testing.assert_close(part["layers"] + part["gate"], following["input"])


def test_layers_never_fall_below_zero():
    table = figures.block_table(figures.fresh(**SMALL), IMAGES)
    assert (table["layers, share below 0"] == 0).all()
    assert (table["gate, share below 0"] > 0).any()


def test_openness_is_a_sigmoid_of_the_mask():
    net = figures.fresh(**SMALL)
    figure, table = figures.openness_figure(CLEAN[:1], {"paper": net, "authors_code": net}, level=25)
    assert figure
    assert len(table) == 6
    assert table["lowest"].min() > 0
    assert table["highest"].max() < 1
    part = figures.terms(net, IMAGES)[0]
    mask = net.gates[0].mask
    padded = F.pad(part["input"], (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(part["openness"], torch.sigmoid(F.conv2d(padded, mask.weight, mask.bias)).detach())


def test_shares_of_open_gates_are_counted():
    net = figures.fresh(**SMALL)
    torch.nn.init.constant_(net.gates[0].mask.bias, 50.0)
    torch.nn.init.constant_(net.gates[1].mask.bias, -50.0)
    _, table = figures.gate_shares({"paper": net}, CLEAN, levels=(0, 50))
    assert table[table["DRAB"] == 1]["share open"].tolist() == [1, 1]
    assert table[table["DRAB"] == 2]["share open"].tolist() == [0, 0]


def test_reflection_keeps_a_constant_map_constant_and_zeros_do_not():
    net = figures.fresh(**SMALL)
    x = figures.terms(net, IMAGES[:1])[1]["input"]
    _, table = figures.border_figure(net.gates[1], x)
    assert table.loc[0, "spread, reflected"] < 1e-5 < 1e-3 < table.loc[0, "spread, zeros"]
    assert (table["change inside"] < 1e-5).all()
    assert (table["change in the outer ring"] > 1e-3).all()


def test_parts_of_both_presets_sum_to_the_counts_of_the_code():
    nets = {preset: DRAN(preset) for preset in ("paper", "authors_code")}
    figure, table = network_diagram.diagram(nets)
    assert figure
    assert table.groupby("network")["new parameters"].sum().to_dict() == {"paper": 2_458_944, "authors_code": 969_664}
    assert sum(network_diagram.layer_parts(nets["paper"]).values()) * 5 == 744_640
    again = table[table["operation"].str.contains("again")]
    assert len(again) == 2
    assert (again["new parameters"] == 0).all()


def test_stored_and_acting_parameters_are_those_of_the_code():
    table = figures.parameter_table().set_index("network")
    assert table["acting"].tolist() == [2_458_944, 969_664, 969_664]
    assert table["stored"].tolist() == [2_458_944, 969_664, 2_458_944]
    assert figures.without_gradient() == (60, 2_458_944 - 969_664)


def test_new_networks_answer_larger_with_the_statistics_of_the_batch():
    table = figures.birth_table(widths=(16,), seeds=1)
    assert table["ratio"].iloc[0] > 5


def test_one_pixel_reaches_the_field_and_with_live_attention_all_pixels():
    net = figures.fresh(features=8, layers=2)  # 1 + 2 x 3 + 1 pixels each way
    figure, table = figures.footprint_figure(net, figures.noisy_input(figures.phantoms(size=32, looks=("ct",)), 25))
    assert figure
    assert table[["rows", "columns"]].to_numpy().tolist() == [[17, 17], [32, 32]]
    assert table.loc[0, "largest change outside the field"] == 0 < table.loc[1, "largest change outside the field"]


def test_field_of_the_default_depth_is_35_pixels_wide():
    net = figures.fresh(features=16)
    change = figures.footprint(net, figures.noisy_input(figures.phantoms(size=41, looks=("ct",)), 25), live=False)
    assert figures.extent(change) == (35, 35)


def test_extent_of_nothing_is_nothing():
    assert figures.extent(np.zeros((4, 4))) == (0, 0)


def test_shared_norm_settles_on_a_mixture_and_one_per_use_on_its_own():
    shared, own = (figures.norm_table(bn=bn, steps=120, **SMALL) for bn in ("shared", "per_use"))
    np.testing.assert_allclose(figures.settled_weights(3), np.array([0.81, 0.9, 1]) / 2.71)
    assert shared.attrs["off"] < 1e-5
    assert shared["updates a step"].tolist() == [3, 3, 3]
    assert own["updates a step"].tolist() == [1, 1, 1]
    assert own["distance of the means"].max() < 0.01 < shared["distance of the means"].max()


RIGHT = {
    "mixed": lambda x, kernels, biases, a: F.conv2d(
        x, torch.einsum("k,koixy->oixy", a, kernels), a @ biases, padding=1
    ),
    "field": lambda drabs, layers: 1 + 2 * (2 + drabs * layers),
    "settled": lambda momentum, uses: figures.settled_weights(uses, momentum),
}
WRONG = {
    "mixed": lambda x, kernels, biases, a: F.conv2d(x, kernels.mean(0), biases.mean(0), padding=1),
    "field": lambda drabs, layers: 1 + 2 * drabs * layers,
    "settled": lambda momentum, uses: figures.settled_weights(uses, momentum)[::-1],
}


@pytest.mark.parametrize("name", RIGHT)
def test_checks_pass_right_answers_and_no_others(name, capsys):
    check = getattr(network_exercises, f"check_{name}")
    assert check(RIGHT[name])
    assert not check(WRONG[name])
    assert not check(lambda *args: None)
    assert "Right" in capsys.readouterr().out
