"""Runs of the chapter: shared noise, the course of the rate, what a training and a classical run give back."""

import numpy as np
import pytest
import torch

from medrepro.dran import denoising_data, denoising_runs
from medrepro.dran.network import DRAN
from medrepro.dran.noise import at_level
from medrepro.dran.quality import psnr
from medrepro.dran.rivals import CLASSICAL
from medrepro.dran.skip import SKIPS, with_skip

SMALL = {
    "model": "dran", "noise": "paper", "seed": 3, "steps": 20, "num_images": 4, "size": 32, "crop": 16, "batch_size": 2,
    "lr": 1e-3, "network": {"features": 8, "layers": 1}, "test_images": 1, "test_size": 32, "levels": [15, 50],
    "test_looks": ["ct", "mr"], "looks": ["ct"],
}  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    return denoising_runs.train_denoiser(**SMALL, keep_weights=True)


def test_training_tests_both_laws_in_three_ways_of_batch_norm(trained):
    assert trained["arrays"]["psnr"].shape == (2, 3, 2, 2, 1)
    assert all(np.isfinite(values).all() for values in trained["arrays"].values())
    assert len(trained["history"]) == denoising_runs.NUM_EPOCHS


def test_one_seed_gives_one_training(trained):
    again = denoising_runs.train_denoiser(**SMALL)
    assert again["history"] == trained["history"]
    np.testing.assert_array_equal(again["arrays"]["psnr"], trained["arrays"]["psnr"])


def test_kept_weights_give_the_stored_scores(trained):
    net = denoising_runs.build("dran", seed=0, network=SMALL["network"])
    net.load_state_dict(trained["weights"])
    clean = denoising_data.clean_test("mr", 1, size=32)
    noisy = denoising_data.with_noise(clean, at_level(50, "authors_code"), seed=1)
    with torch.no_grad():
        denoised = noisy - net.eval()(2 * noisy - 1) / 2
    assert psnr(denoised, clean)[0] == pytest.approx(trained["arrays"]["psnr"][0, 0, 1, 1, 0], abs=1e-3)


def test_noise_of_an_image_depends_on_no_other_image():
    clean, law = denoising_data.clean_test("ct", 3, size=32), at_level(25, "paper")
    noisy = denoising_data.with_noise(clean, law, seed=4)
    torch.testing.assert_close(denoising_data.with_noise(clean[:2], law, seed=4), noisy[:2], rtol=0, atol=0)
    assert not torch.equal((noisy - clean)[0], (noisy - clean)[1])


def test_test_phantoms_are_in_no_training_set():
    test = denoising_data.clean_test("ct", 2, size=32)
    train = denoising_data.training_images(["ct"], 40, 0, size=32)
    assert not any(torch.equal(one, other) for one in test for other in train)


def test_training_pairs_are_noise_and_noisy_image_in_the_networks_range():
    generator = torch.Generator().manual_seed(0)
    clean = denoising_data.training_images(["ct", "dermoscopy"], 4, 0, size=32)
    crops = denoising_data.NoisyCrops(clean, "authors_code", 50, 16, 8, 3, generator)
    batches = list(crops)
    assert len(batches) == len(crops) == 3
    for noisy, noise in batches:
        assert noisy.shape == noise.shape == (8, 3, 16, 16)
        assert 0 <= noise.min()
        assert noise.max() <= 0.5 + 1e-6
        assert (noisy - noise).min() >= -1 - 1e-5
        assert (noisy - noise).max() <= 1 + 1e-5


def test_rate_rises_for_a_third_and_ends_at_almost_nothing():
    rates = [denoising_runs.one_cycle(epoch, 200) for epoch in range(200)]
    assert np.argmax(rates) == pytest.approx(60, abs=1)
    assert rates[0] < 0.05
    assert rates[-1] < 1e-3
    assert max(rates) > 0.999


def test_classical_scores_hold_the_noisy_image_and_average_grey_looks_alone():
    options = {"test_looks": ["ct", "dermoscopy"], "levels": [50], "test_images": 1, "test_size": 32}
    found = denoising_runs.classical_scores(noise="authors_code", methods=["noisy", "median"], **options)["arrays"][
        "psnr"
    ]
    assert found.shape == (3, 2, 2, 1, 1)
    assert np.isnan(found[2, :, 1]).all()
    assert np.isfinite(found[:2]).all()
    clean = denoising_data.clean_test("ct", 1, size=32)
    noisy = denoising_data.with_noise(clean, at_level(50, "authors_code"), seed=0)
    assert found[0, 0, 0, 0, 0] == pytest.approx(psnr(noisy, clean)[0], abs=1e-4)


def test_averaged_channels_are_denoised_as_one_grey_image():
    clean, law = denoising_data.clean_test("ct", 1, size=32), at_level(50, "paper")
    averaged = denoising_runs.starts(denoising_data.with_noise(clean, law, seed=0), clean, law)[2]
    result = denoising_runs.classical(CLASSICAL["non-local means"], averaged, law, averaged=True)
    sd = float(law.sd(torch.zeros(()))) / 3**0.5
    np.testing.assert_array_equal(result[0, 1], CLASSICAL["non-local means"](averaged[0, 0].numpy(), sd=sd))


@pytest.mark.parametrize("kind", SKIPS)
def test_other_skip_paths_are_what_they_say(kind):
    torch.manual_seed(0)
    net = with_skip(DRAN("paper", features=8, layers=1, drabs=1), kind).eval()
    image = torch.rand(2, 3, 9, 11)
    features = torch.relu(net.head(image))
    [layer] = net.blocks[0]
    inside = layer(features, layer.attention(features))
    skip = {
        "gate": net.gates[0],
        "identity": lambda x: x,
        "conv": lambda x: torch.nn.functional.leaky_relu(net.gates[0].conv(x), 0.2),
    }
    expected = torch.tanh(net.tail(inside + skip[kind](features)))
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-6)
    net.train()(image).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "unet"}, "known: dran"),
        ({"rate": "cosine"}, "one_cycle"),
        ({"noise": "poisson"}, "authors_code"),
        ({"loss": "huber"}, "l1"),
        ({"steps": 30}, "multiple of 20"),
        ({"skip": "none"}, "identity"),
        ({"model": "dncnn", "network": {"features": 8, "depth": 3}, "skip": "conv"}, "no skip path"),
        ({"model": "dncnn", "network": {"features": 8, "depth": 3}, "annealed": True}, "temperature"),
    ],
)
def test_unknown_settings_are_refused_in_a_sentence(change, told):
    with pytest.raises(ValueError, match=told):
        denoising_runs.train_denoiser(**SMALL | change)


def test_annealing_lowers_the_temperature_to_one():
    found = denoising_runs.train_denoiser(**SMALL | {"annealed": True}, keep_weights=True)
    temperatures = [value for key, value in found["weights"].items() if key.endswith("temperature")]
    best = found["metrics"]["best_epoch"]
    assert temperatures
    assert all(float(t) == max(1, 34 - 3 * (best - 1)) for t in temperatures)
