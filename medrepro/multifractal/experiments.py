"""Settings of the chapter's experiments, profile by profile, and the runs behind each notebook."""

from typing import Any

from medrepro.runs import Run

SURFACES = "medrepro.multifractal.exponent_statistics:surface_statistics"
LESIONS = "medrepro.multifractal.exponent_statistics:lesion_statistics"

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
    },
    "cpu": {
        "device": "cpu", "hurst": HURST, "surface_seeds": 5, "surface_size": 512, "surface_torus": 1024,
        "lesion_count": 120, "lesion_size": 128,
    },
    "gpu": {
        "device": "cpu",      # statistics of some images: a GPU would idle
        "hurst": HURST, "surface_seeds": 20, "surface_size": 512, "surface_torus": 1024,
        "lesion_count": 400, "lesion_size": 224,
    },
    "paper": {
        "device": "cpu", "hurst": HURST, "surface_seeds": 50, "surface_size": 1024, "surface_torus": 2048,
        "lesion_count": 3000, "lesion_size": 224,  # the whole sets, at the paper's 224 pixels
    },
}  # fmt: skip


def runs(notebook: str, profile: str, **parameters: Any) -> list[Run]:
    """Runs behind a notebook of this chapter, listed and not computed.

    Raises
    ------
    ValueError
        The notebook is not of this chapter, or the profile is unknown.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
    planners = {"multifractal/01-local-holder-exponent": _exponent_runs}
    if notebook not in planners:
        raise ValueError(f"unknown notebook {notebook!r}; this chapter has {', '.join(planners)}")
    return planners[notebook](PROFILES[profile], **parameters)


def recorded(notebook: str) -> list[Run]:
    """Long runs whose recorded results a notebook shows."""
    return []


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
