"""Forward processes: drift, diffusion, prior, transition kernels, integrators and time grids.

Not here: the simulation of training examples (`ndsm.simulation`) and the way back (`ndsm.samplers`).
"""

from ndsm.processes.base import Prior, Process, Transition, require
from ndsm.processes.components import Components, of_components
from ndsm.processes.grids import forward_grid, geometric_grid, reverse_grid, uniform_grid
from ndsm.processes.langevin import Langevin
from ndsm.processes.linear import OU, VE, VP, Linear, SubVP
from ndsm.processes.marginal import MarginalMixtureOU
from ndsm.processes.mixture_ou import MixtureOU

__all__ = [
    "OU",
    "VE",
    "VP",
    "Components",
    "Langevin",
    "Linear",
    "MarginalMixtureOU",
    "MixtureOU",
    "Prior",
    "Process",
    "SubVP",
    "Transition",
    "forward_grid",
    "geometric_grid",
    "of_components",
    "require",
    "reverse_grid",
    "uniform_grid",
]
