"""Forward processes: drift, diffusion, prior, transition kernels, integrators and time grids.

Not here: the simulation of training examples (`ndsm.simulation`) and the way back (`ndsm.samplers`).
"""

from ndsm.processes.grids import geometric_grid, uniform_grid
from ndsm.processes.langevin import Langevin, Prior, Process, forward_grid, reverse_grid
from ndsm.processes.linear import OU, VE, VP, Linear, SubVP

__all__ = [
    "OU",
    "VE",
    "VP",
    "Langevin",
    "Linear",
    "Prior",
    "Process",
    "SubVP",
    "forward_grid",
    "geometric_grid",
    "reverse_grid",
    "uniform_grid",
]
