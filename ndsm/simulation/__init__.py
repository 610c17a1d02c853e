"""Simulation: blocks of training examples as functions of a seed and an index, and the layout of a row.

Not here: who runs it and where blocks go (`ndsm.training`, `pipelines`), and the processes themselves.
"""

from ndsm.simulation.batches import one_step_batches
from ndsm.simulation.held_out_rows import held_out_rows
from ndsm.simulation.records import (
    COMPONENT,
    LABEL,
    ONE_STEP,
    ONE_STEP_AND_PROBE,
    ONE_STEP_AND_SIGNAL,
    WHOLE_PATH,
    RowLayout,
    paths_per_block,
)
from ndsm.simulation.rollout import RolloutSpec, rollout

__all__ = [
    "COMPONENT",
    "LABEL",
    "ONE_STEP",
    "ONE_STEP_AND_PROBE",
    "ONE_STEP_AND_SIGNAL",
    "WHOLE_PATH",
    "RolloutSpec",
    "RowLayout",
    "held_out_rows",
    "one_step_batches",
    "paths_per_block",
    "rollout",
]
