"""The U-Nets for square images: its sizes, its start, and the per-sample gradients of its layers."""

from importlib import import_module

import pytest
import torch
from torch import nn

from ndsm.config import load_config
from ndsm.data import load
from ndsm.errors import InputError
from ndsm.inference.likelihood import divergence, log_density
from ndsm.mixture import GaussianMixture
from ndsm.networks import UNet, build_score_model
from ndsm.objectives import NDSM, gradient_moments
from ndsm.processes import Langevin
from ndsm.samplers.base import score_at
from ndsm.samplers.ode import velocity
from ndsm.simulation import rollout
from ndsm.training import fit_mixture, make_problem
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import build_problem

TINY = {"kind": "unet", "width": 8, "depth": 3}


def process(d):
    means = torch.randn(2, d, generator=torch.Generator().manual_seed(0))
    return Langevin(GaussianMixture(torch.tensor([0.5, 0.5]), means, torch.tensor([0.5, 0.7])))


def model(d, **network):
    config = load_config("digits", {"network": {**TINY, **network}})
    return build_score_model(config, process(d), 1e-3, torch.device("cpu"))


def shaken(net):
    """The same network, with weights that say something: the last layer starts as zero."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def recorded(d, n):
    generator = torch.Generator().manual_seed(1)
    mean, noise = torch.randn(2, n, d, generator=generator)
    t = 0.01 + torch.rand(n, generator=generator)
    return {"mean": mean, "noise": noise, "t": t, "std": torch.full((n,), 0.05)}


@pytest.mark.parametrize("side", [8, 9, 12, 28])
@pytest.mark.parametrize("depth", [2, 4])
def test_images_of_any_side_come_back_in_their_size(side, depth):
    """Also sides that do not halve evenly, and each pixel depends on its own."""
    net = shaken(UNet(side**2, 5, width=8, depth=depth))
    y = torch.randn(2, side**2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = net(y, torch.zeros(2, 5))
    assert out.shape == y.shape
    for pixel in (0, side - 1, side**2 - 1):
        (slope,) = torch.autograd.grad(out[0, pixel], y, retain_graph=True)
        assert slope[0, pixel] != 0
        assert not slope[1].any()


def test_the_network_sees_a_bounded_number_of_images_at_once_unless_it_learns(monkeypatch):
    net, seen = shaken(model(64)), []
    net.network.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    y, t = recorded(64, 25)["mean"], torch.full((25,), 0.1)
    with torch.no_grad():
        whole = net(y, t)
        monkeypatch.setattr("ndsm.networks.score_model.VALUES_AT_ONCE", 10 * 64 + 5)
        torch.testing.assert_close(net(y, t), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net(y, t), whole, rtol=1e-4, atol=1e-4)
    assert seen == [25, 10, 10, 5, 25]


def test_in_reduced_precision_only_the_convolutions_are_reduced():
    """A normalisation sums squares over a group's pixels: 8 bits are too few for that."""
    full, reduced = shaken(model(64)), shaken(model(64))
    reduced._reduced = True
    seen = {}
    for module in reduced.modules():
        if isinstance(module, nn.GroupNorm | nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda m, args, out: seen.setdefault(type(m), set()).add(out.dtype))
    y, t = recorded(64, 25)["mean"], torch.full((25,), 0.1)
    a, b = full.learned(y, t), reduced.learned(y, t)
    assert b.dtype == torch.float32
    assert 0 < (b - a).norm() < 0.01 * a.norm()
    assert seen == {
        nn.Conv2d: {torch.bfloat16},
        nn.ConvTranspose2d: {torch.bfloat16},
        nn.GroupNorm: {torch.float32},
    }
    for net in (full, reduced):
        net.learned(y, t).square().sum().backward()
    slopes = [torch.cat([p.grad.flatten() for p in net.parameters()]) for net in (full, reduced)]
    assert (slopes[1] - slopes[0]).norm() < 0.01 * slopes[0].norm()


def test_log_densities_of_images_differentiate_along_directions():
    """The sum of the derivatives along all pixels is the Jacobian's trace; and the solver takes the model as it is."""
    net, ours = shaken(model(64)).eval(), process(64)
    y = ours.mixture.sample(2, torch.Generator().manual_seed(1))
    value, slopes = divergence(ours, net, y, 0.2, torch.eye(64)[:, None, :])

    def flow(x):
        return velocity(ours, x, score_at(net, x, 0.2), 0.2)

    trace = [torch.autograd.functional.jacobian(flow, x[None])[0, :, 0].trace() for x in y]
    torch.testing.assert_close(slopes.sum(0), torch.stack(trace), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(value, flow(y))
    found, _ = log_density(ours, net, y, 0.4, probes=1, tolerance=1e-2)
    assert torch.isfinite(found).all()


def test_the_papers_size_has_about_a_million_weights():
    for d in (64, 784):
        assert sum(p.numel() for p in UNet(d, 17).parameters()) == pytest.approx(1.1e6, rel=0.05)


@pytest.mark.parametrize("kind", ["unet", "diffusers"])
@pytest.mark.parametrize("d", [64, 784])
def test_an_untrained_model_is_the_stationary_score(d, kind):
    y, t = torch.randn(3, d), torch.tensor([0.01, 0.1, 1.0])
    torch.testing.assert_close(model(d, kind=kind)(y, t), process(d).stationary_score(y))


def test_the_librarys_network_sees_the_time_and_every_pixel():
    net = shaken(model(64, kind="diffusers"))
    y = torch.randn(1, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    early, late = (net.learned(y, torch.tensor([t])) * t**0.5 for t in (0.01, 0.02))
    assert not torch.allclose(early, late, rtol=1e-3)
    (slope,) = torch.autograd.grad(early.square().sum(), y)
    assert slope.ne(0).all()


def test_the_librarys_network_needs_the_library(monkeypatch):
    monkeypatch.setattr("ndsm.networks.diffusers_unet.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"expected the diffusers package, found none; pip install"):
        make_problem(load_config("digits", {"network": {**TINY, "kind": "diffusers"}}), process(64), 64)


@pytest.mark.parametrize(
    ("d", "network", "parts"),
    [
        (60, {}, ["network.kind 'unet'", "found 60 columns"]),
        (49, {}, ["8x8", "found 49 columns"]),
        (64, {"depth": 5}, ["network.depth", "2 to 4 levels", "8x8", "found 5"]),
        (784, {"depth": 7}, ["network.depth", "2 to 5 levels", "28x28", "found 7"]),
        (64, {"depth": 1}, ["network.depth", "found 1"]),
        (64, {"width": 12}, ["network.width", "multiple of 8", "found 12"]),
        (784, {"kind": "diffusers", "depth": 4}, ["network.depth", "28 pixels", "'diffusers'", "found 4"]),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_anything_is_built(d, network, parts):
    config = load_config("digits", {"network": {**TINY, **network}})
    with pytest.raises(InputError) as caught:
        make_problem(config, process(d), d)
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


class Layers(nn.Module):
    """A network of one's own with `learned`, on images of 2 x 6 x 5."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(nn.Unflatten(1, (2, 6, 5)), *layers, nn.Flatten())

    def learned(self, y, t):
        return self.layers(y) * t[:, None]

    forward = learned


NETWORKS = {
    "unet": lambda: shaken(model(64)),
    "the library's": lambda: shaken(model(64, kind="diffusers")),
    "unet on an odd side": lambda: shaken(model(81)),
    "convolutions of other shapes": lambda: shaken(
        Layers(
            nn.Conv2d(2, 7, (3, 2), stride=(2, 1), padding=(0, 1)),
            nn.SiLU(),
            nn.Conv2d(7, 4, (1, 3), padding=(1, 0)),
            nn.LayerNorm(4),
            nn.ConvTranspose2d(4, 3, (2, 3), stride=(2, 1), padding=(1, 0), output_padding=(1, 0)),
            nn.GroupNorm(1, 3),
            nn.Flatten(),
            nn.Linear(126, 60),
        )
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_both_ways_to_the_moments_agree_however_the_batch_is_split(name, monkeypatch):
    """Layer by layer, for all rows at once, one by one or in uneven parts, and by torch.func."""
    net = NETWORKS[name]()
    d = {"unet": 64, "the library's": 64, "unet on an odd side": 81}.get(name, 60)
    rows = recorded(d, 5)
    parts = [{k: v[:2] for k, v in rows.items()}, {k: v[2:] for k, v in rows.items()}]

    def losses(rows):
        def of_score(score):
            found = NDSM()(score, rows)
            return found.base, found.control_variate

        return of_score

    layers = [
        gradient_moments(net, [losses(rows)]),
        gradient_moments(net, [losses(rows)], chunk_bytes=1),
        gradient_moments(net, [losses(part) for part in parts]),
    ]
    monkeypatch.setattr(
        import_module("ndsm.objectives.per_sample_gradients"), "is_layered", lambda model: False
    )
    chunked = gradient_moments(net, [losses(rows)])
    for found in layers:
        for field in ("base_base", "base_cv", "cv_cv", "mean_cv"):
            a, b = getattr(found, field), getattr(chunked, field)
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))
        assert found.mean_mean == pytest.approx(chunked.mean_mean, rel=1e-3)


@pytest.mark.parametrize("groups", [1, 2])
def test_moments_of_one_convolution_are_sums_over_its_windows(groups):
    """In two groups it has no formula of its own, and its first output sees the first channel only."""
    net = Layers(nn.Conv2d(2, 2, 3, padding=1, groups=groups, bias=False))
    rows = recorded(60, 4)

    def sum_of_first_channel(score):
        return score(rows["mean"], rows["t"])[:, :30].sum(1), None

    images = rows["mean"].reshape(4, 2, 6, 5)[:, : 2 // groups]
    gradient = rows["t"][:, None] * nn.functional.unfold(images, 3, padding=1).sum(2)
    found = gradient_moments(net, [sum_of_first_channel])
    torch.testing.assert_close(found.base_base, (gradient.double() ** 2).sum(1), rtol=1e-3, atol=1e-6)
    assert not found.cv_cv.any()


def test_a_short_training_on_digits_lowers_the_loss():
    lr = {"train.lr": 5e-3, "train.steps": 40}
    config = load_config(
        "digits",
        {"network": TINY, "reference.n_components": 2, "train.block_mb": 0.6, **lr},
    )
    dataset = load(config.data, 0)
    problem = build_problem(config, fit_mixture(config, dataset.train), dataset.stamp)
    trainer, _ = start(problem, None)
    rows = torch.from_numpy(rollout(problem.spec, dataset.train, 0))
    held_out = problem.spec.layout.split(rows[:300])
    # It has no lower bound of zero: what counts is how far it falls.
    with torch.no_grad():
        before = float(trainer.loss(held_out))
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        trainer.step(rows[300 + torch.randint(len(rows) - 300, (64,), generator=generator)])
    with torch.no_grad():
        after = float(trainer.loss(held_out))
    assert after < before - 0.2, f"{before:.3f}, {after:.3f}"
