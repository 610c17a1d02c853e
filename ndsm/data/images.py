"""MNIST, and its approximately symmetric variant (section 5.1 of the paper), as rows of 784 pixels in [0, 1]."""

from pathlib import Path

import numpy as np

from ndsm.data.tables import TableSchema
from ndsm.errors import InputError

SIDE = 28
MNIST_SCHEMA = TableSchema(tuple((f"pixel_{i}_{j}", "float") for i in range(SIDE) for j in range(SIDE)))


def load_mnist(root: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 784) float32 in [0, 1] and digits (n,) int64 of MNIST's training or test split.

    Args:
        root: folder that holds `MNIST/raw`; the files are downloaded into it if they are missing.

    Raises:
        InputError: they are missing and cannot be downloaded, or damaged.
    """
    # Slow to import, and only images need it.
    from torchvision.datasets import MNIST

    try:
        try:
            split = MNIST(str(root), train=train, download=False)
        except RuntimeError:
            split = MNIST(str(root), train=train, download=True)
        images, digits = split.data.numpy(), split.targets.numpy()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"data.root: expected MNIST's files in {root / 'MNIST' / 'raw'} or a way to download them, found neither "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
    return images.reshape(len(images), SIDE * SIDE).astype(np.float32) / 255.0, digits.astype(np.int64)


def halve_and_turn(images: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Approx.-C2-MNIST: each image, with probability 1/2, turned by 180° and resized to half its size in the middle.

    Args:
        images: (n, 784), left as they are.
        generator: decides which.

    Returns:
        The images, (n, 784), and which of them were changed, (n,) int64 of 0 and 1.
    """
    changed = generator.random(len(images)) < 0.5
    out, half, margin = images.copy(), SIDE // 2, SIDE // 4
    squares = images[changed].reshape(-1, SIDE, SIDE)[:, ::-1, ::-1]
    small = squares.reshape(-1, half, 2, half, 2).mean((2, 4))
    placed = np.zeros((len(small), SIDE, SIDE), dtype=np.float32)
    placed[:, margin : margin + half, margin : margin + half] = small
    out[changed] = placed.reshape(-1, SIDE * SIDE)
    return out, changed.astype(np.int64)
