"""What a noisy point says of the clean one: mean and covariance of Y_0 given Y_t = x, from a score and its Jacobian.

Where Y_t = μ + α (Y_0 - μ) + σ Z (a linear process, or one mode of a mixture) these are exact (dissertation, chapter 4):

    E[Y_0 | x] = μ + (x - μ + σ² s(x, t))/α,        Cov[Y_0 | x] = (σ²/α) ∂E[Y_0 | x]/∂x,

the second because ∇²log p_t is the second-order score of the noised law. Where modes overlap they are blended over the
responsibilities, as in `ndsm.samplers.local`.
"""

import torch
from torch import Tensor

from ndsm.objectives import Score
from ndsm.processes import Process
from ndsm.samplers.base import score_at
from ndsm.samplers.local import MixtureKernel, Term, kernel_of


class Posterior:
    """The law of Y_0 given Y_t = x, as far as its first two moments.

    Args:
        process, score: of the noised data, on one device.

    Raises:
        InputError: the process is neither linear nor a mixture's.
    """

    def __init__(self, process: Process, score: Score) -> None:
        self._process, self._score = process, score
        self._kernel = kernel_of(process, "posterior")

    def mean(self, x: Tensor, t: float) -> Tensor:
        """E[Y_0 | Y_t = x], (B, d) → (B, d)."""
        return self.mean_of(x, score_at(self._score, x, t), t)

    def mean_of(self, x: Tensor, s: Tensor, t: float) -> Tensor:
        """The same for a score at x that is known, (B, d)."""
        kernel = self._kernel
        inverse, variance = (-kernel.log_alpha(t)).exp(), kernel.std(t) ** 2
        slope = kernel.slope(self._process, x, s, t)
        terms = [Term(inverse * kernel.unpulled(t), x, point=True), Term(inverse * variance, slope)]
        return kernel.blend(x, terms).to(x)

    @property
    def has_modes(self) -> bool:
        """Whether it is a mixture's: μ, α and σ are then each mode's own."""
        return isinstance(self._kernel, MixtureKernel)

    def scaled(self, x: Tensor, v: Tensor, t: float, std: int, alpha: int) -> Tensor:
        """σ^std α^alpha v, blended over the modes of x, (B, d) → (B, d)."""
        kernel = self._kernel
        factor = kernel.std(t) ** std * (alpha * kernel.log_alpha(t)).exp()
        return kernel.blend(x, [Term(factor, v)], centred=False).to(x)

    def variance(self, x: Tensor, t: float) -> Tensor:
        """Diagonal of Cov[Y_0 | Y_t = x], (B, d) → (B, d); d products with the Jacobian."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            m = self.mean(x, t)
            found = []
            for i in range(x.shape[1]):
                v = torch.zeros_like(x)
                v[:, i] = 1.0
                row = self.scaled(x.detach(), v, t, 2, -1)
                found.append(torch.autograd.grad(m, x, row, retain_graph=True)[0][:, i])
        return torch.stack(found, 1)
