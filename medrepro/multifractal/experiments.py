"""Settings of the chapter's experiments, profile by profile, and the runs behind each notebook."""

from typing import Any

from medrepro.multifractal.excitation_settings import with_and_without_skips
from medrepro.multifractal.spectrum_settings import spectrum_runs
from medrepro.runs import Run, planned_by

SURFACES = "medrepro.multifractal.exponent_statistics:surface_statistics"
LESIONS = "medrepro.multifractal.exponent_statistics:lesion_statistics"
TRAINING = "medrepro.multifractal.segmentation_runs:train_segmenter"
LEAKAGE = "medrepro.multifractal.leakage_runs:leakage"
COSTS = "medrepro.multifractal.cost_runs:variant_costs"

#: Rows of Table 1, in the paper's order.
MODELS = ("unet", "cse", "scse", "srm", "fca", "mono", "multi")
#: Of these the text and the authors' code differ: they are run in both readings.
READ_TWICE = ("mono", "multi")
#: Lesions that differ from tissue in roughness alone, strongly enough for a plain U-Net to find them in a short training.
#: Chosen on the plain U-Net alone (seeds 100 to 105), like rate and steps of profile ``cpu``.
PHANTOM = {"hurst": [0.1, 0.9], "speckle": 0.0}
#: choice: the level sets of Multi without an axis of them. Maps of up to 65,536 entries (all live ones) are exact; larger ones
#: read a table of 16,384 exponents, with outputs within 1e-4 and gradients of the maps within 1 % of the literal form's.
TABLE = {"multi": {"form": "table"}}

#: The Hurst exponents of the check on fractional Brownian surfaces, rough to smooth.
HURST = (0.2, 0.35, 0.5, 0.65, 0.8)

PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {
        "device": "cpu",      # kind of device, part of a run's digest
        "hurst": (0.2, 0.5, 0.8),
        "surface_seeds": 2,   # surfaces a Hurst exponent
        "surface_size": 128,  # pixels
        "surface_torus": 256, # pixels of the periodic surface they are cut from
        "lesion_count": 12,   # images a data set
        "lesion_size": 64,    # pixels
        "train": {            # Table 1, live
            "size": 32, "channels": [8, 16, 32, 64], "num_epochs": 2, "batch_size": 4, "lr": 2e-3, "shuffle": True,
        },
        "phantoms": {"num_train": 12, "num_val": 4, "num_test": 8},
        "real": {"limit": 40, "num_folds": 3, "split": "grouped"},
        "train_seeds": 2,     # trainings a row
    },
    "cpu": {
        "device": "cpu", "hurst": HURST, "surface_seeds": 5, "surface_size": 512, "surface_torus": 1024,
        "lesion_count": 120, "lesion_size": 128,
        # choice: rate, batch and steps from the plain U-Net alone; 360 steps instead of the paper's 10,000 to 47,000
        "train": {
            "size": 40, "channels": [8, 16, 32, 64], "num_epochs": 15, "batch_size": 4, "lr": 4e-3, "shuffle": True,
        },
        "phantoms": {"num_train": 96, "num_val": 32, "num_test": 64},
        "real": {"limit": 150, "num_folds": 3, "split": "grouped"},
        "train_seeds": 3,
    },
    "gpu": {
        "device": "cpu",      # statistics of some images: a GPU would idle
        "hurst": HURST, "surface_seeds": 20, "surface_size": 512, "surface_torus": 1024,
        "lesion_count": 400, "lesion_size": 224,
        "train_device": "cuda",
        "train": {"size": 128, "channels": [32, 64, 128, 256], "num_epochs": 100, "batch_size": 16, "lr": 1e-3, "shuffle": True},
        "phantoms": {"num_train": 400, "num_val": 100, "num_test": 200},
        "real": {"num_folds": 3, "split": "grouped"},
        "train_seeds": 3,
    },
    "paper": {
        "device": "cpu", "hurst": HURST, "surface_seeds": 50, "surface_size": 1024, "surface_torus": 2048,
        "lesion_count": 3000, "lesion_size": 224,  # the whole sets, at the paper's 224 pixels
        "train_device": "cuda",
        "train": {"size": 224, "channels": [32, 64, 128, 256], "num_epochs": 400, "batch_size": 16, "lr": 1e-4, "shuffle": False},
        "phantoms": {"num_train": 1868, "num_val": 207, "num_test": 519},  # the sizes of ISIC18
        "real": {"num_folds": 5, "split": "authors", "binarise": False},
        "train_seeds": 5,  # five folds on real sets
    },
}  # fmt: skip


def runs(notebook: str, profile: str, **parameters: Any) -> list[Run]:
    """Runs behind a notebook of this chapter, listed and not computed.

    Raises
    ------
    ValueError
        The notebook is not of this chapter, or the profile is unknown.
    """
    planners = {
        "multifractal/01-local-holder-exponent": _exponent_runs,
        "multifractal/02-recalibration": _attention_runs,
        "multifractal/03-table-1": _table_runs,
        "multifractal/04-excitations": lambda *given, **more: with_and_without_skips(_table_runs(*given, **more)),
        "multifractal/05-cost": _cost_runs,
        "multifractal/06-careful-reader": _reader_runs,
        "multifractal/07-multifractal-spectrum": lambda _, **given: spectrum_runs(profile, **given),
    }
    return planned_by(planners, PROFILES, notebook, profile, **parameters)


#: The recorded grid on real images: three folds by group, 128 pixels, half of the paper's channels, 30 epochs. Rate and
#: batch were chosen on the plain U-Net alone (seed 100, validation images of fold 0).
RECORDED = {
    "size": 128, "channels": [16, 32, 64, 128], "num_epochs": 30, "batch_size": 4, "lr": 1e-3, "shuffle": True,
    "num_folds": 3, "split": "grouped",
}  # fmt: skip


#: The careful reader's arms: settings that differ from a row of Table 1, in the authors' reading unless said.
ARMS: dict[str, dict[str, Any]] = {
    **{model: {"model": model} for model in ("unet", "srm", "fca", "mono", "multi")},
    "unet, batch norm in the place": {"model": "unet", "control": "batch_norm"},
    "unet, constant added": {"model": "unet", "control": "constant"},
    "srm, corrected": {"model": "srm", "preset": "corrected"},
    "fca, corrected": {"model": "fca", "preset": "corrected"},
    **{f"{model}, {kind}": {"model": model, "control": kind} for model in READ_TWICE for kind in ("blurs", "laplacian", "noise")},
    **{f"{model}, {preset}": {"model": model, "preset": preset} for model in READ_TWICE for preset in ("paper", "corrected")},
    "mono, sum": {"model": "mono", "switches": {"combine": "sum"}},
    "mono, residual product": {"model": "mono", "switches": {"combine": "residual_product"}},
    "multi, product": {"model": "multi", "switches": {"combine": "product"}},
    "multi, residual product": {"model": "multi", "switches": {"combine": "residual_product"}},
    "multi, 2 scales": {"model": "multi", "switches": {"scales": [2, 4]}},
    "multi, 4 scales": {"model": "multi", "switches": {"scales": [2, 4, 8, 16]}},
    "multi, 1 level": {"model": "multi", "switches": {"num_levels": 1}},
    "multi, 4 levels": {"model": "multi", "switches": {"num_levels": 4}},
    "multi, 32 levels": {"model": "multi", "switches": {"num_levels": 32}},
}  # fmt: skip


#: What all arms share: phantoms a little harder than the live ones, and half as many steps again.
ARM_SETTINGS: dict[str, Any] = {
    "data": "phantom", "num_train": 96, "num_val": 32, "num_test": 64, "phantom": {"hurst": [0.1, 0.9], "speckle": 0.05},
    "size": 40, "channels": [8, 16, 32, 64], "num_epochs": 18, "batch_size": 4, "lr": 2e-3, "shuffle": True,
}  # fmt: skip


def arm_runs(arm: str) -> list[Run]:
    """The three trainings of an arm, on phantoms."""
    own = ARMS[arm]
    row = {"preset": "authors_code"} | own
    if switches := TABLE.get(own["model"], {}) | own.get("switches", {}):
        row["switches"] = switches
    return [Run(TRAINING, {**ARM_SETTINGS, **row, "seed": seed}) for seed in range(3)]


def recorded(notebook: str) -> list[Run]:
    """Long runs whose recorded results a notebook shows.

    Of Table 1, fold by fold: first the authors' reading, then the text's. Of the careful reader, arm by arm.
    """
    if notebook == "multifractal/04-excitations":
        grid = recorded("multifractal/03-table-1")
        return with_and_without_skips([run for run in grid if run.settings["preset"] == "authors_code"])
    if notebook == "multifractal/05-cost":
        return [Run(COSTS, {**COST["gpu"], "seed": 0}, alone=True)]
    if notebook == "multifractal/06-careful-reader":
        leaks = [Run(LEAKAGE, {"data": data, "size": 64}) for data in ("busi", "kvasir", "isic18")]
        return [run for arm in ARMS for run in arm_runs(arm)] + leaks
    if notebook != "multifractal/03-table-1":
        return []
    first = [(model, "authors_code", fold) for fold in range(3) for model in MODELS]
    second = [(model, "paper", fold) for fold in range(3) for model in READ_TWICE]
    return [
        Run(TRAINING, {"data": "busi", "seed": 0, "fold": fold, **_row(model, preset), **RECORDED})
        for model, preset, fold in first + second
    ]


def _row(model: str, preset: str) -> dict[str, Any]:
    """Settings that belong to a row of Table 1."""
    return {"model": model, "preset": preset} | ({"switches": TABLE[model]} if model in TABLE else {})


def _table_runs(
    settings: dict[str, Any], *, seed: int = 0, data: str = "phantom", preset: str = "authors_code"
) -> list[Run]:
    """Seven networks by seeds on phantoms, by folds on a real set, in one reading."""
    device = settings.get("train_device", settings["device"])
    numbers = range(settings["train_seeds"])
    if data.startswith("phantom"):
        cases = [{"seed": seed + n, **settings["phantoms"], "phantom": PHANTOM} for n in numbers]
    else:
        folds = range(min(settings["train_seeds"], settings["real"]["num_folds"]))
        cases = [{"seed": seed, "fold": n, **settings["real"]} for n in folds]
    kept = {model: {"keep_weights": True} for model in READ_TWICE}  # other notebooks look into these networks
    return [
        Run(TRAINING, {"data": data, **case, **_row(model, preset), **settings["train"], **kept.get(model, {})}, device)
        for case in cases
        for model in MODELS
    ]


def _attention_runs(
    settings: dict[str, Any], *, seed: int = 0, data: str = "phantom", preset: str = "authors_code"
) -> list[Run]:
    """The first Multi network of Table 1, to look into."""
    return _table_runs(settings | {"train_seeds": 1}, seed=seed, data=data, preset=preset)[-1:]


#: Images of the timed networks, profile by profile; the paper's are 224 x 224.
COST = {
    "smoke": {"size": 32, "batch_size": 4, "channels": [8, 16, 32, 64], "rounds": 1},
    "cpu": {"size": 48, "batch_size": 4, "channels": [32, 64, 128, 256], "rounds": 3},
    "gpu": {"size": 112, "batch_size": 4, "channels": [32, 64, 128, 256], "rounds": 5},
    "paper": {"size": 224, "batch_size": 16, "channels": [32, 64, 128, 256], "rounds": 5},
}


def _cost_runs(settings: dict[str, Any], *, seed: int = 0) -> list[Run]:
    """All variants timed in one run, so that they share its minutes; on a CPU at every profile."""
    [profile] = [name for name, known in PROFILES.items() if known is settings]
    return [Run(COSTS, {**COST[profile], "seed": seed}, alone=True)]


def _reader_runs(
    settings: dict[str, Any], *, seed: int = 0, data: str = "phantom", preset: str = "authors_code"
) -> list[Run]:
    """Mono and Multi of Table 1, to be tested again."""
    planned = _table_runs(settings, seed=seed, data=data, preset=preset)
    return [run for run in planned if run.settings["model"] in READ_TWICE]


def _exponent_runs(settings: dict[str, Any], *, seed: int = 0, data: str = "phantom") -> list[Run]:
    shape = {"size": settings["surface_size"], "torus": settings["surface_torus"]}
    surfaces = [
        Run(SURFACES, {"hurst": hurst, "seed": seed + number, **shape}, settings["device"])
        for hurst in settings["hurst"]
        for number in range(settings["surface_seeds"])
    ]
    # the phantom whose lesions differ in darkness alone is the control without any scaling cue
    sets = [data, "phantom-mean"] if data.startswith("phantom") else [data]
    lesion = {"seed": seed, "count": settings["lesion_count"], "size": settings["lesion_size"]}
    return surfaces + [Run(LESIONS, {"data": name, **lesion}, settings["device"]) for name in sets]
