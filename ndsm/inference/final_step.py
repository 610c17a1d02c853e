"""A final denoising step that draws the clean rows instead of taking their mean."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.errors import InputError
from ndsm.inference.posterior import Posterior, SecondOrder
from ndsm.processes import Process
from ndsm.processes.transitions import kernel_of
from ndsm.samplers.base import Draw, Sampler, run


@dataclass(frozen=True)
class FinalDraw:
    """Another sampler down to the last time t before 0, and there a normal draw of Y_0 given Y_t = x.

    The last step of all samplers is the mean m of that law, which leaves out its spread: about min(V(t), variance of the
    data) in each direction. This is m + C^½ z with the covariance C of `ndsm.inference.posterior`.
    """

    sampler: Sampler
    """Any sampler but `annealed` and `ode-adaptive`, whose last step cannot be replaced."""
    second_order: SecondOrder | None = None
    """Gives C; the score's Jacobian, with all axes up to `rank`, if None."""
    rank: int = 8

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """The other sampler's.

        Raises:
            InputError: that one has to end at 0, or the process is neither linear nor a mixture's.
        """
        if not getattr(self.sampler, "last_step_replaceable", True):
            raise InputError("a final draw: expected a sampler other than 'annealed' and 'ode-adaptive'")
        kernel_of(process, "final draw")
        return self.sampler.times(process, evaluations, end_dt)

    def __call__(self, process: Process, score: Score, times: np.ndarray, x: Tensor, draw: Draw) -> Tensor:
        """See `Solver`."""
        end = float(times[-2])
        x = run(self.sampler, process, score, times[:-1], x, draw)
        posterior = Posterior(process, score, self.second_order)
        covariance = posterior.covariance(x, end, min(self.rank, x.shape[1]))
        with torch.no_grad():
            w = draw()[:, : covariance.factors.shape[2]].clone()
            return posterior.mean(x, end) + covariance.draw(draw(), w)
