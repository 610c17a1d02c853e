"""Second-order scores s2(y, t) = ∇² log η_t(y) by denoising (dissertation, chapter 4), for any noising.

Where Y_N = μ + σ Z with Z independent of μ and σ, the Gaussian kernel's derivatives give, whatever the law of μ,

    s1(y) = -E[Z | y]/σ,        s2(y) = (E[Z Zᵀ | y] - I)/σ² - s1(y) s1(y)ᵀ.

Both hold for each σ, so that they hold with the kernel of linear noising, where μ = α(t) Y_0, and with any Gaussian step
of a simulation, where μ = μ_{N-1}(Y_{N-1}) and the law of Y_N is the simulated η_t itself. With the first-order score known
and e = Z + σ s1(Y_N) they are one: E[e eᵀ | y] = I + σ² s2(y), the covariance of Z given y. What is trained is

    E ‖σ² s2(Y_N, t_N) + I - e eᵀ‖²,

eq. 4.13 (4.17 for the diagonal alone) times σ⁴, with z zᵀ - σ² s1 s1ᵀ centred. The minimiser is the same, an error δ of s1 enters
as σ² δ δᵀ and not to first order, and the target has a variance of order 1 at every t: it needs no variance reduction as
t → 0 where σ² is of the order of V(t), as it is of linear noising and of the steps of `one_step_batches`. What a smaller step
would tell of s2 is drowned: the noise of a row is 2 (V/σ²)² of (V s2)².
"""

import numpy as np
import torch
from torch import Tensor, nn

from ndsm.core.global_state import seeded
from ndsm.core.optimizer import Adam
from ndsm.core.rng import torch_stream
from ndsm.core.types import Score
from ndsm.errors import InputError
from ndsm.networks import MLP, TimeEmbedding
from ndsm.processes import Process
from ndsm.simulation import one_step_batches


class SecondOrderScore(nn.Module):
    """s2 = (diag(a) + B Bᵀ)/V(t), a and B by fully connected layers on the standardised state and features of log t.

    Args:
        process: the forward process.
        rank: columns r of B; 0 for a diagonal.
        t_min: smallest time it will see.
        width, depth: units per layer, hidden layers.
        generator: draws the features' frequencies and what the states are standardised by.
    """

    center: Tensor

    def __init__(
        self, process: Process, rank: int, t_min: float, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        prior = process.prior.sample(4096, generator).float().cpu()
        self.register_buffer("center", prior.mean(0))
        self._spread = float((prior - self.center).pow(2).mean().sqrt())
        self._process, self.rank = process, rank
        self.embedding = TimeEmbedding(t_min, process.horizon, 8, 1.0, generator)
        d = prior.shape[1]
        self.network = MLP(d, self.embedding.width, width, depth, d * (1 + rank))
        # At B = 0 its gradient is 0.
        nn.init.normal_(self.network.layers[-1].bias[d:], std=0.1)  # type: ignore[index]

    def forward(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """α (B, d) and β (B, d, r) with s2 = diag(α) + β βᵀ, for states (B, d) and times (B,)."""
        std = self._process.state_std(t)
        scale = self._spread if std is None else std[:, None]
        out = self.network((y - self.center) / scale, self.embedding(t))
        variance = self._process.variance(t)[:, None]
        d = y.shape[1]
        return out[:, :d] / variance, (out[:, d:] / variance.sqrt()).unflatten(1, (d, self.rank))


def second_order_loss(alpha: Tensor, beta: Tensor, s1: Tensor, noise: Tensor, std: Tensor) -> Tensor:
    """‖σ² (diag(α) + β βᵀ) + I - e eᵀ‖² of each row with e = Z + σ s1, (B,), without a (d, d) matrix.

    Args:
        alpha, beta: s2 at Y = μ + σ Z, (B, d) and (B, d, r).
        s1: the first-order score there, (B, d).
        noise, std: Z (B, d) and σ (B,).
    """
    sigma = std[:, None]
    p, b, e = 1 + sigma**2 * alpha, sigma[..., None] * beta, noise + sigma * s1
    squares = (p**2).sum(1) + (b.mT @ b).square().sum((1, 2)) + (e**2).sum(1) ** 2
    crossed = (p * (b**2).sum(2)).sum(1) - (p * e**2).sum(1) - (b.mT @ e[..., None]).square().sum((1, 2))
    return squares + 2 * crossed


def fit_second_order(
    score: Score,
    process: Process,
    rows: np.ndarray,
    t_min: float,
    *,
    rank: int = 4,
    steps: int = 4000,
    batch_rows: int = 512,
    width: int = 128,
    depth: int = 3,
    lr: float = 2e-3,
    seed: int = 0,
) -> SecondOrderScore:
    """Train a second-order score on rows noised anew, the first-order score being fixed; on the CPU, in evaluation mode.

    Args:
        score: the first-order score of the noised rows, on the CPU.
        process: the one that the score belongs to, on the CPU.
        rows: (N, d) in model units.
        t_min: the smallest time, which the score must know.
        rank: columns of β, at most d; 0 for a diagonal.
        steps, batch_rows, lr: of Adam, its rate falling to 0 as a cosine.
        width, depth: units per layer, hidden layers.

    Raises:
        InputError: a negative rank, or t_min is not between 0 and T.
    """
    if rank < 0:
        raise InputError(f"rank: expected 0 or more, found {rank}")
    if not 0 < t_min < process.horizon:
        raise InputError(
            f"t_min: expected above 0 and below the horizon {process.horizon:g}, found {t_min:g}"
        )
    with seeded(torch_stream(seed, "second order").initial_seed()):
        inputs = torch_stream(seed, "second order inputs")
        model = SecondOrderScore(process, min(rank, rows.shape[1]), t_min, width, depth, inputs)
    optimiser = Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    batches = one_step_batches(process, rows, t_min, batch_rows, seed)
    for _ in range(steps):
        named = next(batches)
        noise, t, std = named["noise"], named["t"], named["std"]
        states = named["mean"] + std[:, None] * noise
        with torch.no_grad():
            s1 = score(states, t)
        alpha, beta = model(states, t)
        loss = second_order_loss(alpha, beta, s1, noise, std).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)
