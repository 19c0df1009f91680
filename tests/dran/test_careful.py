"""What to know before the network is used: each computation against numbers by hand, and the exercises' checks."""

import numpy as np
import pytest
import torch

from medrepro.data import catalogue
from medrepro.dran import careful, careful_exercises
from medrepro.dran.denoising_data import LOOKS
from medrepro.dran.denoising_runs import NOISES, WAYS, build
from medrepro.dran.noise import LEVELS, at_level
from medrepro.dran.rivals import CLASSICAL

NETWORK = {"features": 4, "layers": 1}


def test_every_single_number_is_listed_with_source_and_certainty():
    table = careful.recovered().set_index("what")
    assert table.loc["images, collected", "value"] == "711,223"
    assert table.loc["largest gain over a rival, dermatology, PSNR (dB)", "value"] == "13.75"
    assert table.loc["setting, Adam rate", "value"] == "0.001"
    assert set(table["certainty"]) == {"summarised", "read", "recomputed"}
    assert table["source"].str.len().min() > 10


def test_what_is_missing_has_no_number():
    table = careful.not_recovered()
    assert len(table) == 11
    assert table["what is missing"].notna().all()


def test_steps_that_look_at_no_structure_gain_what_arithmetic_says():
    table = careful.free_steps(size=48, count=2).set_index("level")
    assert table["exact gain of the mean"].tolist() == pytest.approx(3 * [10 * np.log10(4)])
    assert table["gain of the mean"].tolist() == pytest.approx(3 * [6.02], abs=0.15)  # 14 thousand draws a level
    assert table["gain of the average"].tolist() == pytest.approx(3 * [4.77], abs=0.15)
    assert table.loc[50, "bound of what keeps the mean"] == pytest.approx(18.06, abs=0.005)
    assert (table["non-local means, as it is"] < table["bound of what keeps the mean"]).all()


def test_acting_and_stored_parameters():
    table = careful.blocks_in_use().set_index("network")
    assert table["parameters"].tolist() == ["2,458,944", "969,664", "2,458,944"]
    assert table["updates of one batch norm a step"].tolist() == ["3", "3", "1"]
    assert table["share that acts"].iloc[0] == pytest.approx(969_664 / 2_458_944)


def test_larger_unset_biases_saturate_and_then_break_the_output():
    table = careful.unset_biases((0.0, 1e8, 3e38), count=2, features=8)
    assert table["finite networks"].tolist() == ["2 of 2", "2 of 2", "0 of 2"]
    assert table["mean |F|"].iloc[0] < 0.1
    assert table["outputs at the end"].iloc[1] == 1
    assert np.isnan(table["mean |F|"].iloc[2])


class Trained:
    """A result of a training whose network has its starting weights, and made-up qualities."""

    def __init__(self, noise):
        self.settings = {"model": "dran", "noise": noise, "seed": 0, "network": dict(NETWORK), "looks": list(LOOKS)}
        net = build("dran", seed=0, network=NETWORK)
        with torch.no_grad():
            for block in net.blocks:
                block[0].conv.excite.weight.zero_()
                block[0].conv.excite.weight[0] = 1e6  # one kernel takes all
            net.blocks[0][0].conv.squeeze.weight.abs_()  # in the first layer at least, whose input is not negative
        self.weights = net.state_dict()
        shape = (len(NOISES), len(WAYS), len(LOOKS), len(LEVELS), 2)
        psnr = np.zeros(shape, np.float32)
        psnr[NOISES.index(noise)] = 20 + np.arange(len(WAYS)).reshape(-1, 1, 1, 1)
        self.arrays = {"psnr": psnr, "ssim": psnr, "offset": psnr}


def test_departures_are_those_of_the_attention():
    table = careful.departures([Trained("paper")], size=32)
    far = table.groupby("network", sort=False)["departure"].max()
    assert list(far.index) == ["fresh, T = 34", "fresh, T = 10", "fresh, T = 1", "trained, T = 34, Gaussian noise"]
    assert far.iloc[:3].is_monotonic_increasing
    assert far.iloc[3] == pytest.approx(0.75, abs=1e-3)
    assert len(table) == 4 * 3
    figure = careful.departures_figure(table)
    assert len(figure.axes[0].lines) == 4 + 1


def test_ways_of_batch_norm_are_compared_on_the_law_of_the_training():
    table = careful.batch_norm_ways([Trained(noise) for noise in NOISES])
    assert table["law"].tolist() == 3 * ["uniform, positive"] + 3 * ["Gaussian"]
    assert table["level"].tolist() == 2 * list(LEVELS)
    assert table["running"].tolist() == pytest.approx(6 * [20])
    assert table["this image's - running"].tolist() == pytest.approx(6 * [1])
    assert table["recalibrated - running"].tolist() == pytest.approx(6 * [2])
    assert len(careful.batch_norm_figure(table).axes) == 2


def test_sample_outputs_are_told_as_published():
    table = careful.sample_outputs().set_index(["image", "level"])
    assert table.loc[("dermoscopy", 50), "DRAN"] == "34.75 / 0.829"
    assert table.loc[("MRI", 25), "gain over minus mean"] == pytest.approx(31.27 - 28.86)
    assert table.loc[("MRI", 25), "mean error (grey levels)"] == -2.9


def test_sample_figure_has_every_dot_and_the_bounds():
    table = careful.sample_rivals()
    axis = careful.sample_figure(table).axes[0]
    dots = sum(len(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "None")
    shown = table["method"].isin(["DRAN", "non-local means", "BM3D"])
    assert dots == shown.sum() == 34
    assert careful.told_wins(table) == {"cases": 6, "alone": 6, "minus mean": 2, "all": 1}


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """Three small pictures in the layout of the authors' repository, the second one grey."""
    from PIL import Image

    monkeypatch.setattr(careful, "CROP", 32)
    folder = tmp_path / careful.PLACES[1]
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(careful.SAMPLES.values()):
        image = np.kron(rng.integers(60, 190, (5, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(image[..., [0, 0, 0]] if number == 1 else image).save(folder / name)
    monkeypatch.setattr(careful, "data_folders", lambda: [tmp_path / "empty", tmp_path])
    return folder


def test_sample_images_are_found_and_rivals_computed_again(samples):
    assert careful.sample_folder() == samples
    table = careful.sample_rivals_again(samples, methods=("noisy", "non-local means"), levels=(50,))
    assert len(table) == 2 * (2 + 3 + 2)
    psnr = table.set_index(["image", "method", "start"])["PSNR (dB)"]
    assert psnr["microscopy", "noisy", "as it is"] == pytest.approx(16.81, abs=0.3)
    assert psnr["microscopy", "noisy", "minus mean"] == pytest.approx(22.83, abs=0.3)
    gained = psnr["microscopy", "noisy", "minus mean, channels averaged"] - psnr["microscopy", "noisy", "minus mean"]
    assert gained == pytest.approx(4.77, abs=0.4)
    kept = table.set_index(["image", "method", "start"])["kept"]
    assert kept["MRI", "non-local means", "minus mean"] == 31.07
    assert np.isnan(kept["MRI", "noisy", "as it is"])


def test_without_the_images_there_is_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDREPRO_DATA", str(tmp_path))
    assert catalogue.data_folders() == [tmp_path]
    assert careful.sample_folder() is None


def test_non_local_means_left_alone_keeps_the_mean_of_the_noise():
    law = at_level(50, "authors_code")
    flat = np.full((32, 32), 0.5, np.float32)
    noisy = law.add(torch.from_numpy(flat), torch.Generator().manual_seed(0)).numpy()
    assert CLASSICAL["non-local means"](noisy, sd=0.072).mean() == pytest.approx(0.5 + law.width / 2, abs=0.01)


RIGHT = {
    "bound_with_mean": lambda level: -20 * np.log10(level / 400),
    "largest_weight": lambda gap, t, k: np.exp(gap / t) / (np.exp(gap / t) + k - 1),
    "pooled_psnr": lambda values: -10 * np.log10(np.mean(10 ** (-np.asarray(values) / 10))),
}
WRONG = {
    "bound_with_mean": lambda level: -20 * np.log10(level / 200),
    "largest_weight": lambda gap, t, k: np.exp(gap) / (np.exp(gap) + k - 1),
    "pooled_psnr": np.mean,
}


@pytest.mark.parametrize("name", RIGHT)
def test_checks_pass_right_answers_and_no_others(name, capsys):
    check = getattr(careful_exercises, f"check_{name}")
    assert check(RIGHT[name])
    assert not check(WRONG[name])
    assert not check(lambda *args: None)
    assert "Right" in capsys.readouterr().out
