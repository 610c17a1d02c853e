"""The loss of training rows that are held out, by which a training that learns the others by heart is seen."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ndsm.core.rng import stream_seed
from ndsm.simulation import held_out_rows, rollout
from ndsm.training.setup import TrainingSetup
from ndsm.training.step import Trainer

EXAMPLES = 2048
"""Recorded examples of held-out rows, at most; always the same ones, so that two losses differ by the weights alone."""


def held_out_loss(problem: TrainingSetup, data: np.ndarray, trainer: Trainer) -> Callable[[], float] | None:
    """Return a function that gives the loss of held-out rows by the averaged weights; None without `train.patience`.

    Args:
        data: the training rows (N, d), those that are held out among them.
    """
    spec, train = problem.spec, problem.config.train
    if not train.patience:
        return None
    chosen = held_out_rows(len(data), spec.held_out, spec.seed)
    labels = None if spec.labels is None else spec.labels[chosen]
    paths = max(1, min(spec.paths, EXAMPLES // spec.times_per_path))
    other = replace(
        spec, held_out=0.0, labels=labels, paths=paths, seed=stream_seed(spec.seed, "held-out examples")
    )
    rows = spec.layout.split(torch.from_numpy(rollout(other, data[chosen], 0)).to(trainer.device))
    parts = trainer.micro_batches(rows, math.ceil(other.rows / (train.batch_rows / train.accumulate)))

    def loss() -> float:
        # Not of all at once, which would take more memory than a step does.
        sums = [trainer.row_losses(part, trainer.ema).detach().sum() for part in parts]
        return float(torch.stack(sums).sum()) / other.rows

    return loss
