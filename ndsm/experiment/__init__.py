"""A run from its configuration to its evaluation; how the steps are executed is left to the caller.

`prepare` reads the data and fits or reads the mixture, `begin` writes what the run is, `start` gives a trainer at
the step where the run stands, `saved` keeps the run directory up to date while it trains, `evaluate_run` samples and
compares with the data.
"""

from ndsm.experiment.evaluation import Stage, evaluate_checkpoint, evaluate_run, note_evaluation, unseen
from ndsm.experiment.generator import Denoised, Generator, given_row
from ndsm.experiment.local import train_locally, training_in_memory
from ndsm.experiment.setup import (
    Experiment,
    begin,
    build_problem,
    describe_data,
    describe_labels,
    own_process,
    prepare,
    squeezed_columns,
    training_problem,
    with_counted_labels,
)
from ndsm.experiment.training import saved, start

__all__ = [
    "Denoised",
    "Experiment",
    "Generator",
    "Stage",
    "begin",
    "build_problem",
    "describe_data",
    "describe_labels",
    "evaluate_checkpoint",
    "evaluate_run",
    "given_row",
    "note_evaluation",
    "own_process",
    "prepare",
    "saved",
    "squeezed_columns",
    "start",
    "train_locally",
    "training_in_memory",
    "training_problem",
    "unseen",
    "with_counted_labels",
]
