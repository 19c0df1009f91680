"""What recalibration costs: timed runs, memory, the evidence on the claim, exercises."""

import numpy as np
import pytest
import torch
from torch import nn

from medrepro import published
from medrepro.multifractal import cost_evidence, cost_exercises, cost_figures, cost_runs

SMALL = {"size": 16, "batch_size": 2, "channels": [8, 16], "rounds": 2, "seed": 0}


@pytest.fixture(scope="module")
def costs():
    return cost_runs.variant_costs(**SMALL)


def test_every_variant_has_its_turn_in_every_round(costs):
    seen = {(row["round"], row["kind"], row["variant"]) for row in costs["history"]}
    assert len(seen) == len(costs["history"]) == 2 * 2 * len(cost_runs.VARIANTS)
    for row in costs["history"]:
        [plain] = [
            other["seconds"]
            for other in costs["history"]
            if (other["round"], other["kind"], other["variant"]) == (row["round"], row["kind"], "unet")
        ]
        assert row["ratio"] == pytest.approx(row["seconds"] / plain)
    assert costs["metrics"]["training step, unet"] == costs["metrics"]["inference, unet"] == 1


def test_metrics_are_medians_over_rounds(costs):
    ratios = [row["ratio"] for row in costs["history"] if (row["variant"], row["kind"]) == ("fca", "inference")]
    assert costs["metrics"]["inference, fca"] == pytest.approx(np.median(ratios))


class Exponential(nn.Module):
    """A convolution, then `count` exponentials: each keeps its result."""

    def __init__(self, count):
        super().__init__()
        self.conv, self.count = nn.Conv2d(3, 1, 1), count

    def forward(self, x):
        x = self.conv(x)
        for _ in range(self.count):
            x = torch.exp(x)
        return x


def test_kept_bytes_count_each_tensor_once():
    image, mask = torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    plain, more = (cost_runs.kept_bytes(Exponential(count), image, mask) for count in (1, 3))
    assert more - plain == 2 * (2 * 8 * 8 * 4)


def test_the_literal_multi_keeps_tensors_with_an_axis_of_level_sets(costs):
    kept = {name: costs["metrics"][f"kept bytes, {name}"] for name in cost_runs.VARIANTS}
    level = 2 * 8 * 16 * 16 * 4  # bytes of the map at the first depth
    assert kept["multi, literal"] - kept["unet"] > 3 * 16 * level
    assert kept["mono, ours"] < kept["mono, literal"]
    assert kept["cse"] >= kept["unet"]


def test_steps_leave_the_weights_as_they_are():
    net = cost_runs.seeded_unet("cse", seed=0, channels=(4, 8), size=16, preset="authors_code")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    image, mask = torch.rand(2, 3, 16, 16), torch.zeros(2, 1, 16, 16)
    cost_runs.training_step(net, image, mask)()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.head.weight.grad is not None
    cost_runs.inference(net, image)()
    assert not net.training


class Result:
    def __init__(self, costs):
        self.history, self.metrics = costs["history"], costs["metrics"]
        self.settings = SMALL


def test_figure_and_tables_show_every_variant(costs):
    figure, table = cost_figures.cost_figure(Result(costs))
    assert len(table) == 2 * len(cost_runs.VARIANTS)
    assert ((table["min"] <= table["median"]) & (table["median"] <= table["max"])).all()
    assert [axis.get_title() for axis in figure.axes] == ["training step", "inference"]
    memory = cost_figures.memory(Result(costs)).set_index("variant")
    assert memory.loc["U-Net", "plain U-Net = 1"] == 1
    assert memory.loc["Multi, literal", "MiB"] == pytest.approx(costs["metrics"]["kept bytes, multi, literal"] / 2**20)


def test_ratios_of_the_authors_code_are_those_of_its_seconds():
    table = cost_figures.of_the_authors_code().set_index(["kind", "model"])["ratio"]
    assert table[("training step", "multi")] == pytest.approx(9.4, abs=0.05)
    assert table[("inference", "mono")] == pytest.approx(3.0, abs=0.05)
    assert table[("inference", "unet")] == 1
    assert published.table("multifractal", "cost_of_the_authors_code").certainty == "recomputed"


def test_traffic_of_the_paper_s_first_depth():
    table = cost_figures.traffic((16, 32, 224, 224)).set_index("what")["MiB"]
    assert table["copy of the map"] == pytest.approx(2 * 98, abs=0.5)  # a map of 98 MiB, read and written
    assert table["Multi, in testing"] == pytest.approx(3 * 98, abs=0.5)


def test_effect_is_the_time_over_that_of_the_gates():
    history = [
        {"variant": name, "kind": "training step", "round": number, "ratio": value * number, "seconds": 1.0}
        for number in (1, 2)
        for name, value in (("cse", 1.0), ("srm", 1.2), ("multi, ours", 1.6))
    ]
    result = Result({"history": history, "metrics": {}})
    assert cost_evidence.extra_steps(result, "multi, ours") == pytest.approx([0.5, 1.0])


RIGHT = {
    "box_sum_4": lambda image: sum(
        image[r : len(image) - 3 + r, c : image.shape[1] - 3 + c] for r in range(4) for c in range(4)
    ),
    "gibibytes": lambda *shape: float(np.prod([float(side) for side in shape])) / 2**28,
    "fair_ratio": lambda plain, ours: np.exp(np.median(np.log(ours / plain))),
}
WRONG = {
    "box_sum_4": lambda image: image[:-3, :-3] * 16,
    "gibibytes": lambda *shape: float(np.prod([float(side) for side in shape])) / 1e9,
    "fair_ratio": lambda plain, ours: ours.mean() / plain.mean(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_checks_pass_right_answers_and_no_others(name, capsys):
    check = getattr(cost_exercises, f"check_{name}")
    assert check(RIGHT[name])
    assert not check(WRONG[name])
    assert not check(lambda *args: None)
    assert "Right" in capsys.readouterr().out
