"""A classifier of noisy rows, p(label | Y_t = y, t), by which any score can be guided (dissertation, 7.5).

It is trained on the forward process alone, simulated from labelled rows, and needs no score; `ndsm.inference.guidance.Classified`
puts the two together. A score that was trained without labels thus learns to follow them afterwards.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ndsm.core.global_state import seeded
from ndsm.core.optimizer import Adam
from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.networks import MLP, TimeEmbedding
from ndsm.processes import Process
from ndsm.simulation import LABEL, one_step_batches

FIRST_TIME = 1 / 6000
"""Smallest time of training, as a share of T."""


class NoiseAwareClassifier(nn.Module):
    """Logits of the labels, by fully connected layers on the standardised state and features of log t.

    Args:
        process: the forward process.
        classes: labels 0, 1, ....
        t_min: smallest time it will see.
        width, depth: units per layer, hidden layers.
        generator: draws the features' frequencies and what the states are standardised by.
    """

    center: Tensor

    def __init__(
        self,
        process: Process,
        classes: int,
        t_min: float,
        width: int,
        depth: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        prior = process.prior.sample(4096, generator).float().cpu()
        self.register_buffer("center", prior.mean(0))
        self._spread = float((prior - self.center).pow(2).mean().sqrt())
        self._process, self.classes = process, classes
        self.embedding = TimeEmbedding(t_min, process.horizon, 8, 1.0, generator)
        self.network = MLP(prior.shape[1], self.embedding.width, width, depth, classes)

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        """Logits, (B, d), (B,) → (B, classes)."""
        std = self._process.state_std(t)
        scale = self._spread if std is None else std[:, None]
        out: Tensor = self.network((y - self.center) / scale, self.embedding(t))
        return out


def fit_classifier(
    process: Process,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int = 2000,
    batch_rows: int = 256,
    width: int = 128,
    depth: int = 3,
    lr: float = 1e-3,
    seed: int = 0,
) -> NoiseAwareClassifier:
    """Train a classifier of noised rows by cross-entropy, on the CPU; it is returned in evaluation mode.

    Args:
        process: the one that the score belongs to.
        rows: (N, d) in model units.
        labels: (N,) whole numbers from 0 on.
        steps, batch_rows, lr: of Adam, its rate falling to 0 as a cosine.
        width, depth: units per layer, hidden layers.

    Raises:
        InputError: there is not one label for each row, or labels are not whole numbers from 0 on.
    """
    if np.shape(labels) != (len(rows),):
        raise InputError(
            f"labels: expected one for each of the {len(rows)} rows, found shape {np.shape(labels)}"
        )
    numbers = np.asarray(labels)
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 0:
        raise InputError(
            f"labels: expected whole numbers from 0 on, found {numbers.dtype} from {numbers.min()}"
        )
    process, t_min = process.to("cpu"), process.horizon * FIRST_TIME
    batches = one_step_batches(process, rows, t_min, batch_rows, seed, numbers.astype(np.int16))
    with seeded(torch_stream(seed, "classifier").initial_seed()):
        model = NoiseAwareClassifier(
            process,
            int(numbers.max()) + 1,
            t_min,
            width,
            depth,
            torch_stream(seed, "classifier inputs"),
        )
    optimiser = Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        named = next(batches)
        states = named["mean"] + named["std"][:, None] * named["noise"]
        loss = nn.functional.cross_entropy(model(states, named["t"]), named[LABEL].long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)
