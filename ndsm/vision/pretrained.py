"""Helper networks of metrics and latent data: trained once from the data at hand, and cached.

The folder is that of the environment variable NDSM_CACHE, else ~/.cache/ndsm. A network is kept as
NAME-KEY.safetensors with NAME-KEY.json beside it, which holds the SHA-256 of the weights and how well it does on
images it was not trained on. KEY is a hash of the recipe and of the training images: other data train another network.
Their seed is fixed, whatever a run's is: distances between runs mean something only if one network measures them all.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ndsm.core.atomic_file import write_whole
from ndsm.core.cores import given_threads, usable_cores
from ndsm.core.global_state import seeded, threads
from ndsm.core.hashing import fingerprint
from ndsm.core.optimizer import Adam
from ndsm.core.progress import stage
from ndsm.core.rng import torch_stream
from ndsm.data.mnist import LabelledImages
from ndsm.errors import InputError
from ndsm.vision.autoencoder import Autoencoder
from ndsm.vision.image_classifier import ImageClassifier

Network = TypeVar("Network", bound=nn.Module)

SEED = 0
CHUNK = 500
"""Images per forward pass."""
SHIFT = 2
"""Largest shift of the classifier's training images, in pixels."""


@dataclass(frozen=True, eq=False)
class Pretrained(Generic[Network]):
    """A network in evaluation mode, with facts about it."""

    network: Network
    facts: dict[str, Any]
    """`name`, `sha256` of the weights, and the recipe's own measures, such as `accuracy`."""

    @torch.inference_mode()
    def apply(self, function: Callable[[Tensor], Tensor], rows: np.ndarray) -> np.ndarray:
        """`function` (of the network) of rows (n, d), in chunks, on all cores; (n, ...) float32."""
        device = next(self.network.parameters()).device
        with all_cores():
            parts = [
                function(torch.from_numpy(rows[k : k + CHUNK]).to(device)).float().cpu()
                for k in range(0, len(rows), CHUNK)
            ]
        return torch.cat(parts).numpy() if parts else np.empty((0,), np.float32)


def classifier(
    name: str, train: LabelledImages, test: LabelledImages, epochs: int = 3
) -> Pretrained[ImageClassifier]:
    """A ResNet18 trained on `train`; `facts["accuracy"]` is its share of right answers on `test`.

    Raises:
        InputError: what is kept of it is damaged.
    """
    classes = int(train.labels.max()) + 1

    def fit(network: ImageClassifier) -> dict[str, Any]:
        def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
            # Digits have a margin of four empty pixels: rolled by two they are shifted, and nothing comes back in.
            down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
            side = math.isqrt(images.shape[1])
            moved = images.reshape(-1, side, side).roll((down, right), (1, 2)).reshape(images.shape)
            return nn.functional.cross_entropy(network(moved), labels, label_smoothing=0.05)

        optimizer = Adam(
            network.parameters(), lr=1e-3, weight_decay=1e-2, decoupled_weight_decay=True, fused=True
        )
        _optimise(name, loss, train, optimizer, epochs=epochs, batch=256, peak=3e-3)
        answers = Pretrained(network.eval(), {}).apply(network, test.images).argmax(1)
        return {"accuracy": float((answers == test.labels).mean()), "classes": classes}

    return _kept(name, ["resnet18", epochs], train, lambda: ImageClassifier(classes), fit)


def autoencoder(
    name: str, train: LabelledImages, test: LabelledImages, epochs: int = 50
) -> Pretrained[Autoencoder]:
    """The paper's autoencoder, trained as the paper says (section 5.1) for the mean squared error, which it leaves open;
    `facts["mse"]` is that error per pixel on `test`.

    Raises:
        InputError: what is kept of it is damaged.
    """

    def fit(network: Autoencoder) -> dict[str, Any]:
        def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
            return nn.functional.mse_loss(network(images), images)

        optimizer = Adam(network.parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
        _optimise(name, loss, train, optimizer, epochs=epochs, batch=256, peak=None)
        seen = Pretrained(network.eval(), {}).apply(network, test.images)
        return {"mse": float(((seen - test.images) ** 2).mean())}

    return _kept(name, ["autoencoder", epochs], train, Autoencoder, fit)


def cached_array(name: str, key: list[Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return `make()`, computed once per key and cached beside the networks."""
    path = cache_folder() / f"{name}-{fingerprint(*key)}.safetensors"
    try:
        return load_tensors(path.read_bytes())["rows"].numpy()
    except (OSError, SafetensorError, KeyError):
        # Unlike a network it can be made again, the very same.
        rows = make()
        write_whole(path, save_tensors({"rows": torch.from_numpy(rows)}))
        return rows


def cache_folder() -> Path:
    """Folder of the cached networks."""
    return Path(os.environ.get("NDSM_CACHE") or Path.home() / ".cache" / "ndsm")


@contextmanager
def all_cores() -> Iterator[None]:
    """Lets torch use every core of this process for a while, or OMP_NUM_THREADS of them where that is set: workers and simulators
    are held to one thread each."""
    cores = usable_cores()
    with threads(min(cores, given_threads() or cores)):
        yield


def _optimise(
    name: str,
    loss: Callable[[Tensor, Tensor, torch.Generator], Tensor],
    data: LabelledImages,
    optimizer: Adam,
    *,
    epochs: int,
    batch: int,
    peak: float | None,
) -> None:
    """Epochs of the optimiser; with a `peak`, its learning rate rises to it and falls to 0 (one cycle)."""
    generator = torch_stream(SEED, f"{name} batches")
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = max(1, len(images) // batch)
    cycle = peak and torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * steps)
    with (
        all_cores(),
        stage(f"training {name} (once, kept in {cache_folder()})", epochs * steps) as advance,
    ):
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator)
            for chosen in order[: steps * batch].split(batch):
                optimizer.zero_grad()
                value = loss(images[chosen], labels[chosen], generator)
                value.backward()
                optimizer.step()
                if cycle:
                    cycle.step()
                advance(1)


def _kept(
    name: str,
    recipe: list[Any],
    train: LabelledImages,
    build: Callable[[], Network],
    fit: Callable[[Network], dict[str, Any]],
) -> Pretrained[Network]:
    """The network of this recipe and data, read or else trained and written."""
    stem = cache_folder() / f"{name}-{fingerprint(*recipe, SEED, train.images, train.labels)}"
    weights, description = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    with seeded(SEED):
        network = build()
    if description.is_file():
        network.load_state_dict(_checked_weights(weights, description))
        return Pretrained(network.eval(), json.loads(description.read_text(encoding="utf-8")))
    facts = fit(network.train())
    content = save_tensors({k: v.contiguous() for k, v in network.state_dict().items()})
    write_whole(weights, content)
    facts = {"name": name, "sha256": hashlib.sha256(content).hexdigest(), **facts}
    # Last: weights without a description are no network yet.
    write_whole(description, json.dumps(facts, indent=1).encode())
    return Pretrained(network.eval(), facts)


def _checked_weights(weights: Path, description: Path) -> dict[str, Tensor]:
    advice = f"delete {description} to train it again"
    try:
        expected = json.loads(description.read_text(encoding="utf-8"))["sha256"]
        content = weights.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{weights}: expected a kept network and its description, found {error!r}; {advice}"
        ) from None
    if (sha256 := hashlib.sha256(content).hexdigest()) != expected:
        raise InputError(
            f"{weights}: expected the SHA-256 {expected[:16]}… that its description states, found {sha256[:16]}…; {advice}"
        )
    tensors: dict[str, Tensor] = load_tensors(content)
    return tensors
