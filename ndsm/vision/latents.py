"""The data source `mnist-latent`: MNIST in the four-dimensional latent space of the paper's autoencoder (section 5.1).

Importing this module registers it.
"""

from dataclasses import dataclass

import numpy as np

from ndsm.config import Data
from ndsm.data import Dataset, ImageView, Scaling, TableSchema
from ndsm.data.mnist import LabelledImages, dataset_of_splits, mnist_splits
from ndsm.data.sources import register
from ndsm.vision.autoencoder import LATENT, Autoencoder
from ndsm.vision.pretrained import Pretrained, autoencoder, cached_array

LATENT_SCHEMA = TableSchema(tuple((f"code_{i}", "float") for i in range(LATENT)))


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentView(ImageView):
    """How codes of the autoencoder are seen as images."""

    autoencoder: Pretrained[Autoencoder]
    train: np.ndarray
    """(N, 784) training images."""
    test: np.ndarray
    """(M, 784) held-out images."""

    @property
    def real(self) -> tuple[np.ndarray, np.ndarray]:
        """The images themselves."""
        return self.train, self.test

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Images (n, 784) of codes (n, 4) in original units."""
        return self.autoencoder.apply(self.autoencoder.network.decode, np.asarray(rows, dtype=np.float32))

    def codes(self, images: np.ndarray) -> np.ndarray:
        """Codes (n, 4) float32 of images (n, 784); computed once for the same images."""
        network = self.autoencoder
        key = [network.facts["sha256"], images]
        return cached_array("codes", key, lambda: network.apply(network.network.encode, images))


def load_latents(config: Data, seed: int, scaling: Scaling | None) -> Dataset:
    """Load the codes of MNIST's images; trains the autoencoder on them at the first call on a machine.

    Raises:
        InputError: MNIST is not there, or what is kept of the autoencoder is damaged.
    """
    splits = mnist_splits(config.root)
    train, test = splits["train"], splits["test"]
    view = LatentView(
        config.root,
        autoencoder=autoencoder("mnist-autoencoder", train, test),
        train=train.images,
        test=test.images,
    )

    def encoded(_: str, source: LabelledImages) -> LabelledImages:
        return LabelledImages(view.codes(source.images), source.labels)

    return dataset_of_splits(config, seed, scaling, splits, view, LATENT_SCHEMA, encoded)


register("mnist-latent", load_latents)
