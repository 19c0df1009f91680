"""``python -m medrepro.compiled``: compile the loops of large maps, which are then kept beside the sources.

Whoever skips this waits some seconds when a loop is first needed.
"""

import torch

from medrepro.dran.winograd import conv3x3
from medrepro.multifractal.exponent_gradients import SlopeSettings
from medrepro.multifractal.exponent_loops import CompiledExponents


def main() -> None:
    """Call every loop once, in single precision."""
    planes, c = torch.rand(1, 9, 9), torch.tensor([-0.5, 0.5])
    exponents = CompiledExponents(planes, c, SlopeSettings((2, 8), framed=True, eps=1e-7))
    exponents.gradient(exponents.alpha(), to_c=True)
    x, weight = torch.rand(1, 48, 16, 16), torch.rand(1, 48, 48, 3, 3)
    conv3x3(x.requires_grad_(), weight.requires_grad_()).sum().backward()
    with torch.no_grad():
        conv3x3(x, weight)


if __name__ == "__main__":
    main()
