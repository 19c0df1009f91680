"""A tabulated function of one number, read off a map, and the gradients of map and table."""

import torch
from torch import Tensor


class Reader:
    """A tabulated function, linear between grid points, read off block after block of a map.

    Places are flat vectors of a block: distances from the grid's first point, in steps. They are overwritten.

    Parameters
    ----------
    table
        The function at grid points, shape (points,).
    step
        Distance of grid points.
    like
        A tensor of the dtype and device of places.
    size
        Largest number of places in a block; the buffers are made once.
    """

    def __init__(self, table: Tensor, step: Tensor | float, like: Tensor, size: int) -> None:
        self.last, dtype = len(table) - 2, like.dtype
        self.heights, self.rises = table.to(dtype), table.diff().to(dtype)
        self.slopes = self.rises / step
        self.counts = torch.zeros_like(table, dtype=torch.float64)
        self.rooms = [like.new_empty(size) for _ in range(2)]
        self.indices = torch.empty(size, dtype=torch.long, device=like.device)

    def left_of(self, places: Tensor) -> Tensor:
        """Grid point to the left of every place, which becomes its distance from there."""
        whole, left = self.rooms[0][: len(places)], self.indices[: len(places)]
        left.copy_(torch.floor(places, out=whole).clamp_(0, self.last))
        places.sub_(whole)
        return left

    def values(self, places: Tensor, out: Tensor) -> Tensor:
        """The function at places, into `out`."""
        left = self.left_of(places)
        heights, rises = (room[: len(places)] for room in self.rooms)
        read(self.heights, left, heights)
        return torch.addcmul(heights, read(self.rises, left, rises), places, out=out)

    def gradient(self, places: Tensor, upstream: Tensor, out: Tensor) -> Tensor:
        """Gradient of the map, into `out`; that of the table is added to `counts`."""
        left = self.left_of(places)
        read(self.slopes, left, out).mul_(upstream)
        self.count(left, upstream, places.mul_(upstream))
        return out

    def count(self, left: Tensor, weight: Tensor, to_right: Tensor) -> None:
        """Add the weight of every place to `counts`, `to_right` of it to the grid point to its right, the rest to its left."""
        left, both = _in_rows(left), _in_rows(torch.complex(weight, to_right))  # one sum of pairs
        sums = both.new_zeros(len(left), len(self.counts)).scatter_add_(1, left, both)
        weight, to_right = torch.view_as_real(sums).double().sum(0).unbind(-1)
        self.counts += weight - to_right
        self.counts[1:] += to_right[:-1]


def _in_rows(x: Tensor) -> Tensor:
    """A vector in rows of equal length, one for each thread if that divides it: a row is read or summed up by one thread."""
    rows = torch.get_num_threads() if x.device.type == "cpu" else 1
    return x.view(rows if len(x) % rows == 0 else 1, -1)


def read(table: Tensor, places: Tensor, out: Tensor) -> Tensor:
    """Entries of a table, into `out`."""
    places = _in_rows(places)
    torch.gather(table.expand(len(places), -1), 1, places, out=_in_rows(out))
    return out
