"""Variance of the objectives' per-sample gradients at one set of weights: what decides how fast training goes."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndsm.config import Config, build_config, merge
from ndsm.core.progress import Stage, no_progress
from ndsm.data import load
from ndsm.errors import InputError
from ndsm.networks import IMAGE_SIDE
from ndsm.objectives import ClosedFormEpsilon, ConstantEpsilon, Epsilon
from ndsm.simulation import rollout
from ndsm.training import Trainer, TrainingSetup, fit_mixture
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import training_problem, with_counted_labels
from ndsm.workflows.train import training_in_memory

FIFTHS = 5


@dataclass(frozen=True)
class Contender:
    """A name of the table, the objective it trains and its ε."""

    kind: str
    epsilon: float | None
    """None: the closed form, fitted on rows of its own."""


CONTENDERS = {
    "ndsm-eps0": Contender("ndsm", 0.0),
    "ndsm-eps1": Contender("ndsm", 1.0),
    "ndsm-cv": Contender("ndsm", None),
    "antithetic": Contender("antithetic", 0.0),
    "path": Contender("path", None),
    "path-eps0": Contender("path", 0.0),
    "path-eps1": Contender("path", 1.0),
}


def gradient_variance(
    config: Config, names: Sequence[str], n: int, steps: int, stage: Stage = no_progress
) -> dict[str, Any]:
    """The table of `ndsm bench variance`.

    A model is trained for `steps` steps as the configuration says; at its weights each objective's per-sample
    gradients are taken on n fresh rows of its own.

    Args:
        stage: shows how far it is.

    Returns:
        preset-independent part of the JSON: n, weighting, steps; objectives: total, the mean of |g - E g|²;
        fifths, the same within each fifth of the rows by time; mean_gap_se, the distance between this mean
        gradient and ndsm-eps0's, over its standard error (about 1 if they agree: they come from independent
        rows); epsilon: the closed form's ε by bin of time.

    Raises:
        InputError: an unknown name, or an objective that the process does not allow.
    """
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise InputError(f"--objectives: expected some of {', '.join(CONTENDERS)}, found {unknown[0]!r}")
    if n < 100 or steps < 1:
        raise InputError(f"bench variance: expected at least 100 rows and 1 step, found {n} and {steps}")
    config = build_config(
        merge(
            config.model_dump(mode="json"),
            {
                "objective.kind": "ndsm",
                "train.steps": steps,
                "objective.epsilon": {},
                # Images a few at a time: the memory of a batch is as large as the network's activations.
                "train.accumulate": config.train.batch_rows if config.network.kind in IMAGE_SIDE else 1,
            },
        ),
        "bench variance",
    )
    # Before the work: not every process allows every objective.
    own = {
        name: build_config(
            merge(config.model_dump(mode="json"), {"objective.kind": CONTENDERS[name].kind}), name
        )
        for name in dict.fromkeys(["ndsm-eps0", *names])
    }
    with stage("reading the data and fitting the mixture", None):
        data = load(config.data, config.train.seed)
        if data.notice:
            warnings.warn(data.notice, stacklevel=2)
        config = with_counted_labels(config, data)
        own = {name: with_counted_labels(one, data) for name, one in own.items()}
        mixture, identity = fit_mixture(config, data.train), data.stamp
    with stage(f"training for {steps} steps", steps) as advance:
        problem = training_problem(config, mixture, identity, data.train_labels)
        trained = _trained(problem, data.train, advance)
    table: dict[str, Any] = {}
    optimum: dict[str, Any] = {}
    base: tuple[Tensor, float] | None = None
    for k, name in enumerate(own):
        with stage(f"gradients of {n} rows by {name}", None):
            contender = CONTENDERS[name]
            problem = training_problem(own[name], mixture, identity, data.train_labels)
            trainer, _ = start(problem, None)
            trainer.model.load_state_dict(trained.state_dict())
            rows = fresh_rows(problem, data.train, n, 2 * k, trainer.device)
            epsilon: Epsilon = ConstantEpsilon(contender.epsilon or 0.0)
            if contender.epsilon is None:
                epsilon = closed = ClosedFormEpsilon(problem.t_min, problem.process.horizon, memory=1.0)
                other = fresh_rows(problem, data.train, n, 2 * k + 1, trainer.device)
                moments = trainer.gradient_moments(other)
                closed.update(other["t"], moments.linear, moments.cv_cv, lambda x: x)
                t = torch.logspace(np.log10(problem.t_min), np.log10(problem.process.horizon), 40)
                optimum[name] = {"t": t.tolist(), "eps": closed(t).tolist()}
            total, mean = _variance(trainer, rows, epsilon)
            order = rows["t"].argsort()
            fifths = [
                _variance(trainer, {key: v[part] for key, v in rows.items()}, epsilon)[0]
                for part in order.chunk(FIFTHS)
            ]
            if base is None:
                base = (mean, total)
            gap = float((mean - base[0]).norm()) / ((total + base[1]) / n) ** 0.5
            table[name] = {
                "total": total,
                "fifths": fifths,
                "mean_gap_se": gap if name != "ndsm-eps0" else 0.0,
            }
    return {
        "n": n,
        "steps": steps,
        "weighting": config.objective.weighting,
        "objectives": {name: table[name] for name in names},
        "epsilon": optimum,
    }


def _variance(trainer: Trainer, rows: dict[str, Tensor], epsilon: Epsilon) -> tuple[float, Tensor]:
    """E |g - E g|² of g = g₀ + ε g_W, and the mean of g, (P,)."""
    variance = trainer.gradient_moments(rows).variance(epsilon(rows["t"]))
    trainer.epsilon = epsilon
    parameters = list(trainer.model.parameters())
    mean = torch.zeros(sum(p.numel() for p in parameters), device=trainer.device)
    for part in trainer.micro_batches(rows):
        share = len(part["t"]) / len(rows["t"])
        gradient = torch.autograd.grad(trainer.loss(part) * share, parameters)
        mean += torch.cat([g.flatten() for g in gradient])
    return variance, mean


def fresh_rows(
    problem: TrainingSetup, data: np.ndarray, n: int, index: int, device: torch.device
) -> dict[str, Tensor]:
    """n fresh recorded rows by name on `device`; blocks far beyond those that training has seen, simulated on the CPU."""
    blocks, have, number = [], 0, 10**6 * (index + 1)
    while have < n:
        blocks.append(torch.from_numpy(rollout(problem.spec, data, number)))
        have, number = have + len(blocks[-1]), number + 1
    rows = torch.cat(blocks)
    # A block lists its rows by time; the first n must not be the earliest ones.
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(index))[:n]
    return problem.spec.layout.split(rows[chosen].to(device))


def _trained(problem: TrainingSetup, data: np.ndarray, advance: Callable[[int], None]) -> torch.nn.Module:
    """The model after `train.steps` steps, in this process."""
    done = 0
    with training_in_memory(problem, data) as (trainer, records):
        for record in records:
            advance(record.step - done)
            done = record.step
    return trainer.model
