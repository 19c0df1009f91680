"""Settings of the notebook on spectra, profile by profile, and its runs."""

from typing import Any

from medrepro.runs import Run

SURFACE = "medrepro.multifractal.spectrum_runs:box_counting_of_surface"
TEXTURE = "medrepro.multifractal.spectrum_runs:texture_spectrum"

HURST = (0.2, 0.35, 0.5, 0.65, 0.8)
#: Real images from installed packages: three photographs, histology, MR, ultrasound.
TEXTURES = ("brick", "grass", "gravel", "ihc", "mr-abdomen", "us-heart")

SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {
        "levels": 6,            # subdivisions of the cascade: 64 pixels a side
        "hurst": (0.2, 0.5, 0.8),
        "surface_seeds": 2,     # surfaces a Hurst exponent
        "surface_size": 128,    # pixels
        "surface_torus": 256,   # pixels of the periodic surface they are cut from
        "texture_size": 128,    # largest crop in pixels
        "surrogates": 2,        # shuffled copies an image
    },
    "cpu": {
        "levels": 8, "hurst": HURST, "surface_seeds": 5, "surface_size": 512, "surface_torus": 1024,
        "texture_size": 512, "surrogates": 5,
    },
    "gpu": {
        "levels": 10, "hurst": HURST, "surface_seeds": 20, "surface_size": 512, "surface_torus": 1024,
        "texture_size": 512, "surrogates": 20,
    },
    "paper": {
        "levels": 10, "hurst": HURST, "surface_seeds": 50, "surface_size": 1024, "surface_torus": 2048,
        "texture_size": 1024, "surrogates": 50,
    },
}  # fmt: skip


def spectrum_runs(profile: str, *, seed: int = 0, p: float = 0.3) -> list[Run]:
    """Runs of the notebook: surfaces first, then textures. The share `p` belongs to the cascade on the page alone."""
    settings = SETTINGS[profile]
    surface = {"size": settings["surface_size"], "torus": settings["surface_torus"]}
    texture = {"size": settings["texture_size"], "surrogates": settings["surrogates"]}
    numbers = range(settings["surface_seeds"])
    surfaces = [Run(SURFACE, {"hurst": h, "seed": seed + n, **surface}) for h in settings["hurst"] for n in numbers]
    return surfaces + [Run(TEXTURE, {"image": name, "seed": seed, **texture}) for name in TEXTURES]
