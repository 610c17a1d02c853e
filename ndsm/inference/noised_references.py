"""Rows that meet measurements, noised by the process: where a guided generation starts, and what a projection follows."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ndsm.inference.operators import SINGULAR, Operator, check_measurements, check_noise
from ndsm.mixture import GaussianMixture
from ndsm.processes import Process, geometric_grid
from ndsm.processes.integrators import INTEGRATORS
from ndsm.processes.modes import Modes
from ndsm.processes.transitions import linear_step
from ndsm.samplers.base import draw_prior

NOISING_STEPS = 30
"""Steps of the noising from a draw given measurements up to t = T."""
LARGEST_STEP = 1e-3
"""Largest Euler-Maruyama step of noised references under a drift of your own, as a share of T: it may be steep where they start."""


def noised(process: Process, start: Tensor, times: np.ndarray, draw: Callable[[], Tensor]) -> list[Tensor]:
    """Rows noised from time times[0] = 0 on, at each of the times, (B, d) each."""
    if process.transition is not None:
        path = [start]
        for u, t in pairwise(map(float, times)):
            a, q = linear_step(process.transition, u, t)
            path.append(a * path[-1] + math.sqrt(q) * draw())
        return path
    modes = Modes(process.modes, start.T)
    integrator = INTEGRATORS["euler-maruyama" if process.modes is None else "exponential"](process, modes)
    y, path = start.T.clone(), [start]
    for t, h in zip(times[:-1], np.diff(times), strict=True):
        integrator.advance(y, process.drift_columns(y, float(t)), draw().T, float(h), float(t))
        path.append(y.T.clone())
    return path


def draw_from_mixture(
    mixture: GaussianMixture,
    operator: Operator,
    y: Tensor,
    noise: float | Tensor,
    generator: torch.Generator,
) -> Tensor:
    """A draw of the mixture given each row of measurements, exactly, (B, m) → (B, d); in float64 on the CPU.

    Args:
        noise: σ_y, a number or one for each measurement (m,).
        generator: on the CPU.

    Raises:
        InputError: A does not fit y or the mixture's rows, or the noise is below 0.
    """
    a, measured, std = _measured(mixture, operator, y, noise)
    z, errors = (
        torch.randn(len(y), n, generator=generator, dtype=torch.float64) for n in (a.shape[1], a.shape[0])
    )
    log_p, draws = [], []
    for i, mean in enumerate(mixture.means):
        covariance, root = _law(mixture, i, a, std)
        off = measured - mean @ a.T
        log_p.append(_log_prob(off, root))
        free = z @ torch.linalg.cholesky(covariance).T
        # A draw of the component, moved by the difference to its own noisy measurements.
        draws.append(
            mean
            + free
            + (covariance @ a.T @ torch.cholesky_solve((off - free @ a.T - std * errors).T, root)).T
        )
    posterior = (torch.stack(log_p, 1) + mixture.weights.log()).softmax(1)
    chosen = torch.multinomial(posterior, 1, generator=generator)[:, 0]
    return torch.stack(draws)[chosen, torch.arange(len(y))].to(y)


def responsibilities_given(
    mixture: GaussianMixture, operator: Operator, y: Tensor, noise: float | Tensor
) -> Tensor:
    """Probabilities of the components given each row of measurements, π_k N(y; A μ_k, A Σ_k Aᵀ + σ_y²) but for a factor,
    (B, m) → (B, K) float64 on the CPU; noise and errors as of `draw_from_mixture`."""
    a, measured, std = _measured(mixture, operator, y, noise)
    log_p = [
        _log_prob(measured - mean @ a.T, _law(mixture, i, a, std)[1]) for i, mean in enumerate(mixture.means)
    ]
    return (torch.stack(log_p, 1) + mixture.weights.log()).softmax(1)


def _measured(
    mixture: GaussianMixture, operator: Operator, y: Tensor, noise: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A (m, d), y (B, m) and σ_y (m,), checked, in float64 on the CPU."""
    operator.check(mixture.dimension, y)
    check_noise(noise)
    a = operator.matrix.double().cpu()
    return a, y.double().cpu(), torch.as_tensor(noise, dtype=torch.float64, device="cpu").expand(len(a))


def _law(mixture: GaussianMixture, component: int, a: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_k, (d, d), and the triangular factor of A Σ_k Aᵀ + σ_y², (m, m)."""
    covariance = mixture.covariance(component)
    covariance = torch.diag(covariance) if covariance.ndim == 1 else covariance
    law = a @ covariance @ a.T
    # Measurements without noise that repeat each other would leave it singular.
    law.diagonal().add_(std**2 + SINGULAR**2 * law.diagonal().mean())
    return covariance, torch.linalg.cholesky(law)


def _log_prob(off: Tensor, root: Tensor) -> Tensor:
    """log N(off; 0, R Rᵀ) but for a constant, (B, m) → (B,)."""
    half = torch.linalg.solve_triangular(root, off.T, upper=False)
    return -0.5 * (half**2).sum(0) - root.diagonal().log().sum()


def has_modes(process: Process) -> bool:
    """Whether measurements can tell in which mode generation is to start."""
    return process.mixture is not None and process.mixture.n_components > 1


def start_given(
    process: Process, operator: Operator, y: Tensor, noise: float | Tensor, generator: torch.Generator
) -> Tensor:
    """Rows at t = T to begin a guided generation with, (B, m) → (B, d).

    Noising hardly leaves a mode, so the measurements have a say in which one generation starts in: draws of the mixture
    given y, noised up to T. For a process without modes, the prior.

    Raises:
        InputError: A does not fit y or the process's rows, or the noise is below 0.
    """
    check_measurements(process, operator, y, noise)
    if not has_modes(process):
        return draw_prior(process, len(y), generator).to(y)
    assert process.mixture is not None
    start = draw_from_mixture(process.mixture, operator, y, noise, generator)
    times = geometric_grid(process.horizon, NOISING_STEPS, process.horizon / NOISING_STEPS / 10)
    return noised(process, start, times, lambda: torch.randn(start.shape, generator=generator).to(y))[-1]


def noised_measurements(
    process: Process,
    operator: Operator,
    y: Tensor,
    noise: float | Tensor,
    times: np.ndarray,
    generator: torch.Generator,
) -> tuple[list[Tensor], Tensor]:
    """y_t at each of the times from T to 0, (B, m) each, and rows at T to begin with, (B, d).

    Args:
        y: measurements, (B, m).
        noise: σ_y, in the same units, a number or one for each measurement (m,).
        times: decreasing, from T to 0.
        generator: on the CPU.

    Raises:
        InputError: A does not fit y and the process's rows.
    """
    if process.mixture is None:
        free = draw_prior(process, len(y), generator).to(y)
        operator.check(free.shape[1], y)
    else:
        operator.check(process.mixture.dimension, y)
        free = draw_from_mixture(process.mixture, operator, y, noise, generator)
    start = free + operator.pseudo_inverse(y - operator(free))

    def draw() -> Tensor:
        return torch.randn(start.shape, generator=generator).to(y)

    if process.transition is not None:
        moments = [process.kernel(start, start.new_full((1,), float(t))) for t in times]
        references = [mean + std * draw() for mean, std in moments]
    elif process.mixture is not None:
        references = noised(process, start, times[::-1], draw)[::-1]
    else:
        references, largest = [start], LARGEST_STEP * process.horizon
        for u, t in pairwise(times[::-1]):
            fine = np.linspace(u, t, math.ceil((t - u) / largest) + 1)
            references.append(noised(process, references[-1], fine, draw)[-1])
        references.reverse()
    begin = references[0] if has_modes(process) else draw_prior(process, len(y), generator).to(y)
    return [operator(reference) for reference in references[:-1]] + [y], begin
