"""How far the noised data are from what generation starts from.

Generation is exact only if the law of Y_T is the prior. Two things keep them apart: a horizon that leaves something of the
data, and a mixture whose components or weights are not the data's. No metric of generated rows tells either from an
error of the network.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.metrics.wasserstein import sliced_wasserstein
from ndsm.processes.integrators import INTEGRATORS
from ndsm.processes.modes import Modes
from ndsm.samplers.base import draw_prior
from ndsm.simulation.rollout import Draws, noised
from ndsm.training import TrainingSetup

ROWS = 2000
"""Draws of Y_T, and of the prior."""
FLOORS = 10
"""Pairs of draws of the prior that give the floor."""
DIRECTIONS = 64
"""Projections of each comparison."""
CERTAIN = 1.25
"""Times the largest distance of such a pair, below which nothing is said."""
SHARE = 0.1
"""Distance beyond the floor that matters, in standard deviations of the prior (root mean square over the columns)."""


@torch.no_grad()
def noised_to_the_end(problem: TrainingSetup, rows: np.ndarray, n: int, seed: int) -> Tensor:
    """Y_T of n of the rows (N, d), drawn with replacement, (n, d): by the kernel or by the steps that training takes."""
    spec = problem.spec
    process, generator = spec.process.to("cpu"), torch_stream(seed, "prior match")
    start = torch.from_numpy(rows[torch.randint(len(rows), (n,), generator=generator).numpy()]).float()
    if spec.rows_from == "kernel":
        draws = Draws(generator, generator)
        made = noised(spec.on(torch.device("cpu")), start, torch.full((n,), process.horizon), draws)
        return made["mean"] + made["std"][:, None] * made["noise"]
    y = start.T.contiguous()
    modes = None if spec.integrator == "euler-maruyama" else Modes(process.mixture, y)
    integrator = INTEGRATORS[spec.integrator](process, modes)  # type: ignore[arg-type]
    for t, h in zip(spec.times[:-1], np.diff(spec.times), strict=True):
        z = torch.randn(y.shape, generator=generator)
        integrator.advance(y, process.drift_columns(y, float(t)), z, float(h), float(t))
    return y.T


def prior_match(problem: TrainingSetup, rows: np.ndarray) -> dict[str, Any]:
    """Return the distance between Y_T and the prior.

    Keys:
        prior_match, prior_match_floor: sliced Wasserstein-2 distance in model units of `ROWS` draws of Y_T to as many of the
            prior, and the mean of it between draws of the prior.
        prior_match_bound: above it the distance is more than chance and matters: `CERTAIN` times the largest of the
            floor's distances, and `SHARE` of the prior's standard deviation beyond the floor. A distance that is not finite
            is None.

    Args:
        rows: (N, d) training rows in model units.
    """
    seed = problem.config.train.seed
    end = noised_to_the_end(problem, rows, ROWS, seed)
    draws = [
        draw_prior(problem.process, ROWS, torch_stream(seed, "prior draws", i)).to(end)
        for i in range(FLOORS + 1)
    ]

    def distance(a: Tensor, b: Tensor) -> float:
        return sliced_wasserstein(a, b, DIRECTIONS, seed)

    floors = np.array([distance(a, b) for a, b in zip(draws[1:], draws[:-1], strict=True)])
    scale = float(draws[0].var(0).mean().sqrt())
    found = distance(end, draws[0]) if bool(torch.isfinite(end).all()) else None
    return {
        "prior_match": found,
        "prior_match_floor": float(floors.mean()),
        "prior_match_bound": float(
            max(CERTAIN * floors.max(), np.hypot(np.sqrt((floors**2).mean()), SHARE * scale))
        ),
    }


def prior_warning(metrics: dict[str, Any]) -> str | None:
    """A sentence, if Y_T is farther from the prior than the bound."""
    found, bound = metrics.get("prior_match"), metrics.get("prior_match_bound")
    if found is None or bound is None or found <= bound:
        return None
    return (
        f"the noised data are not close to the prior that generation starts from: sliced Wasserstein-2 distance {found:.3g} at the "
        f"horizon, {metrics['prior_match_floor']:.3g} between draws of the prior (bound {bound:.3g}); take a longer "
        "process.horizon, or a mixture (prior) closer to the law that noising ends in"
    )
