"""The control variate: moments, means that do not depend on ε, and the best ε (Theorem 3.2, eq. 22)."""

import itertools

import numpy as np
import pytest
import torch

from ndsm.config import load_config
from ndsm.data import load
from ndsm.objectives import (
    NDSM,
    AntitheticNDSM,
    ClosedFormEpsilon,
    GradientMoments,
    NetworkEpsilon,
    gradient_moments,
)
from ndsm.simulation import rollout
from ndsm.training import fit_mixture
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import build_problem

pytestmark = pytest.mark.statistical

OVERRIDES = {"data.name": "gaussians", "network.width": 16, "network.depth": 2, "train.seed": 3}


def setting(last_dt=1e-2, kind="ndsm-cv", **overrides):
    """A briefly trained model's trainer, and fresh rows by name."""
    config = load_config(
        "toy-arcs", {**OVERRIDES, "objective.kind": kind, "process.last_dt": last_dt, **overrides}
    )
    dataset = load(config.data, 0)
    problem = build_problem(config, fit_mixture(config, dataset.train), dataset.stamp)
    trainer, _ = start(problem, None)
    generator = torch.Generator().manual_seed(0)
    for p in trainer.model.parameters():
        # The last layer starts as zero, where all of W's gradients but its own vanish.
        p.data.add_(0.2 * torch.randn(p.shape, generator=generator))
    rows = torch.from_numpy(rollout(problem.spec, dataset.train, 0))
    return trainer, problem, rows[torch.randperm(len(rows), generator=generator)]


def by_name(problem, rows):
    return problem.spec.layout.split(rows)


def brute_force(trainer, problem, rows):
    """Per-sample gradients of base and W by one backward pass each, (B, P)."""
    parameters = list(trainer.model.parameters())
    out = ([], [])
    for row in rows:
        named = by_name(problem, row[None])
        losses = NDSM()(trainer.model, named)
        weight = problem.process.variance(named["t"])
        for which, loss in enumerate((losses.base, losses.control_variate)):
            g = torch.autograd.grad((loss * weight).sum(), parameters, retain_graph=True)
            out[which].append(torch.cat([x.flatten() for x in g]).double())
    return torch.stack(out[0]), torch.stack(out[1])


def test_gradient_moments_equal_those_of_single_backward_passes():
    trainer, problem, rows = setting()
    moments = trainer.gradient_moments(by_name(problem, rows[:40]))
    g0, gw = brute_force(trainer, problem, rows[:40])
    mean = g0.mean(0)
    close = {"rtol": 1e-3, "atol": 1e-6}
    torch.testing.assert_close(moments.base_base, (g0 * g0).sum(1), **close)
    torch.testing.assert_close(moments.base_cv, (g0 * gw).sum(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moments.cv_cv, (gw * gw).sum(1), **close)
    torch.testing.assert_close(moments.mean_cv, gw @ mean, rtol=1e-3, atol=1e-3)
    assert moments.mean_mean == pytest.approx(float(mean @ mean), rel=1e-3)


MOMENTS = ("base_base", "base_cv", "cv_cv", "mean_cv")


def losses_of(rows):
    def losses(score):
        found = NDSM()(score, rows)
        return found.base, found.control_variate

    return losses


def assert_same_moments(found, expected, rtol=1e-4):
    for name in MOMENTS:
        a, b = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol / 10 * float(b.abs().max()))
    assert found.mean_mean == pytest.approx(expected.mean_mean, rel=rtol)


@pytest.mark.parametrize("network", ["mlp", "resmlp"])
def test_both_ways_to_the_moments_agree_however_the_batch_is_split(network, monkeypatch):
    """Layer by layer, and by torch.func in chunks of one row or of all; on the batch, and on uneven parts of it."""
    trainer, problem, rows = setting(**{"network.kind": network})
    whole = [losses_of(by_name(problem, rows[:30]))]
    parts = [losses_of(by_name(problem, rows[i:j])) for i, j in itertools.pairwise((0, 7, 8, 30))]
    layers = gradient_moments(trainer.model, whole)
    assert_same_moments(gradient_moments(trainer.model, parts), layers)
    monkeypatch.setattr("ndsm.objectives.per_sample_gradients.is_layered", lambda model: False)
    assert_same_moments(gradient_moments(trainer.model, whole), layers)
    assert_same_moments(gradient_moments(trainer.model, parts, chunk_bytes=1), layers)


def test_the_mean_gradient_of_the_moments_is_that_of_all_workers():
    """Two workers' uneven shares, each told the sum over both, have the moments of the whole batch."""
    trainer, problem, rows = setting()
    shares = [losses_of(by_name(problem, rows[:10])), losses_of(by_name(problem, rows[10:30]))]
    sent = []
    alone = [gradient_moments(trainer.model, [share], lambda x: (sent.append(x), x)[1]) for share in shares]
    both = [gradient_moments(trainer.model, [share], lambda x: sent[0] + sent[1]) for share in shares]
    whole = gradient_moments(trainer.model, [losses_of(by_name(problem, rows[:30]))])
    assert both[0].mean_mean == both[1].mean_mean
    stacked = {name: torch.cat([getattr(m, name) for m in both]) for name in MOMENTS}
    assert_same_moments(GradientMoments(**stacked, mean_mean=both[0].mean_mean), whole)
    # Each share's own mean gradient is another one.
    assert abs(alone[0].mean_mean / whole.mean_mean - 1) > 0.1


def test_the_control_variates_gradient_has_mean_zero():
    """E W = 0 for every θ, hence E ∇W = 0: each coordinate within 4 standard errors, but for 1 in 10,000."""
    trainer, problem, rows = setting()
    named = by_name(problem, rows[:20_000])
    parameters = list(trainer.model.parameters())
    batches = []
    for part in range(100):
        losses = NDSM()(trainer.model, {k: v[part * 200 : part * 200 + 200] for k, v in named.items()})
        g = torch.autograd.grad(losses.control_variate.mean(), parameters)
        batches.append(torch.cat([x.flatten() for x in g]).double())
    g = torch.stack(batches)
    z = g.mean(0) / (g.std(0) / 10 + 1e-12)
    assert float((z.abs() > 4).double().mean()) <= 1e-3
    assert float(z.abs().max()) < 6


@pytest.mark.parametrize("epsilon", [0.3, 1.0, -2.0])
def test_the_mean_gradient_does_not_depend_on_epsilon(epsilon):
    """Along a random direction v, <∇(base + εW), v> has the same mean for every ε, within 4 standard errors."""
    trainer, problem, rows = setting()
    named = by_name(problem, rows[:20_000])
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator) for p in trainer.model.parameters()]
    names = [k for k, _ in trainer.model.named_parameters()]
    tangent = dict(zip(names, direction, strict=True))

    def each(p):
        def score(y, t):
            return torch.func.functional_call(trainer.model, p, (y, t))

        losses = NDSM()(score, named)
        return losses.base, losses.control_variate

    point = {k: p.detach() for k, p in trainer.model.named_parameters()}
    base, w = torch.func.jvp(each, (point,), (tangent,))[1]
    difference = (epsilon * w).double()
    assert abs(float(difference.mean())) <= 4 * float(difference.std()) / len(difference) ** 0.5
    assert float(difference.std()) > 0.01 * float(base.double().std())


def test_the_antithetic_loss_has_ndsms_mean_and_less_variance():
    """Both are unbiased for the same objective, that of the chain's law; averaging over ±Z cannot raise the variance of the average."""
    trainer, problem, rows = setting()
    named = by_name(problem, rows[:40_000])
    with torch.no_grad():
        one = NDSM()(trainer.model, named).base.double()
        flipped = NDSM()(trainer.model, {**named, "noise": -named["noise"]}).base.double()
        both = AntitheticNDSM()(trainer.model, named).base.double()
    torch.testing.assert_close(both, 0.5 * (one + flipped), rtol=1e-3, atol=1e-3)
    assert float(both.var()) <= float(one.var())


def test_the_uncancelled_gradients_variance_grows_as_one_over_the_last_step():
    """|g_W|² is proportional to 1/Δt_N: a hundred times smaller a step, a hundred times larger a square."""
    sizes = []
    for last_dt in (1e-2, 1e-4):
        trainer, problem, rows = setting(last_dt)
        named = by_name(problem, rows[:4000])
        # Where Δt_N changes neither the time nor with it the weight V(t).
        late = {k: v[named["t"] > 0.1] for k, v in named.items()}
        sizes.append(float(trainer.gradient_moments(late).cv_cv.mean()))
    assert sizes[1] / sizes[0] == pytest.approx(100, rel=0.2)


def moments_of(trainer, problem, rows):
    named = by_name(problem, rows)
    return named["t"], trainer.gradient_moments(named)


def test_the_closed_form_is_the_minimiser_of_the_variance():
    """The averages over many batches give -E A/E B of one large batch, within 10 % of the largest."""
    trainer, problem, rows = setting()
    closed = ClosedFormEpsilon(problem.t_min, problem.process.horizon, bins=1, memory=0.99)
    for k in range(40):
        t, m = moments_of(trainer, problem, rows[k * 250 : k * 250 + 250])
        closed.update(t, m.linear, m.cv_cv, lambda x: x)
    t, m = moments_of(trainer, problem, rows[10_000:20_000])
    best = -float(m.linear.sum() / m.cv_cv.sum())
    found = float(closed(torch.tensor([0.1]))[0])
    assert found == pytest.approx(best, rel=0.1)
    assert found > 0
    variance = [
        float((m.base_base + 2 * e * m.linear + e * e * m.cv_cv).mean() - m.mean_mean)
        for e in (0.0, found, 1.0)
    ]
    assert variance[1] < min(variance[0], variance[2])


def test_the_learned_epsilon_reaches_the_closed_form_optimum():
    """ε_φ trained on eq. 22 lands on -Cov/Var of each third of log t, within 10 % of its size."""
    trainer, problem, rows = setting()
    t, m = moments_of(trainer, problem, rows[:20_000])
    network = NetworkEpsilon(problem.t_min, problem.process.horizon, lr=3e-3)
    order = torch.randperm(len(t), generator=torch.Generator().manual_seed(0))
    for k in range(4000):
        i = order[(k * 250) % 20_000 : (k * 250) % 20_000 + 250]
        network.update(t[i], m.linear[i], m.cv_cv[i], lambda x: x)
    cuts = torch.quantile(t, torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]))
    for low, high in itertools.pairwise(cuts):
        inside = (t >= low) & (t <= high)
        best = -float(m.linear[inside].sum() / m.cv_cv[inside].sum())
        weights = m.cv_cv[inside]
        found = float((network(t[inside]).double() * weights).sum() / weights.sum())
        assert found == pytest.approx(best, rel=0.1, abs=0.01)


def test_epsilon_of_a_resumed_run_is_the_same(tmp_path):
    trainer, _problem, rows = setting(**{"objective.epsilon.kind": "network", "objective.epsilon.every": 2})
    for k in range(6):
        trainer.step(rows[k * 50 : k * 50 + 50])
    again, _, _ = setting(**{"objective.epsilon.kind": "network", "objective.epsilon.every": 2})
    again.load_state(trainer.state())
    t = torch.logspace(-3, -1, 20)
    assert torch.equal(trainer.epsilon(t), again.epsilon(t))
    assert float(trainer.epsilon(t).abs().max()) > 0
    np.testing.assert_allclose(*(float(x.step(rows[300:350])[0]) for x in (trainer, again)), rtol=1e-5)
