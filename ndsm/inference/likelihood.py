"""Log-density by the probability flow (dissertation, 7.4.3 and 9.3).

Along dY/dt = F(Y, t) = -f - ½g² s the law of Y_t has d/dt log p_t(Y_t) = -div F, so that

    log p_τ(y) = log π(Y_T) + ∫_τ^T div F(Y_t, t) dt,    Y_τ = y,

with the prior's density π exact: a mixture's, or a linear process's Gaussian. τ, `end`, is a little above 0, because the
score of the data itself is not learned: p_τ is a density in its own right (its integral is 1), that of generated rows
before the final denoising step, and wider than theirs by about V(τ) of variance: 2τ for Langevin noising.

Of a process with components the density is that of rows: p(y) = Σ_k π_k q_k(u_k) / det L_k, u_k = L_k⁻¹ (y - μ_k), over the
components k whose responsibility for y is above `SMALLEST_SHARE`.

The reverse SDE has another density, which has no such formula; for linear processes `log_density_bound` bounds it from below.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ndsm.core.rng import numpy_stream, torch_stream
from ndsm.core.types import Score
from ndsm.data import Scaling
from ndsm.errors import InputError
from ndsm.processes import Components, Process, of_components, require
from ndsm.processes.grids import noise_integral
from ndsm.samplers.base import score_at
from ndsm.samplers.ode import solve_adaptively, velocity

EXACT_UP_TO = 64
"""Largest dimension whose divergence is exact by default: d directional derivatives per evaluation."""
PROBES = 8
"""Default number of random directions per row in higher dimensions."""
TOLERANCE = {torch.float32: 1e-5, torch.float64: 2e-6}
"""Absolute and relative error of a solver's step by the rows' precision: a finer one would chase float32's rounding."""
VALUES = 2**16
"""Numbers that are integrated together, in at most 2,048 rows."""
AT_ONCE = 16
"""Directional derivatives per batch."""
SMALLEST_SHARE = 1e-3
"""Responsibility of a component for a row above which its density is a part of the row's."""


COLUMNS = ("log_prob", "bits_per_dim", "standard_error")
"""Columns of the output table: nats, bits per dimension, nats."""


@dataclass(frozen=True)
class LogDensity:
    """Log-densities of n rows in nats, and how uncertain the random directions leave them."""

    log_prob: np.ndarray
    """(n,) float64."""
    standard_error: np.ndarray
    """(n,) float64; 0 where the divergence is exact, NaN for a single random direction."""

    def columns(self, dimensions: int, level: float = 1.0) -> np.ndarray:
        """`COLUMNS`, (n, 3)."""
        return np.stack([self.log_prob, self.bits_per_dimension(dimensions, level), self.standard_error], 1)

    def bits_per_dimension(self, dimensions: int, level: float = 1.0) -> np.ndarray:
        """-log₂ p / d - log₂(level), (n,).

        Args:
            level: width of a grey level. Of rows to which uniform noise of that width was added this is an upper bound
                on average of the bits of the rows themselves.
        """
        return np.asarray(-self.log_prob / (dimensions * math.log(2)) - math.log2(level))


def divergence(process: Process, score: Score, y: Tensor, t: float, probes: Tensor) -> tuple[Tensor, Tensor]:
    """F(y, t), (B, d), and uᵀ DF u of each probe u, (P, B), for probes (P, B, d) or (P, 1, d)."""

    def flow(x: Tensor) -> Tensor:
        return velocity(process, x, score_at(score, x, t), t)

    def along(probe: Tensor) -> tuple[Tensor, Tensor]:
        probe = probe.expand_as(y)
        value, slope = torch.func.jvp(flow, (y,), (probe,))[:2]
        return value, (slope * probe).sum(1)

    each = torch.func.vmap(along, out_dims=(None, 0))  # type: ignore[arg-type]
    parts = [each(part) for part in probes.split(AT_ONCE)]
    return parts[0][0], torch.cat([slopes for _, slopes in parts])


@torch.no_grad()
def log_density(
    process: Process,
    score: Score,
    y: Tensor,
    end: float,
    *,
    probes: int | None = None,
    seed: int = 0,
    tolerance: float | None = None,
) -> tuple[Tensor, Tensor]:
    """log p_τ of rows y (B, d) in nats, and its standard error, (B,) float64 each.

    Args:
        end: τ > 0, at least the smallest time that the score was trained at.
        probes: random directions for Hutchinson's estimate of the divergence; 0 is the exact divergence; None takes that
            up to 64 dimensions and 8 directions above.
        seed: of the directions, which are a row's own whatever rows are beside it.
        tolerance: error of a solver's step, absolute and relative, by the rows' precision if None. It is that of all rows at once: a row agrees with
            the same in another batch to about the tolerance.

    Raises:
        InputError: the prior has no density, or `end` is not between 0 and T.
    """
    # On the CPU, where its draws are made: a user's prior may work on no other device.
    prior = process.to("cpu").prior
    if not hasattr(prior, "log_prob"):
        raise InputError(
            f"log-density: expected a prior with log_prob(y), found {type(prior).__name__} without one"
        )
    check_end(process, end)
    rows, d = y.shape
    count = (0 if d <= EXACT_UP_TO else PROBES) if probes is None else probes
    directions = _probes(y, count, seed) if count else torch.eye(d).to(y)[:, None, :]
    terms = len(directions) if count else 1

    def slope(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value, slopes = divergence(process, score, state[0].to(y.dtype), t, directions)
        return value.double(), (slopes if count else slopes.sum(0, keepdim=True)).double()

    # The solver's own state is in float64: it compares small differences.
    start = (y.double(), torch.zeros(terms, rows, dtype=torch.float64, device=y.device))
    error_of_step = TOLERANCE[y.dtype] if tolerance is None else tolerance
    at, gained = solve_adaptively(slope, start, end, process.horizon, error_of_step)
    error = torch.zeros(rows, dtype=torch.float64, device=y.device)
    if count:
        error = gained.std(0) / count**0.5 if count > 1 else torch.full_like(error, torch.nan)
    return prior.log_prob(at.to("cpu", y.dtype)).to(y.device).double() + gained.mean(0), error


@torch.no_grad()
def log_density_bound(
    process: Process, score: Score, y: Tensor, end: float, *, draws: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A lower bound of the reverse SDE's log-density at τ of rows y (B, d), and its standard error, (B,) float64 each.

    Theorem 9.3 of the dissertation, for dY = -a Y dt + g dW started at Y_τ = y:

        E log π(Y_T) - ½ ∫_τ^T g² E(|s|² - 2 s·∇log p(Y_t | y)) dt - d ∫_τ^T a dt,

    an equality where s is the score of a law that the process takes to π. Times are drawn in proportion to g²/V
    (9.5.1), one from each of `draws` equal parts; the noise comes in opposite pairs, whose second term stays finite as t → τ.

    Args:
        end: τ > 0, at least the smallest time that the score was trained at.
        draws: times for each row, of two evaluations each; at least 2.
        seed: of times and noise, which are a row's own whatever rows are beside it.

    Raises:
        InputError: the process is not linear, `end` is not between 0 and T, or there are fewer than 2 draws.
    """
    transition = require(process, "transition", "bound of the log-density")
    if draws < 2:
        raise InputError(f"bound of the log-density: expected at least 2 draws, found {draws}")
    check_end(process, end)
    prior_law: Any = process.prior
    start, horizon = torch.tensor([[end], [process.horizon]], dtype=torch.float64)
    nodes, grown = noise_integral(process, end, process.horizon)
    generators = [torch_stream(seed, "bound", hash_index(row), 0) for row in y.cpu().numpy()]
    uniform = torch.stack([torch.rand(draws, generator=g, dtype=torch.float64) for g in generators], 1)
    noise = torch.stack([torch.randn(draws, y.shape[1], generator=g) for g in generators], 1).to(y)
    parts = (torch.arange(draws)[:, None] + uniform).numpy() / draws * grown[-1]
    times = torch.from_numpy(np.interp(parts, grown, nodes))

    def pair(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Y_t with noise z and -z given Y_τ = y, and the noise's standard deviation."""
        decay = (transition.log_alpha(t) - transition.log_alpha(start)).exp()
        std = (process.variance(t) - decay**2 * process.variance(start)).sqrt().to(y)[:, None]
        mean = decay.to(y)[:, None] * y
        return mean + std * z, mean - std * z, std

    values, overall_at_last = [], transition.state_std(horizon).to(y) ** 2
    for t, z in zip(times, noise, strict=True):
        plus, minus, std = pair(t, z)
        up, down = score(plus, t.to(y)), score(minus, t.to(y))
        integrand = 0.5 * (up**2 + down**2).sum(1) + ((up - down) * z / std).sum(1)
        plus, minus, last_std = pair(horizon, z)
        prior = 0.5 * (prior_law.log_prob(plus) + prior_law.log_prob(minus))
        # Mean 0, and what |z|² adds to both if the score is that of a Gaussian with the data's overall variance.
        excess = (z**2 - 1).sum(1)
        overall = transition.state_std(t).to(y) ** 2
        integrand += (2 / overall - std[:, 0] ** 2 / overall**2) * excess
        prior += 0.5 * last_std[:, 0] ** 2 / overall_at_last * excess
        weight = 0.5 * grown[-1] * process.variance(t).to(y.device)
        values.append(prior.double() - weight * integrand.double())
    drawn = torch.stack(values)
    decayed = float(transition.log_alpha(start) - transition.log_alpha(horizon))
    # From differences of neighbouring draws: the change from one part of the times to the next is no variance of the draws.
    spread = drawn.diff(dim=0).square().sum(0) / (2 * draws * (draws - 1))
    return drawn.mean(0) - y.shape[1] * decayed, spread.sqrt()


def device_of(process: Process, score: Any) -> torch.device:
    """Device of the mixture, without one of the score's weights, without any the CPU."""
    if process.mixture is not None:
        return process.mixture.device
    weights = score.parameters() if isinstance(score, nn.Module) else iter(())
    return next((w.device for w in weights), torch.device("cpu"))


def log_density_of_rows(
    process: Process,
    score: Score,
    rows: np.ndarray,
    scaling: Scaling,
    end: float,
    *,
    bound: int | None = None,
    probes: int | None = None,
    seed: int = 0,
    noise_index: int | None = None,
) -> LogDensity:
    """Log-densities of rows (n, d) in the units of the data: log-densities in model units minus log |det| of the map back.

    Values of columns with steps, levels or point masses (`ndsm.data.column_transforms`) count as probabilities: the density at a
    uniform place of a value's cell times the cell's width, whose mean over places is the probability, so that the mean of the
    logarithms is a lower bound of its logarithm. Values beyond a column's bounds have probability 0.

    Args:
        process, score: on one device.
        rows: (n, d) in original units; they are not changed.
        scaling: from model units to the rows'.
        bound: draws for `log_density_bound`, which then takes the density's place.
        end, probes, seed: as `log_density`.
        noise_index: index of the random stream of the places in cells; a hash of the rows if None.

    Raises:
        InputError: a number lies beyond declared bounds.
    """
    u = None
    if scaling.columns is not None:
        scaling.columns.check(rows)
        index = hash_index(np.asarray(rows, dtype=np.float64)) if noise_index is None else noise_index
        # Not the training rows' own stream: the network may know the points that it makes of them by heart.
        u = numpy_stream(seed, "score noise", index).random((len(rows), scaling.dimensions))
    device = device_of(process, score)
    at_once = max(16, min(2048, VALUES // rows.shape[1]))
    model_rows = torch.from_numpy(scaling.apply(rows, u))

    def density(given: Score, y: Tensor) -> tuple[Tensor, Tensor]:
        if bound is None:
            return log_density(process, given, y, end, probes=probes, seed=seed)
        return log_density_bound(process, given, y, end, draws=bound, seed=seed)

    parts = []
    for y in model_rows.to(device).split(at_once):
        if process.components is None:
            parts.append(density(score, y))
        else:
            parts.append(_over_components(process.components, score, y, density))
    log_prob, error = (torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True))
    return LogDensity(log_prob - scaling.log_volumes(rows, u), error)


def _over_components(
    components: Components,
    score: Score,
    y: Tensor,
    density: Callable[[Score, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """log Σ_k π_k q_k(u_k)/det L_k of rows (B, d) and its standard error, (B,) each, for log-densities q of u and their errors."""
    shares = components.mixture.responsibilities(y)
    row, k = (shares >= shares.amax(1, keepdim=True).clamp(max=SMALLEST_SHARE)).nonzero(as_tuple=True)
    u, found = components.enter(y[row], k), []
    for part in torch.arange(len(row), device=y.device).split(len(y)):
        found.append(density(of_components(score, k[part]), u[part]))
    log_q, error = (torch.cat(values) for values in zip(*found, strict=True))
    log_joint = components.mixture.weights.log().to(y.device)[k] + log_q - components.log_det(k)
    table = torch.full(shares.shape, -torch.inf, dtype=torch.float64, device=y.device)
    errors = torch.zeros_like(table)
    table[row, k], errors[row, k] = log_joint, error
    return table.logsumexp(1), (table.softmax(1) * errors).square().sum(1).sqrt()


def _probes(y: Tensor, count: int, seed: int) -> Tensor:
    """Random signs (count, B, d) from the streams (seed, "probes", hash of the row)."""
    signs = []
    for row in y.cpu().numpy():
        generator = torch_stream(seed, "probes", hash_index(row), 0)
        signs.append(torch.randint(2, (count, len(row)), generator=generator))
    return torch.stack(signs, 1).to(y).mul_(2).sub_(1)


def hash_index(rows: np.ndarray) -> int:
    """Stream index made from the bytes of these numbers."""
    return int.from_bytes(hashlib.blake2s(rows.tobytes(), digest_size=8).digest(), "little")


def check_end(process: Process, end: float) -> None:
    """Check the time at which a density is taken.

    Raises:
        InputError: it is not between 0 and T.
    """
    if not 0 < end < process.horizon:
        raise InputError(
            f"log-density: expected an end time between 0 and T = {process.horizon:g}, found {end:g}"
        )
