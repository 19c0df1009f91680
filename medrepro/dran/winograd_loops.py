"""Winograd's transforms of 4 x 4 tiles, tile by tile in the first-level cache; compiled when first needed (Numba).

A tile's 36 numbers lie in rows of up to `PITCH` channels, side by side in one workspace, so that every step is the same
arithmetic on neighbouring channels. Points are 0, 1, -1, 2, -2 and infinity, as those of the kernels in `winograd`.
"""

import numpy as np
from numba import njit

PITCH = 64
PLAIN, RELU, GATE = 0, 1, 2  # what is done with an output

ONE, HALF, LEAK = np.float32(1), np.float32(0.5), np.float32(0.2)
LOG2E, LARGE, BIAS, MANTISSA = np.float32(1.44269504), np.float32(126), np.int32(127), np.int32(23)
#: Taylor polynomial of 2^t, lowest power first: on [-1/2, 1/2] within 2e-7.
EXP2 = tuple(np.float32(np.log(2) ** n / factor) for n, factor in enumerate((1, 1, 2, 6, 24, 120, 720)))

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
part = njit(nogil=True, error_model="numpy", fastmath={"contract"}, no_cpython_wrapper=True, forceinline=True)


@part
def _input_axis(w, row, step, n, k):
    """Six inputs along one axis, in place; k holds 2, 4, 5, 8 in the type of w."""
    two, four, five = k[0], k[1], k[2]
    s1, row = np.uintp(step), np.uintp(row)
    s2, s3 = s1 + s1, s1 + s1 + s1
    s4, s5 = s2 + s2, s2 + s3
    for c in range(np.uintp(n)):
        at = row + c
        d0, d1, d2 = w[at], w[at + s1], w[at + s2]
        d3, d4, d5 = w[at + s3], w[at + s4], w[at + s5]
        even, odd = d4 - four * d2, d3 - four * d1
        near, far = d4 - d2, two * (d3 - d1)
        w[at] = four * d0 - five * d2 + d4
        w[at + s1] = even + odd
        w[at + s2] = even - odd
        w[at + s3] = near + far
        w[at + s4] = near - far
        w[at + s5] = four * d1 - five * d3 + d5


@part
def _output_axis(w, row, step, n, k):
    """Six products to four outputs along one axis, in place."""
    two, four, eight = k[0], k[1], k[3]
    s1, row = np.uintp(step), np.uintp(row)
    s2, s3 = s1 + s1, s1 + s1 + s1
    s4, s5 = s2 + s2, s2 + s3
    for c in range(np.uintp(n)):
        at = row + c
        m0, m1, m2 = w[at], w[at + s1], w[at + s2]
        m3, m4, m5 = w[at + s3], w[at + s4], w[at + s5]
        near, apart, far, gap = m1 + m2, m1 - m2, m3 + m4, m3 - m4
        w[at] = m0 + near + far
        w[at + s1] = apart + two * gap
        w[at + s2] = near + four * far
        w[at + s3] = apart + eight * gap + m5


@part
def _transposed_axis(w, row, step, n, k):
    """Four gradients of outputs to six of products along one axis, in place."""
    two, four, eight = k[0], k[1], k[3]
    s1, row = np.uintp(step), np.uintp(row)
    s2, s3 = s1 + s1, s1 + s1 + s1
    s4, s5 = s2 + s2, s2 + s3
    for c in range(np.uintp(n)):
        at = row + c
        g0, g1, g2, g3 = w[at], w[at + s1], w[at + s2], w[at + s3]
        even, odd = g0 + g2, g1 + g3
        far, gap = g0 + four * g2, two * g1 + eight * g3
        w[at + s1] = even + odd
        w[at + s2] = even - odd
        w[at + s3] = far + gap
        w[at + s4] = far - gap
        w[at + s5] = g3


@part
def _take(x, top, left, side, reflect, start, n, w):
    """A square of a map (H, W, C), `side` pixels wide in rows of six, n channels from `start` on; the border is made here."""
    height, width = x.shape[0], x.shape[1]
    for i in range(side):
        r = top + i
        if reflect and (r == -1 or r == height):
            r = 1 if r < 0 else height - 2
        for j in range(side):
            c, row = left + j, (6 * i + j) * PITCH
            if reflect and (c == -1 or c == width):
                c = 1 if c < 0 else width - 2
            if 0 <= r < height and 0 <= c < width:
                for channel in range(n):
                    w[np.uintp(row + channel)] = x[r, c, np.uintp(start + channel)]
            else:
                for channel in range(n):
                    w[np.uintp(row + channel)] = 0


@part
def _keep(w, start, n, tile, out):
    """The 36 rows of a tile into `out` (36, tiles, C)."""
    for i in range(36):
        for channel in range(n):
            out[i, tile, np.uintp(start + channel)] = w[np.uintp(i * PITCH + channel)]


@compiled
def input_tiles(x, first, columns, pad, reflect, k, out):
    """Transformed tiles first, first + 1, ... of a map (H, W, C), `columns` in a row, into `out` (36, tiles, C)."""
    w = np.empty(36 * PITCH, x.dtype)
    for tile in range(out.shape[1]):
        top, left = 4 * ((first + tile) // columns) - pad, 4 * ((first + tile) % columns) - pad
        for start in range(0, x.shape[2], PITCH):
            n = min(PITCH, x.shape[2] - start)
            _take(x, top, left, 6, reflect, start, n, w)
            for i in range(6):
                _input_axis(w, 6 * i * PITCH, PITCH, n, k)
            for j in range(6):
                _input_axis(w, j * PITCH, 6 * PITCH, n, k)
            _keep(w, start, n, tile, out)


@compiled
def gradient_tiles(grad, first, columns, k, out):
    """Tiles of the gradient of outputs (H, W, O), carried back to the products, into `out` (36, tiles, O)."""
    w = np.empty(36 * PITCH, grad.dtype)
    for tile in range(out.shape[1]):
        top, left = 4 * ((first + tile) // columns), 4 * ((first + tile) % columns)
        for start in range(0, grad.shape[2], PITCH):
            n = min(PITCH, grad.shape[2] - start)
            _take(grad, top, left, 4, False, start, n, w)
            for i in range(4):
                _transposed_axis(w, 6 * i * PITCH, PITCH, n, k)
            for j in range(6):
                _transposed_axis(w, j * PITCH, 6 * PITCH, n, k)
            _keep(w, start, n, tile, out)


@part
def _outputs(products, tile, start, n, k, w, base):
    """Outputs of a tile, n channels from `start` on, in rows of six from `base` on."""
    for i in range(36):
        for channel in range(n):
            w[np.uintp(base + i * PITCH + channel)] = products[i, tile, np.uintp(start + channel)]
    for i in range(6):
        _output_axis(w, base + 6 * i * PITCH, PITCH, n, k)
    for j in range(4):
        _output_axis(w, base + j * PITCH, 6 * PITCH, n, k)


@part
def _exp2(x):
    """2^x of a float32, x within +-126."""
    x = min(max(x, -LARGE), LARGE)
    whole = np.floor(x + HALF)
    t = x - whole
    p = EXP2[6]
    p = p * t + EXP2[5]
    p = p * t + EXP2[4]
    p = p * t + EXP2[3]
    p = p * t + EXP2[2]
    p = p * t + EXP2[1]
    p = p * t + EXP2[0]
    return p * np.int32(np.int32(np.int32(whole) + BIAS) << MANTISSA).view(np.float32)


@compiled
def output_tiles(products, first, columns, bias, purpose, k, y):
    """Products (36, tiles, O) to pixels of y (H, W, O), with bias; after a ReLU, or (H, W, O / 2) gated, if so wished."""
    height, width, channels = y.shape
    w = np.empty(72 * PITCH, y.dtype)
    for tile in range(products.shape[1]):
        top, left = 4 * ((first + tile) // columns), 4 * ((first + tile) % columns)
        for start in range(0, channels, PITCH):
            n = min(PITCH, channels - start)
            _outputs(products, tile, start, n, k, w, 0)
            if purpose == GATE:
                _outputs(products, tile, channels + start, n, k, w, 36 * PITCH)
            for i in range(min(4, height - top)):
                for j in range(min(4, width - left)):
                    row = (6 * i + j) * PITCH
                    for channel in range(n):
                        at = np.uintp(start + channel)
                        value = w[np.uintp(row + channel)] + bias[at]
                        if purpose == RELU:
                            value = max(value, np.float32(0))
                        elif purpose == GATE:
                            mask = w[np.uintp(row + 36 * PITCH + channel)] + bias[np.uintp(channels + start + channel)]
                            value = max(value, value * LEAK) / (ONE + _exp2(-mask * LOG2E))
                        y[top + i, left + j, at] = value
