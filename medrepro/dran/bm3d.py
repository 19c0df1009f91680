"""Block matching and 3-D filtering, grey and colour (Dabov, Foi, Katkovnik, Egiazarian 2007), in NumPy.

Stage one thresholds the spectrum of groups of similar blocks, stage two filters it by Wiener's rule with stage one as
the pilot. Own implementation from the published description: the block transform is a cosine transform in both stages.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import fft

BLOCK = 8
HARD = 2.7  # threshold in standard deviations
CHUNK = 1024  # groups filtered at once
ENTRIES = 1 << 22  # squares of differences held at once

# orthonormal: luminance first, then the two differences of the opponent colour space
OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])


@dataclass(frozen=True)
class Stage:
    """Settings of a stage: blocks in a group, greatest mean square distance in [0, 1] units, search radius, step."""

    most: int
    distance: float
    radius: int = 19
    step: int = 3


def stages(sigma: float) -> tuple[Stage, Stage]:
    """Settings for a noise level, sigma in [0, 1] units: wider groups of less similar blocks above 40 of 255."""
    if sigma * 255 <= 40:
        return Stage(16, 2500 / 255**2), Stage(32, 400 / 255**2)
    return Stage(16, 5000 / 255**2), Stage(32, 3500 / 255**2)


def bm3d(noisy: np.ndarray, *, sigma: float, colour: str = "opponent", radius: int = 19, step: int = 3) -> np.ndarray:
    """Denoise an image with white Gaussian noise of known strength.

    Parameters
    ----------
    noisy
        Shape (H, W), or (H, W, 3) for colour, floats in [0, 1]; not clipped. H and W at least 8.
    sigma
        Standard deviation of the noise in the same unit, above 0, the same in every channel.
    colour
        ``opponent`` filters luminance and two colour differences, which suits images whose channels are alike;
        ``shared`` filters the channels as they are. Grey images have no choice.
    radius
        Largest distance of a similar block from the reference block, in pixels, along each axis.
    step
        Distance between reference blocks in pixels, 1 to 8.

    Returns
    -------
    ndarray
        Estimate, same shape, float32, not clipped.

    Raises
    ------
    ValueError
        Another shape; an entry is not finite; `sigma`, `step` or `colour` out of range.

    Notes
    -----
    Blocks of colour images are matched once, on the luminance (``opponent``) or the first channel (``shared``); every
    channel is filtered in the same groups. About 5 s for 256 x 256 in colour on one thread.

    References
    ----------
    .. [1] Dabov, Foi, Katkovnik, Egiazarian. Image denoising by sparse 3-D transform-domain collaborative filtering.
       IEEE Transactions on Image Processing 16, 2007.
    """
    noisy = np.asarray(noisy)
    if noisy.ndim not in (2, 3) or (noisy.ndim == 3 and noisy.shape[2] != 3) or min(noisy.shape[:2]) < BLOCK:
        raise ValueError(f"bm3d takes images (H, W) or (H, W, 3) with sides of at least {BLOCK}, got {noisy.shape}")
    if not np.isfinite(noisy).all():
        raise ValueError("the image has NaN or infinite entries: mend them before denoising")
    if not sigma > 0 or not 1 <= step <= BLOCK:
        raise ValueError(f"sigma is {sigma}, step is {step}: sigma must be above 0, step from 1 to {BLOCK}")
    if colour not in ("opponent", "shared"):
        raise ValueError(f"colour is {colour!r}: choose opponent or shared")
    mixing = np.eye(1 if noisy.ndim == 2 else 3) if noisy.ndim == 2 or colour == "shared" else OPPONENT
    planes = (mixing @ noisy.reshape(-1, len(mixing)).T).astype(np.float32).reshape(-1, *noisy.shape[:2])
    hard, wiener = (Stage(s.most, s.distance, radius, step) for s in stages(sigma))
    pilot = _filter(planes, None, hard, sigma)
    result = _filter(planes, pilot, wiener, sigma)
    return (mixing.T @ result.reshape(len(mixing), -1)).T.reshape(noisy.shape).astype(np.float32)


def match_blocks(plane: np.ndarray, stage: Stage, *, penalty: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The blocks most similar to each reference block.

    Parameters
    ----------
    plane
        Shape (H, W).
    stage
        Search window, step, greatest distance and number of blocks.
    penalty
        Subtracted from mean square distances before they meet the greatest one: twice the noise's variance in a noisy
        plane.

    Returns
    -------
    rows, columns
        Upper left corners, shape (R, most), nearest first; the reference itself is the first.
    counts
        Blocks within the greatest distance, rounded down to a power of two, shape (R,).
    """
    rows, columns = (_corners(side, stage.step) for side in plane.shape)
    shifts = np.arange(-stage.radius, stage.radius + 1)
    best = np.full((stage.most, rows.size * columns.size), np.inf, np.float32)
    place = np.zeros(best.shape, np.int32)
    parts = np.array_split(np.arange(shifts.size), -(-plane.size * shifts.size // ENTRIES))
    for index, part in itertools.product(range(shifts.size), parts):
        found = _distances(plane, shifts[index], shifts[part], rows, columns).reshape(part.size, -1)
        labels = (index * shifts.size + part).astype(np.int32)
        values = np.concatenate([best, found])
        labels = np.concatenate([place, np.broadcast_to(labels[:, None], found.shape)])
        kept = np.argpartition(values, stage.most - 1, axis=0)[: stage.most]
        best, place = np.take_along_axis(values, kept, 0), np.take_along_axis(labels, kept, 0)
    order = np.lexsort((place, best), axis=0)
    best, place = np.take_along_axis(best, order, 0), np.take_along_axis(place, order, 0)
    near = np.maximum(1, (best - penalty <= stage.distance).sum(0))
    counts = 2 ** np.floor(np.log2(near)).astype(int)
    moved = np.stack([shifts[place // shifts.size], shifts[place % shifts.size]], -1)  # (most, R, 2)
    corner = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    found = np.where((np.arange(stage.most)[:, None] < counts)[..., None], corner + moved, corner)
    return found[..., 0].T, found[..., 1].T, counts


def _corners(side: int, step: int) -> np.ndarray:
    """Upper or left ends of reference blocks; the last one touches the border."""
    return np.unique(np.append(np.arange(0, side - BLOCK + 1, step), side - BLOCK))


def _distances(plane: np.ndarray, r: int, shifts: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Mean square distance of each reference block to those r rows and every shift of columns further.

    Shape (shifts, rows, columns); infinite outside the plane, -1 to itself.
    """
    height, width = plane.shape
    result = np.full((shifts.size, rows.size, columns.size), np.inf, np.float32)
    top, bottom = max(0, -r), min(height, height - r)
    in_rows = (rows >= top) & (rows + BLOCK <= bottom)
    if not in_rows.any():
        return result
    reach = max(-shifts[0], shifts[-1], 0)
    framed = np.pad(plane[top + r : bottom + r], ((0, 0), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, width, axis=1)
    further = windows[:, reach + shifts[0] : reach + shifts[-1] + 1]
    squares = (plane[top:bottom, None] - further) ** 2
    sums = _sums_of_eight(squares, 0)[rows[in_rows] - top]
    sums = _sums_of_eight(sums, 2)[..., columns]
    result[:, in_rows] = sums.transpose(1, 0, 2) / BLOCK**2
    to = columns + shifts[:, None]
    result[np.broadcast_to(((to < 0) | (to + BLOCK > width))[:, None], result.shape)] = np.inf
    if r == 0:
        result[shifts == 0] = -1
    return result


def _sums_of_eight(x: np.ndarray, axis: int) -> np.ndarray:
    """Sums over eight neighbours along an axis, wherever they fit, by doubling."""
    x = np.moveaxis(x, axis, -1)
    for span in (1, 2, 4):
        x = x[..., :-span] + x[..., span:]
    return np.moveaxis(x, -1, axis)


def haar(size: int) -> np.ndarray:
    """Orthonormal Haar matrix of a power of two, shape (size, size).

    Examples
    --------
    >>> (haar(2) * 2**0.5).round(6).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.vstack([np.kron(matrix, [1, 1]), np.kron(np.eye(len(matrix)), [1, -1])]) / np.sqrt(2)
    return matrix.astype(np.float32)


def _filter(planes: np.ndarray, pilot: np.ndarray | None, stage: Stage, sigma: float) -> np.ndarray:
    """One stage: match in the pilot, else in the noisy planes; filter every group; average the blocks."""
    guide = planes if pilot is None else pilot
    rows, columns, counts = match_blocks(guide[0], stage, penalty=2 * sigma**2 if pilot is None else 0.0)
    total, weights = np.zeros_like(planes, dtype=np.float64), np.zeros_like(planes, dtype=np.float64)
    for count in np.unique(counts):
        chosen = np.flatnonzero(counts == count)
        transform = haar(count)
        for start in range(0, chosen.size, CHUNK):
            some = chosen[start : start + CHUNK]
            corners = rows[some, :count], columns[some, :count]
            for plane in range(len(planes)):
                spectrum = _forward(planes[plane], *corners, transform)
                if pilot is None:
                    keep = np.abs(spectrum) >= HARD * sigma
                    gain = keep.astype(np.float32)
                else:
                    power = _forward(pilot[plane], *corners, transform) ** 2
                    gain = power / (power + np.float32(sigma**2))
                weight = 1 / np.maximum(1e-6 if pilot is not None else 1, (gain**2).sum((1, 2, 3)))
                blocks = fft.idctn(
                    np.tensordot(spectrum * gain, transform, (1, 0)).transpose(0, 3, 1, 2), axes=(2, 3), norm="ortho"
                )
                _add(total[plane], weights[plane], blocks, weight, *corners)
    return (total / weights).astype(np.float32)


def _forward(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Spectra of groups, shape (G, count, 8, 8)."""
    windows = np.lib.stride_tricks.sliding_window_view(plane, (BLOCK, BLOCK))
    spectra = fft.dctn(windows[rows, columns], axes=(2, 3), norm="ortho")
    return np.einsum("ij,gjrc->girc", transform, spectra, optimize=True)


WINDOW = np.outer(np.kaiser(BLOCK, 2), np.kaiser(BLOCK, 2))


def _add(
    total: np.ndarray,
    weights: np.ndarray,
    blocks: np.ndarray,
    weight: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Add weighted blocks, and their weights, where they belong."""
    width = total.shape[1]
    inside = np.arange(BLOCK)[:, None] * width + np.arange(BLOCK)
    index = ((rows * width + columns)[..., None, None] + inside).ravel()
    share = np.broadcast_to(weight[:, None, None, None] * WINDOW, blocks.shape)
    total += np.bincount(index, (blocks * share).ravel(), total.size).reshape(total.shape)
    weights += np.bincount(index, share.ravel(), total.size).reshape(total.shape)
