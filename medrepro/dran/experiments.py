"""Settings of the chapter's experiments, profile by profile, and the runs behind each notebook."""

from typing import Any

from medrepro.runs import Run, planned_by

TRAINING = "medrepro.dran.denoising_runs:train_denoiser"
CLASSICAL = "medrepro.dran.denoising_runs:classical_scores"
FINDERS = "medrepro.dran.task_runs:finders_on_denoised"

NOISES = ("authors_code", "paper")  # uniform and positive; zero-mean Gaussian
#: choice: the sixth look, which the networks of the comparison do not train on.
UNSEEN = "ultrasound"
SEEN = ("ct", "mr", "xray", "microscopy", "dermoscopy")
#: Networks of the comparison with the keywords that bring each near DRAN's number of weights at the profile's width.
MODELS = ("dran", "dncnn", "dynamic_dncnn", "residual_mid_like")

PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {
        "device": "cpu",  # kind of device, part of a run's digest
        "train": {
            "steps": 20, "num_images": 6, "size": 32, "crop": 16, "batch_size": 4, "lr": 3e-3, "recalibration": 5,
        },
        "dran": {"features": 8, "layers": 1},
        "rival": {"features": 8, "depth": 5},
        "test": {"test_images": 1, "test_size": 32},
        "classical": ["noisy", "median", "total variation", "wavelet", "non-local means"],
        "finder": {"num_train": 8, "num_test": 12, "size": 32, "features": 8, "num_epochs": 2},
        "finder_seeds": 2,
        "real": {"every": 12, "size": 64},  # slices of a volume, side of real images
        "seeds": 2,
        "rival_seeds": 1,  # trainings of every other network
    },
    "cpu": {
        "device": "cpu",
        # choice: 200 steps of 8 crops instead of the authors' 121,920 of 24; one cycle of the rate
        "train": {"steps": 200, "num_images": 200, "size": 64, "crop": 32, "batch_size": 8, "lr": 3e-3},
        "dran": {"features": 16, "layers": 2},   # a quarter of the authors' channels, 2 of their 5 layers
        "rival": {"features": 16, "depth": 17},  # the same field of view, 17 convolutions on the way
        "test": {"test_images": 2, "test_size": 64},
        "classical": ["noisy", "median", "total variation", "wavelet", "non-local means", "BM3D"],
        "finder": {"num_train": 96, "num_test": 64, "size": 48, "features": 8, "num_epochs": 12},
        "finder_seeds": 3,
        "real": {"every": 4, "size": 128},
        "seeds": 2,
        "rival_seeds": 1,  # by three seeds, and longer, DRAN and DnCNN are recorded
    },
    "gpu": {
        "device": "cuda",
        "train": {"steps": 10_000, "num_images": 3000, "size": 128, "crop": 64, "batch_size": 24, "lr": 3e-3},
        "dran": {"features": 64, "layers": 5},
        "rival": {"features": 64, "depth": 17},
        "test": {"test_images": 8, "test_size": 128},
        "classical": ["noisy", "median", "total variation", "wavelet", "non-local means", "BM3D"],
        "finder": {"num_train": 1000, "num_test": 400, "size": 128, "features": 32, "num_epochs": 60},
        "finder_seeds": 3,
        "real": {"every": 4, "size": 128},
        "seeds": 3,
        "rival_seeds": 3,
    },
    "paper": {
        "device": "cuda",
        # the authors' configuration: 5 epochs of 24,384 steps, crops of 128, a constant rate
        "train": {
            "steps": 121_920, "num_images": 20_000, "size": 256, "crop": 128, "batch_size": 24, "lr": 1e-3, "rate": "constant",
        },
        "dran": {"features": 64, "layers": 5},
        "rival": {"features": 64, "depth": 17},
        "test": {"test_images": 50, "test_size": 256},
        "classical": ["noisy", "median", "total variation", "wavelet", "non-local means", "BM3D"],
        "finder": {"num_train": 1000, "num_test": 400, "size": 256, "features": 32, "num_epochs": 100},
        "finder_seeds": 5,
        "real": {"every": 4, "size": 128},
        "seeds": 5,
        "rival_seeds": 5,
    },
}  # fmt: skip

#: The recorded comparison: networks as live at ``cpu``, trained longer, on larger test images. All is written out here, so
#: that an edit of a profile loses no recorded run.
RECORDED = {
    "device": "cpu",
    "train": {"steps": 2000, "num_images": 400, "size": 96, "crop": 32, "batch_size": 8, "lr": 3e-3},
    "dran": {"features": 16, "layers": 2},
    "rival": {"features": 16, "depth": 17},
    "test": {"test_images": 4, "test_size": 96},
    "classical": ["noisy", "median", "total variation", "wavelet", "non-local means", "BM3D"],
}

#: Budget and test of every arm of the recorded ablation.
ARM_SETTINGS = RECORDED | {
    "train": {"steps": 300, "num_images": 200, "size": 64, "crop": 32, "batch_size": 8, "lr": 3e-3},
    "test": {"test_images": 2, "test_size": 64},
}

#: The ablation: what differs from DRAN with independent blocks, a gate, K = 4, T = 34, L1, tanh, Gaussian noise.
ARMS: dict[str, dict[str, Any]] = {
    "dran": {},
    "skip: identity": {"skip": "identity"},
    "skip: plain convolution": {"skip": "conv"},
    "K = 1": {"network": {"kernels": 1}},
    "K = 2": {"network": {"kernels": 2}},
    "K = 8": {"network": {"kernels": 8}},
    "T = 10": {"network": {"temperature": 10.0}},
    "T = 1": {"network": {"temperature": 1.0}},
    "T annealed": {"annealed": True},
    "shared block": {"model": "dran_shared"},
    "shared block, batch norm per use": {"model": "dran_shared", "network": {"bn": "per_use"}},
    "L2": {"loss": "l2"},
    "no tanh": {"network": {"out_activation": None}},
    "constant rate": {"rate": "constant", "lr": 1e-3},
}


def runs(notebook: str, profile: str, **parameters: Any) -> list[Run]:
    """Runs behind a notebook of this chapter, listed and not computed.

    Raises
    ------
    ValueError
        The notebook is not of this chapter, or the profile is unknown.
    """
    planners = {
        "dran/01-noise-models": lambda settings, **given: [],
        "dran/02-dynamic-residual-attention": _inside_runs,
        "dran/03-comparison": _comparison_runs,
        "dran/04-ablation": _ablation_runs,
        "dran/05-real-noise-and-tasks": _task_runs,
        "dran/06-careful-reader": _inside_runs,
    }
    return planned_by(planners, PROFILES, notebook, profile, **parameters)


def recorded(notebook: str) -> list[Run]:
    """Long runs whose recorded results a notebook shows: the comparison with a look left out, the ablation's arms."""
    if notebook == "dran/03-comparison":
        trained = [
            _training(RECORDED, model, noise, seed)
            for seed in range(3)
            for noise in NOISES
            for model in ("dran", "dncnn")
        ]
        return [_classical(RECORDED, noise) for noise in NOISES] + trained
    if notebook == "dran/04-ablation":
        return [run for seed in range(3) for arm in ARMS for run in [arm_run(arm, seed)]]
    return []


def arm_run(arm: str, seed: int) -> Run:
    """One training of an arm of the ablation: blind Gaussian noise, all looks but one, the budget of `ARM_SETTINGS`."""
    base = _training(ARM_SETTINGS, "dran", "paper", seed).settings
    own = dict(ARMS[arm])
    network = base["network"] | own.pop("network", {})
    return Run(TRAINING, {**base, **own, "network": network})


def _training(settings: dict[str, Any], model: str, noise: str, seed: int, **more: Any) -> Run:
    network = settings["dran"] if model.startswith("dran") else dict(settings["rival"])
    if model == "residual_mid_like":
        network.pop("depth")  # 8 layers: our choice, since the original's are not known
    given = {"model": model, "noise": noise, "seed": seed, "looks": list(SEEN), "network": network}
    return Run(TRAINING, {**given, **settings["train"], **settings["test"], **more}, settings["device"])


def _classical(settings: dict[str, Any], noise: str) -> Run:
    return Run(CLASSICAL, {"noise": noise, "methods": settings["classical"], **settings["test"]}, "cpu")


def _comparison_runs(settings: dict[str, Any], *, seed: int = 0) -> list[Run]:
    """Classical methods, and networks by seeds, under both laws."""
    trained = [
        _training(settings, model, noise, seed + n, **({"keep_weights": True} if model == "dran" and n == 0 else {}))
        for n in range(settings["seeds"])
        for noise in NOISES
        for model in MODELS
        if model == "dran" or n < settings["rival_seeds"]
    ]
    return [_classical(settings, noise) for noise in NOISES] + trained


def _inside_runs(settings: dict[str, Any], *, seed: int = 0) -> list[Run]:
    """The first DRAN of the comparison under either law, to look into."""
    return [run for run in _comparison_runs(settings, seed=seed) if run.settings.get("keep_weights")]


def _ablation_runs(settings: dict[str, Any], *, seed: int = 0) -> list[Run]:
    """Live: with the gate and without, by seeds, and the first DRAN of the comparison under either law."""
    arms = ({}, {"skip": "identity"})
    trained = [
        _training(settings, "dran", "paper", seed + n, **arm, **({"keep_weights": True} if not arm and n == 0 else {}))
        for n in range(settings["seeds"])
        for arm in arms
    ]
    return trained + [run for run in _inside_runs(settings, seed=seed) if run not in trained]


#: Levels at which the lesion finders are tested.
TASK_LEVELS = (50,)


def _task_runs(settings: dict[str, Any], *, seed: int = 0) -> list[Run]:
    """The trained DRAN under Gaussian noise, and finders of lesions that get its results, by seeds and levels."""
    [denoiser] = [run for run in _inside_runs(settings, seed=seed) if run.settings["noise"] == "paper"]
    return [denoiser] + [
        Run(FINDERS, {"denoiser": denoiser, "level": level, "seed": seed + n, **settings["finder"]}, "cpu")
        for level in TASK_LEVELS
        for n in range(settings["finder_seeds"])
    ]
