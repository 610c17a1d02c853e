"""Forward processes, their time grids, and the simulation that records training examples."""

from ndsm.processes.batches import one_step_batches
from ndsm.processes.grids import geometric_grid, uniform_grid
from ndsm.processes.langevin import Langevin, Prior, Process, forward_grid, reverse_grid
from ndsm.processes.linear import OU, VE, VP, Linear, SubVP
from ndsm.processes.rollout import (
    LABEL,
    ONE_STEP,
    ONE_STEP_AND_PROBE,
    WHOLE_PATH,
    RolloutSpec,
    RowLayout,
    paths_per_block,
    rollout,
)

__all__ = [
    "LABEL",
    "ONE_STEP",
    "ONE_STEP_AND_PROBE",
    "OU",
    "VE",
    "VP",
    "WHOLE_PATH",
    "Langevin",
    "Linear",
    "Prior",
    "Process",
    "RolloutSpec",
    "RowLayout",
    "SubVP",
    "forward_grid",
    "geometric_grid",
    "one_step_batches",
    "paths_per_block",
    "reverse_grid",
    "rollout",
    "uniform_grid",
]
