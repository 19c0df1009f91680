"""Fractal dimension of grey surfaces by differential box counting (Sarkar and Chaudhuri 1994).

Background to Martins, Coimbra, Renna 2025, who replace such counting, which passes no useful gradient, by a local slope.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def differential_box_counts(
    image: ArrayLike, *, levels: float = 256, sides: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Boxes that the grey surface of an image needs, at several box sides (Sarkar and Chaudhuri 1994).

    The square of N x N pixels with `levels` grey levels above it is a cube. At side k it is cut into columns of k x k
    pixels and boxes of height :math:`h = k\,levels / N`; a column counts every box from its lowest to its highest grey
    value, :math:`\lfloor max/h \rfloor - \lfloor min/h \rfloor + 1`.

    Parameters
    ----------
    image
        Grey values, shape (N, N), at least 0 and below `levels`; integers or not.
    levels
        Height of the cube in grey levels.
    sides
        Box sides in pixels, divisors of N, each from 2 to N / 2; default all that are powers of two.

    Returns
    -------
    sides, counts : ndarray
        Box sides, ascending, and the number of boxes at each, shape (S,).

    Raises
    ------
    ValueError
        Not a square image, values out of range, or fewer than two sides that divide N.
    """
    heights = np.asarray(image, dtype=np.float64)
    if heights.ndim != 2 or heights.shape[0] != heights.shape[1]:
        raise ValueError(f"box counting needs a square grey image (N, N), got {heights.shape}: crop it")
    if not (np.isfinite(heights).all() and heights.min() >= 0 and heights.max() < levels):
        raise ValueError(
            f"grey values run from {heights.min():g} to {heights.max():g}, expected at least 0 and below levels, "
            f"{levels:g}: stretch the image or set levels"
        )
    size = heights.shape[0]
    wanted = 2 ** np.arange(1, size.bit_length()) if sides is None else np.sort(np.asarray(sides, int))
    fitting = wanted[(wanted >= 2) & (2 * wanted <= size)]
    fitting = fitting[size % fitting == 0]
    if len(fitting) < 2 or (sides is not None and len(fitting) < len(wanted)):
        raise ValueError(
            f"box sides {wanted.tolist()} on {size} x {size} pixels: expected two or more divisors of {size} from 2 to "
            f"{size // 2}; crop the image to a power of two"
        )
    counts = []
    for side in fitting:
        columns = heights.reshape(size // side, side, size // side, side)
        box = side * levels / size
        top, bottom = np.floor(columns.max(axis=(1, 3)) / box), np.floor(columns.min(axis=(1, 3)) / box)
        counts.append(int((top - bottom + 1).sum()))
    return fitting, np.array(counts)


def box_dimension(image: ArrayLike, *, levels: float = 256, sides: Sequence[int] | None = None) -> float:
    """Fractal dimension of a grey surface: minus the slope of log boxes against log side; 2 is flat, 3 fills space.

    Arguments and errors are those of `differential_box_counts`. The estimate depends on contrast: a surface that spans
    few of the `levels` looks flat.
    """
    sides, counts = differential_box_counts(image, levels=levels, sides=sides)
    return -float(np.polyfit(np.log(sides), np.log(counts), 1)[0])
