"""Forward processes: drift, diffusion, prior, transition kernels, integrators and time grids.

Not here: the simulation of training examples (`ndsm.simulation`) and the way back (`ndsm.samplers`).
"""

from ndsm.processes.base import Prior, Process, Transition, require
from ndsm.processes.grids import forward_grid, geometric_grid, reverse_grid, uniform_grid
from ndsm.processes.langevin import Langevin
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
    "Transition",
    "forward_grid",
    "geometric_grid",
    "require",
    "reverse_grid",
    "uniform_grid",
]
