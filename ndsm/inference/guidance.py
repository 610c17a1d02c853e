"""Linear inverse problems y = A x + noise: guidance wraps a score and is a score, so that every sampler works with it.

`MomentMatched` follows ∇log p(y | Y_t = x), with p(Y_0 | Y_t = x) taken as normal with its exact mean m and covariance C
(`ndsm.inference.posterior`): the gradient of log N(y; A m, σ_y² I + A C Aᵀ), C held fixed, which is
(∂m/∂x)ᵀ Aᵀ (σ_y² I + A C Aᵀ)⁻¹ (y - A m) (Rozet et al. 2024). At every t it knows how far m can be trusted, and for
Gaussian data it is exact. Some conjugate-gradient steps solve the system, one product with the Jacobian each. A mixture's
process may take C and ∂m/∂x of the mixture's modes in place of the network's: σ² and α along each axis. That is as
exact for data spread like the modes, takes no derivatives, and does not multiply a Jacobian's error by σ²/α, hundreds at t = T.
A linear process may take those of one Gaussian N(0, I) in the same way, σ²/(α² + σ²) and α/(α² + σ²).

`Projected` projects the mean: m + λ A⁺(y - A m), and the score that has this mean (for λ = 1 the range-null space
decomposition of DDNM, Wang et al. 2023): one evaluation, no derivatives, and no account of noise. The dissertation's
projection, of x itself onto noised measurements, is `ndsm.inference.projection`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.errors import InputError
from ndsm.inference.noised_references import start_given
from ndsm.inference.operators import (
    Operator,
    average_pool,
    blur,
    check_measurements,
    mask,
    masked_fourier,
    projections,
)
from ndsm.inference.posterior import Posterior
from ndsm.processes import Process
from ndsm.samplers.base import score_at

__all__ = [
    "Classified",
    "Labelled",
    "MomentMatched",
    "Operator",
    "Projected",
    "average_pool",
    "blur",
    "mask",
    "masked_fourier",
    "projections",
    "start_given",
]


class MomentMatched:
    """s(x, t) + ∇log N(y; A m, σ_y² I + A C Aᵀ).

    Args:
        process, score: of the noised data.
        operator: A.
        y: measurements, (B, m), one row for each that is generated.
        noise: σ_y, in the same units, a number or one for each measurement (m,).
        moments: C and ∂m/∂x by the network's "jacobian" or by the "modes": the mixture's, or a linear process's one
            N(0, I), as wide as standardised data; if None by the modes of a mixture and the Jacobian of a linear process.
        iterations: of conjugate gradients; with a network's Jacobian, which is not quite symmetric, more make it worse.

    Raises:
        InputError: A does not fit y or the process's rows, the noise is below 0, or the process is neither linear nor
            a mixture's.
    """

    def __init__(
        self,
        process: Process,
        score: Score,
        operator: Operator,
        y: Tensor,
        noise: float | Tensor = 0.0,
        moments: Literal["jacobian", "modes"] | None = None,
        iterations: int = 4,
    ) -> None:
        check_measurements(process, operator, y, noise)
        self._posterior, self._score = Posterior(process, score), score
        self._operator, self._y, self._iterations = operator, y, iterations
        self._noise = torch.as_tensor(noise).to(y)
        self._by_modes = (moments or ("modes" if self._posterior.has_modes else "jacobian")) == "modes"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, (B, d), (B,) → (B, d); all times equal."""
        self._operator.check_rows(x, self._y)
        time, a, posterior = float(t[0]), self._operator, self._posterior
        spread = posterior.spread(time)
        with torch.set_grad_enabled(not self._by_modes):
            x = x.detach().requires_grad_(not self._by_modes)
            s = score_at(self._score, x, time)
            m = posterior.mean_of(x, s, time, learned=True)

        def back(v: Tensor) -> Tensor:
            if self._by_modes:
                return posterior.scaled(x, v, time, 0, 1) / spread
            return torch.autograd.grad(m, x, v, retain_graph=True)[0]

        with torch.no_grad():

            def normal(w: Tensor) -> Tensor:
                covered = posterior.scaled(x, a.transposed(w), time, 2, 0 if self._by_modes else -1)
                return self._noise**2 * w + a(covered / spread if self._by_modes else back(covered))

            w = _conjugate_gradients(normal, self._y - a(m), self._iterations)
            return (s + back(a.transposed(w))).detach()


class Projected:
    """The score whose posterior mean is m + λ A⁺(y - A m): the mean is projected, not x (see `ndsm.inference.projection`).

    Args:
        process, score, operator, y: as of `MomentMatched`.
        strength: λ, from 0 (no guidance) to 1 (measurements met exactly).

    Raises:
        InputError: A does not fit y or the process's rows, or the process is neither linear nor a mixture's.
    """

    def __init__(
        self, process: Process, score: Score, operator: Operator, y: Tensor, strength: float = 1.0
    ) -> None:
        check_measurements(process, operator, y)
        self._posterior, self._score = Posterior(process, score), score
        self._operator, self._y, self._strength = operator, y, strength

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, (B, d), (B,) → (B, d); all times equal."""
        self._operator.check_rows(x, self._y)
        time = float(t[0])
        s = score_at(self._score, x, time)
        m = self._posterior.mean_of(x, s, time, learned=True)
        move = self._strength * self._operator.pseudo_inverse(self._y - self._operator(m))
        return s + self._posterior.scaled(x, move, time, -2, 1)


class Classified:
    """Guidance by a classifier of noisy rows, s(x, t) + w ∇log p(label | x, t) (dissertation, 7.5).

    Args:
        score: of a model that need not know labels.
        logits: (B, d), (B,) → (B, classes), such as `ndsm.inference.noisy_classifier.NoiseAwareClassifier`.
        label: of all rows.
        strength: w; 1 is the label's own law, as far as score and classifier are exact.

    Raises:
        InputError: the classifier does not know the label; found at once by its `classes`, or at the first call.
    """

    def __init__(
        self, score: Score, logits: Callable[[Tensor, Tensor], Tensor], label: int, strength: float = 1.0
    ) -> None:
        self._score, self._logits, self._label, self._strength = score, logits, label, strength
        _check_label(label, getattr(logits, "classes", None))

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        """The guided score, (B, d), (B,) → (B, d)."""

        def log_prob(x: Tensor) -> Tensor:
            logits = self._logits(x, t)
            _check_label(self._label, logits.shape[1])
            return torch.log_softmax(logits, 1)[:, self._label].sum()

        return self._score(y, t) + self._strength * torch.func.grad(log_prob)(y)


class Labelled:
    """Classifier-free guidance, s(x, t) + w (s(x, t | label) - s(x, t)) (Ho and Salimans 2022).

    Args:
        score: s(y, t, label) of a model with labels.
        label: of all rows.
        strength: w; 1 is the conditional score, at one evaluation in place of two.

    Raises:
        InputError: the model does not know the label, by its `classes`.
    """

    def __init__(self, score: Callable[..., Tensor], label: int, strength: float = 1.0) -> None:
        self._score, self._label, self._strength = score, label, strength
        _check_label(label, getattr(score, "classes", None))

    def __call__(self, y: Tensor, t: Tensor, **given: Tensor) -> Tensor:
        """The guided score, (B, d), (B,) → (B, d); what else is given of each row, (B,), goes to the score."""
        label = torch.full_like(t, self._label)
        if self._strength == 1.0:
            return self._score(y, t, label, **given)
        none = torch.full_like(t, -1.0)
        twice = torch.cat([y, y]), torch.cat([t, t]), torch.cat([label, none])
        given = {name: value.repeat(2) for name, value in given.items()}
        with_label, without = self._score(*twice, **given).chunk(2)
        return without + self._strength * (with_label - without)


def _check_label(label: int, classes: int | None) -> None:
    """Check a label's number: an index below 0 would be another label's.

    Raises:
        InputError: it is below 0, or not below `classes`.
    """
    if label < 0 or (classes is not None and label >= classes):
        expected = "from 0 on" if classes is None else f"from 0 to {classes - 1}"
        raise InputError(f"label: expected a number {expected}, found {label}")


def _conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x with M x = b for each row, M symmetric and positive definite, (B, m) → (B, m)."""
    x, r = torch.zeros_like(b), b
    p, square = r, (r * r).sum(1, keepdim=True)
    floor = torch.finfo(b.dtype).tiny
    for _ in range(iterations):
        q = matrix(p)
        # A network's Jacobian need not be positive definite: stop a row where it is not.
        curvature = (p * q).sum(1, keepdim=True)
        step = torch.where(curvature > floor, square / curvature.clamp(min=floor), 0.0)
        x, r = x + step * p, r - step * q
        following = (r * r).sum(1, keepdim=True)
        p, square = r + (following / square.clamp(min=floor)) * p, following
    return x
