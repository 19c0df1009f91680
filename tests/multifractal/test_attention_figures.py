"""Looks into the attention functions: diagrams from their parts, changes, level maps."""

import numpy as np
import pytest
import torch

from medrepro.multifractal import attention_figures
from medrepro.multifractal.recalibration import Multi, recalibration
from medrepro.multifractal.segmentation_runs import seeded_unet


def test_figure_1_differs_by_the_exponent_map_alone():
    ordinary = attention_figures.stages(recalibration("cse", 8))
    proposal = attention_figures.stages(recalibration("mono", 8))
    assert ordinary == ["features", "statistics", "attention", "recalibrated"]
    assert [block for block in proposal if block not in ordinary] == ["exponents"]
    assert [block for block in proposal if block in ordinary] == ordinary
    assert proposal.index("exponents") == proposal.index("statistics") - 1


def test_a_layer_without_gate_has_no_block_of_statistics():
    assert attention_figures.stages(recalibration("multi", 8)) == ["features", "exponents", "recalibrated"]
    assert attention_figures.stages(recalibration("none", 8)) == ["features", "recalibrated"]


def test_diagrams_hold_every_block_of_their_rows():
    rows = {"a": ["features", "recalibrated"], "b": ["features", "exponents", "recalibrated"]}
    figure, table = attention_figures.diagrams(rows)
    words = [text.get_text() for axis in figure.axes for text in axis.texts if text.get_text()]
    assert len(words) == 5
    assert table.set_index("diagram")["exponents"].to_dict() == {"a": False, "b": True}


@pytest.fixture
def features():
    return torch.rand(3, 8, 24, 24, generator=torch.Generator().manual_seed(0))


def test_changes_are_outputs_minus_inputs_of_freshly_started_layers(features):
    changes = attention_figures.responses(features, seed=4, preset="authors_code")
    assert list(changes) == ["cSE", "scSE", "SRM", "FCA", "Mono", "Multi"]
    torch.manual_seed(4)
    expected = recalibration("mono", 8, preset="authors_code")(features) - features
    assert torch.equal(changes["Mono"], expected)
    _, table = attention_figures.change_maps(features, changes, channel=2)
    shares = table.set_index("attention")["shares in the channel"]
    assert (shares[["cSE", "SRM", "FCA", "Mono"]] == 1).all()
    assert shares["Multi"] > 10
    assert table.set_index("attention").loc["Multi", "smallest"] >= 0.5


def test_level_sets_of_one_precision_are_drawn_with_the_response_they_add_up_to():
    layer = Multi(4, preset="paper", num_levels=3).eval()
    alpha = np.linspace(0.5, 3.5, 7)
    _, table = attention_figures.level_sets({"fresh": layer}, alpha)
    p = np.exp(-((alpha[:, None] - [1, 2, 3]) ** 2))
    p /= p.sum(1, keepdims=True)
    argument = np.maximum(p @ layer.phi.weight.detach().numpy()[0] + 0.5, 0)
    np.testing.assert_allclose(table["response, fresh"], 1 / (1 + np.exp(-argument)), atol=1e-6)


def test_level_map_and_change_of_figure_4_are_one_picture():
    net = seeded_unet("multi", seed=1, channels=(4, 8, 16), size=32, preset="paper").eval()
    net.image_size = None
    image = np.random.default_rng(0).random((3, 48, 40)).astype("float32")
    depths = attention_figures.depth_maps(net, image)
    assert [maps["features"].shape for maps in depths] == [(48, 40), (24, 20)]
    for maps in depths:
        np.testing.assert_allclose(maps["level map"], maps["change"], atol=1e-6)
    figure, table = attention_figures.figure_4({"noise": image}, {"noise": depths})
    assert len(figure.axes) == 8
    assert (table["level map, smallest"] >= 0.5).all()
    assert (table["level map minus change"] < 1e-6).all()


def test_a_brighter_batch_mate_moves_all_but_the_corrected_reading(features):
    table = attention_figures.readings(features, seed=0).set_index(["layer", "reading"])
    moved = table["change by brighter batch mates"]
    assert moved[("Mono", "corrected")] == moved[("Multi", "corrected")] == 0
    assert moved[("Mono", "paper")] > 1e-5
    assert moved[("Multi", "paper")] > 1e-5
    assert table.loc[("Multi", "authors_code"), "spread in testing"] < 1e-6
