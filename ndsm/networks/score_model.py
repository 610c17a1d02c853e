"""The score model: a network whose inputs and outputs are scaled by known quantities of the process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from ndsm.config import Config, Residual
from ndsm.core.global_state import seeded
from ndsm.core.rng import torch_stream
from ndsm.core.symmetry import GROUPS
from ndsm.errors import InputError
from ndsm.networks.embeddings import TimeEmbedding
from ndsm.networks.equivariant import Equivariant
from ndsm.networks.registry import NETWORKS
from ndsm.processes import Process, require

REACH = 1.2
"""Radius at which the network's input is clipped, in distances of the farthest of 4,096 prior draws."""

VALUES_AT_ONCE = 1 << 18
"""Numbers per batch of the network in generation: 334 images of 28x28, whose 32 channels are 34 MB."""


class ScoreModel(nn.Module):
    """s(y, t) = -∇V(y) + net(x, t) / sqrt(V(t)), x = (y - c)/r, with either factor optional.

    The score of the noised data differs from the stationary -∇V by something of size 1/sqrt(V(t)), so the
    network's own output stays of order one at every t. An untrained model with the -∇V term generates by
    stationary Langevin dynamics: samples of the prior.

    Args:
        network: (B, d), (B, e) → (B, d).
        embedding: times (B,) → (B, e).
        process: gives V(t) and -∇V.
        residual: add -∇V(y), if the process has such a V; "fading" adds w(t) times that, w = V(t)/V(T).
        scaled: divide by sqrt(V(t)), or by sqrt(V(t))/α(t) if "velocity".
        center, spread: c (d,) and r, typical place and size of the states.
        reach: distance from the center, in units of r, beyond which the network sees the state pulled back
            to that distance. A network extrapolates linearly, and reverse paths that it throws out would
            never return; with a bounded network the linear pull of -∇V brings them back.
        precision: number format inside the network, `float32` or `bfloat16`.
        classes: labels it knows; the network then also sees which one a row has, in as many further features.

    A process with components tells it which one a row is in, in the same way. One with hidden components gives it the coordinates
    and the responsibilities of the row, and takes its output there.
    """

    center: Tensor
    reach: Tensor

    def __init__(
        self,
        network: nn.Module,
        embedding: TimeEmbedding,
        process: Process,
        *,
        residual: Residual,
        scaled: bool | Literal["velocity"],
        center: Tensor,
        spread: float,
        reach: float,
        precision: str = "float32",
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.embedding = network, embedding
        self.scaled, self.spread, self.classes = scaled, spread, classes
        self.components = component_count(process)
        self.register_buffer("center", center)
        self.register_buffer("reach", torch.tensor(reach))
        self._process = process
        self._residual = residual
        self._reduced = precision == "bfloat16"

    def forward(
        self, y: Tensor, t: Tensor, label: Tensor | None = None, component: Tensor | None = None
    ) -> Tensor:
        """s(y, t) or s(y, t | label), (B, d), (B,), (B,) → (B, d); a label of -1 is none.

        Args:
            component: of a process with components, (B,).

        Raises:
            InputError: labels for a model that was trained without, or no components for one of a process that has them.
        """
        out = self.learned(y, t, label, component)
        stationary = self._process.stationary_score(y) if self._residual else None
        if stationary is None:
            return out
        if self._residual == "fading":
            horizon = torch.full_like(t, self._process.horizon)
            stationary = stationary * (self._process.variance(t) / self._process.variance(horizon))[:, None]
        return out + stationary

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Context in which the network runs uncompiled and in float32, so that per-sample gradients reach its layers."""
        reduced, compiled = self._reduced, self.network._compiled_call_impl
        self._reduced, self.network._compiled_call_impl = False, None
        try:
            yield
        finally:
            self._reduced, self.network._compiled_call_impl = reduced, compiled

    def learned(
        self, y: Tensor, t: Tensor, label: Tensor | None = None, component: Tensor | None = None
    ) -> Tensor:
        """The part that depends on the weights, net(x, t) / sqrt(V(t)); arguments as of `forward`."""
        features, hidden = self._features(t, label, component), self._process.hidden
        x = y
        if hidden is not None:
            x, shares = hidden.coordinates(y)
            features = torch.cat([features, shares], 1)
        x = (x - self.center) / self.spread
        if (std := self._process.state_std(t)) is not None:
            # The spread is that of the prior, at t = T; a linear process's states may be smaller before.
            x = x * (self.spread / std)[:, None]
        x = x * (self.reach / torch.linalg.vector_norm(x, dim=1, keepdim=True)).clamp(max=1.0)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._reduced):
            out = self._in_parts(x, features)
        out = out.to(y.dtype)
        if self.scaled:
            scale = self._process.variance(t).sqrt()
            if self.scaled == "velocity":
                levels = require(self._process, "levels", "network.output_scale 'velocity'")
                scale = scale * torch.exp(-levels.log_alpha(t))
            out = out / scale[:, None]
        return out if hidden is None else hidden.spread(out, shares)

    def _in_parts(self, x: Tensor, features: Tensor) -> Tensor:
        """The network's output, (B, d), (B, e) → (B, d), in batches that bound its memory.

        Where gradients are taken that is all of them: what a part of the rows has computed is kept anyway.
        """
        at_once = max(1, VALUES_AT_ONCE // x.shape[1])
        if torch.is_grad_enabled() or len(x) <= at_once:
            out: Tensor = self.network(x, features)
            return out
        parts = zip(x.split(at_once), features.split(at_once), strict=True)
        return torch.cat([self.network(*part) for part in parts])

    def _features(self, t: Tensor, label: Tensor | None, component: Tensor | None) -> Tensor:
        """The network's features of times, components and labels, (B, e)."""
        features: Tensor = self.embedding(t)
        if self.components:
            if component is None:
                raise InputError(
                    "component: expected the component of each row, which this score knows, found none"
                )
            numbers = torch.arange(self.components, device=t.device)
            features = torch.cat([features, (component[:, None] == numbers).to(features)], 1)
        if not self.classes:
            if label is not None:
                raise InputError(
                    "label: expected a model trained with labels (network.classes), found one without"
                )
            return features
        numbers = torch.arange(self.classes, device=t.device)
        # Without a label all of these features are 0.
        label = torch.full_like(t, -1.0) if label is None else label
        return torch.cat([features, (label[:, None] == numbers).to(features)], 1)


def component_count(process: Process) -> int:
    """Components of which a score of this process knows the row's."""
    return 0 if process.components is None else process.components.count


def build_score_model(
    config: Config, process: Process, t_min: float, device: torch.device
) -> ScoreModel | Equivariant:
    """The score model that a configuration describes, with weights drawn from the run's seed.

    Args:
        config: its `network` section, `data.symmetry` and `train.seed` are used.
        process: the forward process; its prior's mean and spread scale the network's input.
        t_min: the smallest time that is trained on.
        device: where the model lives.

    Raises:
        InputError: the network does not fit the data's dimension, see `image_side`.
    """
    # The law of a noised state lies between the data's and the prior's; the prior is known for any process.
    mixture = process.mixture
    device_of_prior = mixture.device if mixture is not None else "cpu"
    generator = torch_stream(config.train.seed, "prior moments", device=device_of_prior)
    y = process.prior.sample(4096, generator).float().cpu()
    d, net, shares = y.shape[1], config.network, 0
    if (hidden := process.to("cpu").hidden) is not None:
        y, responsibilities = hidden.coordinates(y)
        shares = responsibilities.shape[1]
    embedding = TimeEmbedding(
        t_min,
        process.horizon,
        net.time_features,
        net.time_scale,
        torch_stream(config.train.seed, "time features"),
    )
    # torch.nn draws initial weights from the global generator: lend it the run's stream, then give it back.
    with seeded(torch_stream(config.train.seed, "weights").initial_seed()):
        features = embedding.width + shares + component_count(process) + net.class_count
        network = NETWORKS[net.kind](d, features, net.width, net.depth)
    if config.train.compile:
        network.compile()
    center = y.mean(0)
    distance = (y - center).norm(dim=1)
    spread = float(distance.pow(2).mean().sqrt()) / d**0.5
    model = ScoreModel(
        network,
        embedding,
        process.to(device),
        residual=net.residual,
        scaled="velocity" if net.output_scale == "velocity" else net.output_scale == "std",
        center=center,
        spread=spread,
        reach=REACH * float(distance.max()) / spread,
        precision=config.train.precision,
        classes=net.class_count,
    ).to(device)
    if config.data.symmetry == "none":
        return model
    return Equivariant(model, GROUPS[config.data.symmetry])
