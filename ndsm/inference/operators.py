"""Linear operators of measurements y = A x + noise."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.processes import Process

SINGULAR = 1e-6
"""Singular values below this share of the largest count as 0."""


class Operator:
    """A linear map of rows, x → A x, (B, d) → (B, m).

    Args:
        matrix: A, (m, d).
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2:
            raise InputError(f"operator: expected a matrix (m, d), found shape {tuple(matrix.shape)}")
        if not matrix.isfinite().all():
            raise InputError("operator: expected a matrix of finite numbers, found NaN or infinity in it")
        self.matrix = matrix.float()
        self._pseudo_inverse = torch.linalg.pinv(matrix.double(), rtol=SINGULAR).float()

    def __call__(self, x: Tensor) -> Tensor:
        """A x, (B, d) → (B, m)."""
        return x @ self.matrix.T.to(x)

    def transposed(self, y: Tensor) -> Tensor:
        """Aᵀ y, (B, m) → (B, d)."""
        return y @ self.matrix.to(y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y, (B, m) → (B, d)."""
        return y @ self._pseudo_inverse.T.to(y)

    def check(self, dimension: int, y: Tensor) -> None:
        """Check that it maps rows of `dimension` numbers to rows like y.

        Raises:
            InputError: it does not.
        """
        m, d = self.matrix.shape
        if d != dimension or y.ndim != 2 or y.shape[1] != m:
            raise InputError(
                f"operator: expected a matrix ({y.shape[-1]}, {dimension}) for measurements {tuple(y.shape)} of rows with "
                f"{dimension} numbers, found ({m}, {d})"
            )

    def check_rows(self, x: Tensor, y: Tensor) -> None:
        """Check that it maps rows x to rows like y, as many.

        Raises:
            InputError: it does not, or there are more of one than of the other.
        """
        self.check(x.shape[1], y)
        if len(x) != len(y):
            raise InputError(
                f"measurements: expected one row for each of the {len(x)} that are generated, found {len(y)}"
            )


def mask(kept: Tensor) -> Operator:
    """The numbers that are kept, for (d,) bool: inpainting."""
    return Operator(torch.eye(len(kept))[kept])


def projections(directions: int, dimension: int, seed: int = 0) -> Operator:
    """Inner products with random orthonormal directions."""
    if directions > dimension:
        raise InputError(f"projections: expected at most {dimension} directions, found {directions}")
    normal = torch.randn(dimension, directions, generator=torch_stream(seed, "projections"))
    return Operator(torch.linalg.qr(normal)[0].T)


def average_pool(side: int, factor: int) -> Operator:
    """Means of squares of factor x factor pixels, of square images (side²): what super-resolution undoes."""
    if side % factor:
        raise InputError(f"average_pool: expected a factor that divides the side {side}, found {factor}")
    pool = torch.nn.AvgPool2d(factor)
    return _of_images(side, lambda images: pool(images))


def blur(side: int, std: float) -> Operator:
    """Gaussian blur with a standard deviation in pixels; beyond the border the image is 0."""
    at = torch.arange(side, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((at[:, None] - at) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    return Operator(torch.kron(kernel, kernel))


def masked_fourier(side: int, kept: Tensor) -> Operator:
    """Real and imaginary parts of the kept frequencies of the orthonormal Fourier transform, for (side, side) bool."""

    def parts(images: Tensor) -> Tensor:
        frequencies = torch.fft.fft2(images[:, 0], norm="ortho")[:, kept]
        return torch.cat([frequencies.real, frequencies.imag], 1)

    return _of_images(side, parts)


def _of_images(side: int, linear: Callable[[Tensor], Tensor]) -> Operator:
    """The operator that a linear function of images (B, 1, side, side) is."""
    basis = torch.eye(side * side).reshape(-1, 1, side, side)
    return Operator(linear(basis).flatten(1).T)


def check_measurements(process: Process, operator: Operator, y: Tensor, noise: float | Tensor = 0.0) -> None:
    """Check that the operator maps the process's rows, as far as their dimension is known, to rows like y.

    Raises:
        InputError: it does not, or the noise is below 0.
    """
    mixture = process.mixture
    operator.check(operator.matrix.shape[1] if mixture is None else mixture.dimension, y)
    check_noise(noise)


def check_noise(noise: float | Tensor) -> None:
    """Check a standard deviation of measurements.

    Raises:
        InputError: it is below 0.
    """
    least = float(torch.as_tensor(noise).min())
    if not least >= 0:
        raise InputError(f"noise: expected a standard deviation of 0 or more, found {least:g}")
