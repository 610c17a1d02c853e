"""Workflows of one machine: preparing, training and evaluating a run, and using a trained model.

Not here: the commands (`ndsm.cli`) and what a cluster adds (`pipelines`).
"""

import ndsm.vision.latents  # noqa: F401  # registers the data source mnist-latent
from ndsm.workflows.evaluate import evaluate_checkpoint, evaluate_run
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import begin, build_problem, prepare, training_problem
from ndsm.workflows.train import train_locally, training_in_memory
from ndsm.workflows.trained_model import TrainedModel

__all__ = [
    "TrainedModel",
    "begin",
    "build_problem",
    "evaluate_checkpoint",
    "evaluate_run",
    "prepare",
    "start",
    "train_locally",
    "training_in_memory",
    "training_problem",
]
