"""The score model: what it adds to its network, and what it keeps from it."""

import pytest
import torch

from ndsm.config import load_config
from ndsm.core.rng import torch_stream
from ndsm.mixture import GaussianMixture
from ndsm.networks import build_score_model
from ndsm.processes import Langevin
from ndsm.simulation import rollout
from ndsm.training import make_problem
from ndsm.workflows.resuming import start


def mixture():
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    return GaussianMixture(torch.tensor([0.4, 0.6]), means, torch.tensor([0.3, 0.5]))


def model(kind="mlp", **network):
    overrides = {f"network.{k}": v for k, v in {"kind": kind, "width": 16, "depth": 2, **network}.items()}
    return build_score_model(
        load_config("toy-arcs", overrides), Langevin(mixture()), 1e-3, torch.device("cpu")
    )


def states(n=50, spread=1.0):
    generator = torch_stream(0, "states")
    return spread * torch.randn(n, 2, generator=generator), 10 ** (
        -3 * torch.rand(n, generator=generator)
    ) / 2


@pytest.mark.parametrize("kind", ["mlp", "resmlp"])
def test_the_stationary_score_and_the_scale_are_separate_factors(kind):
    """With the same weights, s(residual, std) = -∇V + s(no residual, none)/sqrt(V)."""
    y, t = states()
    full, bare = model(kind), model(kind, residual=False, output_scale="none")
    for p in bare.parameters():
        # The last layer starts as zero: a test of the factors needs a network that says something.
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    full.load_state_dict(bare.state_dict())
    expected = mixture().score(y) + bare(y, t) / Langevin(mixture()).variance(t).sqrt()[:, None]
    torch.testing.assert_close(full(y, t), expected)
    assert not torch.allclose(full(y, t), mixture().score(y))
    # V(t) / V(T): nothing of -∇V as t → 0, and all of it at the horizon.
    fading = model(kind, residual="fading")
    fading.load_state_dict(bare.state_dict())
    process = Langevin(mixture())
    share = process.variance(t) / process.variance(torch.tensor(process.horizon))
    torch.testing.assert_close(fading(y, t), expected - (1 - share)[:, None] * mixture().score(y))


@pytest.mark.parametrize("kind", ["mlp", "resmlp"])
def test_far_away_the_network_sees_a_bounded_state(kind):
    """Beyond the reach only -∇V depends on the distance: along a ray, s + ∇V is constant."""
    y, t = states(spread=100.0)
    net = model(kind)
    ray = net.center + 10 * (y - net.center)
    torch.testing.assert_close(
        net(ray, t) - mixture().score(ray), net(y, t) - mixture().score(y), rtol=1e-3, atol=1e-2
    )
    near, t = states(spread=0.5)
    closer = net.center + 0.5 * (near - net.center)
    inner = net.network((closer - net.center) / net.spread, net.embedding(t))
    scale = Langevin(mixture()).variance(t).sqrt()[:, None]
    torch.testing.assert_close(net(closer, t), mixture().score(closer) + inner / scale)


@pytest.mark.parametrize("kind", ["mlp", "resmlp"])
def test_weights_come_from_the_seed_and_leave_the_global_generator_alone(kind):
    before = torch.random.get_rng_state()
    a, b = model(kind), model(kind)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    config = load_config(
        "toy-arcs", {"network.kind": kind, "network.width": 16, "network.depth": 2, "train.seed": 1}
    )
    other = build_score_model(config, Langevin(mixture()), 1e-3, torch.device("cpu"))
    assert not torch.equal(*(torch.cat([p.flatten() for p in m.parameters()]) for m in (a, other)))


@pytest.mark.parametrize("kind", ["mlp", "resmlp"])
def test_an_untrained_model_is_the_stationary_score(kind):
    y, t = states()
    torch.testing.assert_close(model(kind)(y, t), mixture().score(y))


def trainer(**train):
    config = load_config(
        "toy-arcs",
        {"network.width": 16, "network.depth": 2, "objective.kind": "ndsm-cv", "train.block_mb": 0.1}
        | {f"train.{k}": v for k, v in train.items()},
    )
    problem = make_problem(config, Langevin(mixture()), 2, "test")
    made, _ = start(problem, None)
    for p in made.model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    data = states()[0].numpy()
    return made, problem.spec.layout.split(torch.from_numpy(rollout(problem.spec, data, 0))[:64])


def test_reduced_precision_is_inside_the_network_only():
    """bfloat16 keeps 8 bits: states, -∇V and the scale do not lose any, and per-sample gradients are float32's own."""
    (full, rows), (reduced, _) = trainer(), trainer(precision="bfloat16")
    y, t = states()
    a, b = full.model(y, t), reduced.model(y, t)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    learned = full.model.learned(y, t)
    assert (b - a).norm() < 0.02 * learned.norm()
    moments = [made.gradient_moments(rows) for made in (full, reduced)]
    torch.testing.assert_close(moments[0].base_base, moments[1].base_base, rtol=0, atol=0)
    assert not torch.equal(full.loss(rows), reduced.loss(rows))


def test_a_compiled_network_gives_the_same_numbers():
    # The tracing backend of torch.compile, which needs no C++ compiler.
    (plain, rows), (compiled, _) = trainer(), trainer()
    compiled.model.network.compile(backend="eager")
    torch.testing.assert_close(compiled.loss(rows), plain.loss(rows))
    moments = [made.gradient_moments(rows) for made in (plain, compiled)]
    torch.testing.assert_close(moments[0].base_base, moments[1].base_base)
    assert compiled.model.network._compiled_call_impl is not None
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
