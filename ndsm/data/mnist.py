"""MNIST, its approximately symmetric variant and its latent space (section 5.1 of the paper).

Images are rows of 784 pixels in [0, 1]; in latent space they are the four numbers of the paper's autoencoder.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndsm.data.images import pixel_schema
from ndsm.data.tables import TableSchema
from ndsm.errors import InputError
from ndsm.vision.autoencoder import LATENT, Autoencoder
from ndsm.vision.pretrained import LabelledImages, Pretrained, autoencoder, cached_array

SIDE = 28
_KINDS = ("images-idx3", "labels-idx1")
MNIST_SCHEMA = pixel_schema(SIDE)
LATENT_SCHEMA = TableSchema(tuple((f"code_{i}", "float") for i in range(LATENT)))


@dataclass(frozen=True, eq=False)
class ImageView:
    """How rows of a data set are seen as images of MNIST.

    Args:
        root: folder that holds `MNIST/raw`.
        autoencoder: whose codes the rows are; None if they are pixels.
        real: training and held-out images themselves, (N, 784) and (M, 784), if the rows are codes.
        symmetric: whether the labels tell turned and halved images (plus 10) from the others.
    """

    root: Path
    autoencoder: Pretrained[Autoencoder] | None = None
    real: tuple[np.ndarray, np.ndarray] | None = None
    symmetric: bool = False

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Rows in original units (n, d) as images, (n, 784) float32 in [0, 1]."""
        rows = np.asarray(rows, dtype=np.float32)
        if self.autoencoder is None:
            return rows.clip(0.0, 1.0)
        return self.autoencoder.apply(self.autoencoder.network.decode, rows)

    def codes(self, images: np.ndarray) -> np.ndarray:
        """The autoencoder's codes of images (n, 784), (n, 4) float32; computed once for the same images."""
        assert self.autoencoder is not None
        network = self.autoencoder
        key = [network.facts["sha256"], images]
        return cached_array("codes", key, lambda: network.apply(network.network.encode, images))


def latent_view(root: Path, train: LabelledImages, test: LabelledImages) -> ImageView:
    """The view of MNIST's latent space; trains its autoencoder on MNIST's splits at the first call on a machine.

    Raises:
        InputError: what is kept of the autoencoder is damaged.
    """
    return ImageView(root, autoencoder("mnist-autoencoder", train, test), (train.images, test.images))


def load_mnist(root: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 784) float32 in [0, 1] and digits (n,) int64 of MNIST's training or test split.

    Args:
        root: folder that holds `MNIST/raw`; the files are downloaded into it if they are missing.

    Raises:
        InputError: they are missing and cannot be downloaded, or damaged.
    """
    # Slow to import, and only images need it.
    from torchvision.datasets import MNIST

    folder = root / "MNIST" / "raw"
    advice = "point data.root at a folder that has them, or let them be downloaded there"
    try:
        split = MNIST(str(root), train=train, download=not _has_files(folder))
        images, digits = split.data.numpy(), split.targets.numpy()
    # Its reader checks a file's header by assertions.
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        found = "damaged ones; delete them" if _has_files(folder) else "none"
        reason = " ".join(str(error).split())[:200] or "not an IDX file"
        raise InputError(
            f"data.root: expected MNIST's files in {folder}, found {found}: {advice} ({reason})"
        ) from None
    rows = images.reshape(len(images), SIDE * SIDE).astype(np.float32)
    rows /= 255.0
    return rows, digits.astype(np.int64)


def _has_files(folder: Path) -> bool:
    return all((folder / f"{split}-{kind}-ubyte").is_file() for split in ("train", "t10k") for kind in _KINDS)


def turned(images: np.ndarray) -> np.ndarray:
    """Images (n, 784) turned by 180°."""
    return images[:, ::-1]


def halved(images: np.ndarray) -> np.ndarray:
    """Images (n, 784) at half their size, in the middle."""
    half, margin = SIDE // 2, SIDE // 4
    out = np.zeros((len(images), SIDE, SIDE), dtype=np.float32)
    out[:, margin : margin + half, margin : margin + half] = images.reshape(-1, half, 2, half, 2).mean((2, 4))
    return out.reshape(-1, SIDE * SIDE)


def halve_and_turn(images: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Approx.-C2-MNIST: each image, with probability 1/2, turned by 180° and resized to half its size in the middle.

    Args:
        images: (n, 784), left as they are.
        generator: decides which.

    Returns:
        The images, (n, 784), and which of them were changed, (n,) int64 of 0 and 1.
    """
    changed = generator.random(len(images)) < 0.5
    out = images.copy()
    out[changed] = halved(turned(images[changed]))
    return out, changed.astype(np.int64)
