"""The true score is where every objective's expected gradient vanishes: its minimiser is the one it should have.

Data of known mean and variance under an affine drift stay such data: mean and variance follow a recursion along the
simulated chain, and the kernel's formula where there is one. Among scores that are linear in y, E[½|s|² + div s]
depends on nothing else, and is least at s(y, t) = -(y - m(t))/V(t).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from ndsm.core.rng import numpy_stream
from ndsm.mixture import GaussianMixture
from ndsm.objectives import DSM, NDSM, AntitheticNDSM, Epsilon, Objective, Path, Score, Sliced, make_epsilon
from ndsm.processes import OU, VE, VP, Langevin, Process, SubVP, uniform_grid
from ndsm.simulation import RolloutSpec, RowLayout, rollout

pytestmark = pytest.mark.statistical

ROWS = 60_000
DATA = (numpy_stream(6, "normal").normal(size=(20_000, 2)) * [0.4, 0.7] + [1.2, -0.5]).astype(np.float32)
MEAN, VARIANCE = (torch.from_numpy(f(DATA.astype(np.float64), axis=0)) for f in (np.mean, np.var))
Law = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Times (B,) → mean and variance of each coordinate of Y_t, (B, 2) each."""


@dataclass(frozen=True)
class Case:
    """An objective on a process."""

    objective: Objective
    process: Process
    last_dt: float | None = None


MODE = Langevin(GaussianMixture(torch.ones(1), torch.tensor([[0.3, 0.8]]), torch.tensor([0.7])), horizon=0.6)
CASES = {
    "ndsm": Case(NDSM(), MODE),
    "ndsm-small-own-step": Case(NDSM(), MODE, 1e-3),
    "ndsm-on-vp": Case(NDSM(), VP(0.6, 0.5, 3.0)),
    "ndsm-cv-one": Case(NDSM(1.0), MODE),
    "ndsm-cv-closed-form": Case(NDSM("closed-form"), MODE, 0.02),
    "ndsm-cv-learned": Case(NDSM("learned"), MODE, 0.02),
    "antithetic": Case(AntitheticNDSM(), MODE, 1e-3),
    "path-one": Case(Path(1.0), MODE),
    "path-closed-form": Case(Path("closed-form"), MODE, 0.02),
    "dsm-on-vp": Case(DSM(), VP(1.0)),
    "dsm-on-subvp": Case(DSM(), SubVP(1.0)),
    "dsm-on-ve": Case(DSM(), VE(1.0, 0.05, 3.0)),
    "dsm-on-ou": Case(DSM(), OU(1.5)),
    "mixture-dsm": Case(DSM(), MODE),
    "sliced": Case(Sliced(), MODE, 0.02),
    "sliced-on-vp": Case(Sliced(), VP(0.6, 0.5, 3.0)),
}


def simulate(case: Case, index: int) -> dict[str, Tensor]:
    """Independent recorded rows by name, float64."""
    layout = RowLayout(case.objective.records, 2)
    spec = RolloutSpec(
        case.process, grid(case), case.last_dt, 1, ROWS, layout, 11, rows_from=case.objective.rows_from
    )
    return layout.split(torch.from_numpy(rollout(spec, DATA, index)).double())


def grid(case: Case) -> np.ndarray:
    return uniform_grid(case.process.horizon, 6)


def law_of(case: Case) -> Law:
    return kernel_law(case.process) if case.objective.rows_from == "kernel" else chain_law(case)


def kernel_law(process: Process) -> Law:
    """m = E[mean of the kernel], V = α² Var Y_0 + σ², the kernel's mean affine in Y_0 with slope α."""

    def law(t: Tensor) -> tuple[Tensor, Tensor]:
        start = MEAN.float().expand(len(t), 2)
        (mean, std), (moved, _) = (process.kernel(y, t.float()) for y in (start, start + 1))
        return mean.double(), (moved - mean).double() ** 2 * VARIANCE + std[:, None].double() ** 2

    return law


def chain_law(case: Case) -> Law:
    """Euler-Maruyama: m ← m - h f(m), V ← (1 - h f')² V + g² h, f affine; the own last step beside the grid's."""
    process, times = case.process, grid(case)

    def after(m: Tensor, v: Tensor, t: float, dt: float) -> tuple[Tensor, Tensor]:
        at_0, at_1 = (process.drift(torch.full((1, 2), y), t)[0].double() for y in (0.0, 1.0))
        slope = at_1 - at_0
        return m - dt * (at_0 + slope * m), (1 - dt * slope) ** 2 * v + process.diffusion(t) ** 2 * dt

    m, v, recorded = MEAN, VARIANCE, []
    for t, h in zip(times[:-1].tolist(), np.diff(times).tolist(), strict=True):
        own = h if case.last_dt is None else case.last_dt
        recorded.append((torch.tensor(t + own), *after(m, v, t, own)))
        m, v = after(m, v, t, h)
    own_times, means, variances = (torch.stack(column) for column in zip(*recorded, strict=True))
    between = (own_times[1:] + own_times[:-1]) / 2

    def law(t: Tensor) -> tuple[Tensor, Tensor]:
        n = torch.bucketize(t.contiguous(), between)
        return means[n], variances[n]

    return law


def linear_score(law: Law, slope: float, offset: float) -> Score:
    """(slope · (m(t) - y) + offset · sqrt(V(t))) / V(t): the true score at (1, 0)."""

    def score(y: Tensor, t: Tensor) -> Tensor:
        mean, variance = law(t)
        return (slope * (mean - y) + offset * variance.sqrt()) / variance

    return score


def gradients(losses: Callable[[Score], Tensor], law: Law, slope: float, offset: float) -> Tensor:
    """Derivatives of each row's losses by slope and offset, (2, ...); a difference is exact: they are quadratic."""
    pairs = [((slope + a, offset + b), (slope - a, offset - b)) for a, b in ((1, 0), (0, 1))]
    return torch.stack(
        [
            0.5 * (losses(linear_score(law, *plus)) - losses(linear_score(law, *minus)))
            for plus, minus in pairs
        ]
    )


def learned_epsilon(case: Case, law: Law) -> Epsilon:
    """ε(t) as the case chooses it; if it learns, from the gradients of other rows at the true score."""
    epsilon = make_epsilon(
        case.objective.control_variate, 1e-2, case.process.horizon, bins=6, lr=1e-2, seed=0
    )
    if epsilon.learns:
        rows = simulate(case, 1)

        def both(score: Score) -> Tensor:
            found = case.objective(score, rows)
            return torch.stack([found.base, found.control_variate]) * case.process.variance(rows["t"])

        base, cv = gradients(both, law, 1.0, 0.0).unbind(1)
        linear, quadratic = ((base - base.mean(1, keepdim=True)) * cv).sum(0), (cv * cv).sum(0)
        for part in torch.randperm(ROWS, generator=torch.Generator().manual_seed(0)).chunk(60):
            epsilon.update(rows["t"][part], linear[part], quadratic[part], lambda x: x)
    return epsilon


@pytest.mark.parametrize("name", CASES)
def test_the_expected_gradient_vanishes_at_the_true_score_and_only_there(name):
    """At the true slope and offset both derivatives are 0 within 4 standard errors, over all times and within each
    third of them; with the slope or the offset wrong by 5 % they are not, by more than 6."""
    case = CASES[name]
    law, rows = law_of(case), simulate(case, 0)
    epsilon, weight = learned_epsilon(case, law), case.process.variance(rows["t"])
    factor = epsilon(rows["t"])
    if epsilon.learns:
        assert float(factor.abs().max()) > 0.03
    times = rows["t"].argsort()

    def errors(slope: float, offset: float) -> Tensor:
        """Mean derivatives in standard errors: over all times, then by thirds, (4, 2)."""
        g = gradients(lambda score: case.objective.combined(score, rows, factor) * weight, law, slope, offset)
        parts = [g[:, i] for i in (times, *times.chunk(3))]
        return torch.stack([p.mean(1) / p.std(1) * p.shape[1] ** 0.5 for p in parts])

    assert float(errors(1.0, 0.0).abs().max()) <= 4
    assert float(errors(1.05, 0.0)[0, 0]) > 6
    assert float(errors(1.0, 0.05)[0, 1]) > 6
