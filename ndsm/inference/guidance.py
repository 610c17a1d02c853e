"""Linear inverse problems y = A x + noise: guidance wraps a score and is a score, so that every sampler works with it.

`MomentMatched` follows ∇log p(y | Y_t = x), with p(Y_0 | Y_t = x) taken as normal with its exact mean m and covariance C
(`ndsm.inference.posterior`): the gradient of log N(y; A m, σ_y² I + A C Aᵀ), C held fixed, which is
(∂m/∂x)ᵀ Aᵀ (σ_y² I + A C Aᵀ)⁻¹ (y - A m) (Rozet et al. 2024). At every t it knows how far m can be trusted, and for
Gaussian data it is exact. Some conjugate-gradient steps solve the system, one product with the Jacobian each. A mixture's
process may take C and ∂m/∂x of the mixture's modes in place of the network's: σ² and α along each axis. That is as
exact for data spread like the modes, takes no derivatives, and does not multiply a Jacobian's error by σ²/α, hundreds at t = T.
A linear process may take those of one Gaussian N(0, I) in the same way, σ²/(α² + σ²) and α/(α² + σ²).

`Projected` projects the mean: m + λ A⁺(y - A m), and the score that has this mean (for λ = 1 the range-null space
decomposition of DDNM, Wang et al. 2023): one evaluation, no derivatives, and no account of noise. The dissertation's
projection, of x itself onto noised measurements, is `ndsm.inference.projection`.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.inference.imputation import noised
from ndsm.inference.posterior import Posterior
from ndsm.mixture import GaussianMixture
from ndsm.objectives import Score
from ndsm.processes import Process, geometric_grid
from ndsm.samplers.base import draw_prior, score_at

NOISING_STEPS = 30
"""From a draw given measurements up to t = T."""
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
        """Nothing, if it maps rows of `dimension` numbers to rows like y.

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
        """Nothing, if it maps rows x to rows like y, as many.

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
        found = torch.fft.fft2(images[:, 0], norm="ortho")[:, kept]
        return torch.cat([found.real, found.imag], 1)

    return _of_images(side, parts)


def _of_images(side: int, linear: Callable[[Tensor], Tensor]) -> Operator:
    """The operator that a linear function of images (B, 1, side, side) is."""
    basis = torch.eye(side * side).reshape(-1, 1, side, side)
    return Operator(linear(basis).flatten(1).T)


def _check_measurements(process: Process, operator: Operator, y: Tensor, noise: float | Tensor = 0.0) -> None:
    """Nothing, if the operator maps the process's rows, as far as their dimension is known, to rows like y.

    Raises:
        InputError: it does not, or the noise is below 0.
    """
    mixture = process.mixture
    operator.check(operator.matrix.shape[1] if mixture is None else mixture.dimension, y)
    _check_noise(noise)


def _check_noise(noise: float | Tensor) -> None:
    least = float(torch.as_tensor(noise).min())
    if not least >= 0:
        raise InputError(f"noise: expected a standard deviation of 0 or more, found {least:g}")


class MomentMatched:
    """s(x, t) + ∇log N(y; A m, σ_y² I + A C Aᵀ).

    Args:
        process, score: of the noised data.
        operator: A.
        y: measurements, (B, m), one row for each that is generated.
        noise: σ_y, in the same units, a number or one for each measurement (m,).
        moments: C and ∂m/∂x by the network's "jacobian" or by the "modes": the mixture's, or a linear process's one
            N(0, I), as wide as standardised data; if None by the modes of a mixture and the Jacobian of a linear process.
        iterations: of conjugate gradients; with a network's Jacobian, which is not quite symmetric, more make it worse.

    Raises:
        InputError: A does not fit y or the process's rows, the noise is below 0, or the process is neither linear nor
            a mixture's.
    """

    def __init__(
        self,
        process: Process,
        score: Score,
        operator: Operator,
        y: Tensor,
        noise: float | Tensor = 0.0,
        moments: Literal["jacobian", "modes"] | None = None,
        iterations: int = 4,
    ) -> None:
        _check_measurements(process, operator, y, noise)
        self._posterior, self._score = Posterior(process, score), score
        self._operator, self._y, self._iterations = operator, y, iterations
        self._noise = torch.as_tensor(noise).to(y)
        self._by_modes = (moments or ("modes" if self._posterior.has_modes else "jacobian")) == "modes"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, (B, d), (B,) → (B, d); all times equal."""
        self._operator.check_rows(x, self._y)
        time, a, posterior = float(t[0]), self._operator, self._posterior
        spread = posterior.spread(time)
        with torch.set_grad_enabled(not self._by_modes):
            x = x.detach().requires_grad_(not self._by_modes)
            s = score_at(self._score, x, time)
            m = posterior.mean_of(x, s, time, learned=True)

        def back(v: Tensor) -> Tensor:
            if self._by_modes:
                return posterior.scaled(x, v, time, 0, 1) / spread
            return torch.autograd.grad(m, x, v, retain_graph=True)[0]

        with torch.no_grad():

            def normal(w: Tensor) -> Tensor:
                covered = posterior.scaled(x, a.transposed(w), time, 2, 0 if self._by_modes else -1)
                return self._noise**2 * w + a(covered / spread if self._by_modes else back(covered))

            w = _conjugate_gradients(normal, self._y - a(m), self._iterations)
            return (s + back(a.transposed(w))).detach()


class Projected:
    """The score whose posterior mean is m + λ A⁺(y - A m): the mean is projected, not x (see `ndsm.inference.projection`).

    Args:
        process, score, operator, y: as of `MomentMatched`.
        strength: λ, from 0 (no guidance) to 1 (measurements met exactly).

    Raises:
        InputError: A does not fit y or the process's rows, or the process is neither linear nor a mixture's.
    """

    def __init__(
        self, process: Process, score: Score, operator: Operator, y: Tensor, strength: float = 1.0
    ) -> None:
        _check_measurements(process, operator, y)
        self._posterior, self._score = Posterior(process, score), score
        self._operator, self._y, self._strength = operator, y, strength

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, (B, d), (B,) → (B, d); all times equal."""
        self._operator.check_rows(x, self._y)
        time = float(t[0])
        s = score_at(self._score, x, time)
        m = self._posterior.mean_of(x, s, time, learned=True)
        move = self._strength * self._operator.pseudo_inverse(self._y - self._operator(m))
        return s + self._posterior.scaled(x, move, time, -2, 1)


def draw_from_mixture(
    mixture: GaussianMixture,
    operator: Operator,
    y: Tensor,
    noise: float | Tensor,
    generator: torch.Generator,
) -> Tensor:
    """A draw of the mixture given each row of measurements, exactly, (B, m) → (B, d); in float64 on the CPU.

    Args:
        noise: σ_y, a number or one for each measurement (m,).
        generator: on the CPU.

    Raises:
        InputError: A does not fit y or the mixture's rows, or the noise is below 0.
    """
    operator.check(mixture.dimension, y)
    _check_noise(noise)
    a, measured = operator.matrix.double().cpu(), y.double().cpu()
    std = torch.as_tensor(noise, dtype=torch.float64, device="cpu").expand(len(a))
    z, errors = (
        torch.randn(len(y), n, generator=generator, dtype=torch.float64) for n in (a.shape[1], a.shape[0])
    )
    log_p, draws = [], []
    for i, mean in enumerate(mixture.means):
        own = mixture.covariance(i)
        covariance = torch.diag(own) if own.ndim == 1 else own
        law = a @ covariance @ a.T
        # Measurements without noise that repeat each other would leave it singular.
        law.diagonal().add_(std**2 + SINGULAR**2 * law.diagonal().mean())
        root = torch.linalg.cholesky(law)
        off = measured - mean @ a.T
        half = torch.linalg.solve_triangular(root, off.T, upper=False)
        log_p.append(-0.5 * (half**2).sum(0) - root.diagonal().log().sum())
        free = z @ torch.linalg.cholesky(covariance).T
        # A draw of the component, moved by what its own noisy measurements are off.
        draws.append(
            mean
            + free
            + (covariance @ a.T @ torch.cholesky_solve((off - free @ a.T - std * errors).T, root)).T
        )
    posterior = (torch.stack(log_p, 1) + mixture.weights.log()).softmax(1)
    chosen = torch.multinomial(posterior, 1, generator=generator)[:, 0]
    return torch.stack(draws)[chosen, torch.arange(len(y))].to(y)


def has_modes(process: Process) -> bool:
    """Whether measurements can tell in which mode generation is to start."""
    return process.mixture is not None and process.mixture.n_components > 1


def start_given(
    process: Process, operator: Operator, y: Tensor, noise: float | Tensor, generator: torch.Generator
) -> Tensor:
    """Rows at t = T to begin a guided generation with, (B, m) → (B, d).

    Noising hardly leaves a mode, so the measurements have a say in which one generation starts in: draws of the mixture
    given y, noised up to T. For a process without modes, the prior.

    Raises:
        InputError: A does not fit y or the process's rows, or the noise is below 0.
    """
    _check_measurements(process, operator, y, noise)
    if not has_modes(process):
        return draw_prior(process, len(y), generator).to(y)
    assert process.mixture is not None
    start = draw_from_mixture(process.mixture, operator, y, noise, generator)
    times = geometric_grid(process.horizon, NOISING_STEPS, process.horizon / NOISING_STEPS / 10)
    return noised(process, start, times, lambda: torch.randn(start.shape, generator=generator).to(y))[-1]


class Classified:
    """Guidance by a classifier of noisy rows, s(x, t) + w ∇log p(label | x, t) (dissertation, 7.5).

    Args:
        score: of a model that need not know labels.
        logits: (B, d), (B,) → (B, classes), such as `ndsm.inference.noisy_classifier.NoiseAwareClassifier`.
        label: of all rows.
        strength: w; 1 is the label's own law, as far as score and classifier are exact.

    Raises:
        InputError: the classifier does not know the label; found at once by its `classes`, or at the first call.
    """

    def __init__(
        self, score: Score, logits: Callable[[Tensor, Tensor], Tensor], label: int, strength: float = 1.0
    ) -> None:
        self._score, self._logits, self._label, self._strength = score, logits, label, strength
        _check_label(label, getattr(logits, "classes", None))

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        """The guided score, (B, d), (B,) → (B, d)."""

        def log_prob(x: Tensor) -> Tensor:
            logits = self._logits(x, t)
            _check_label(self._label, logits.shape[1])
            return torch.log_softmax(logits, 1)[:, self._label].sum()

        return self._score(y, t) + self._strength * torch.func.grad(log_prob)(y)


class Labelled:
    """Classifier-free guidance, s(x, t) + w (s(x, t | label) - s(x, t)) (Ho and Salimans 2022).

    Args:
        score: of a labelled model.
        label: of all rows.
        strength: w; 1 is the conditional score, at one evaluation in place of two.

    Raises:
        InputError: the model does not know the label, by its `classes`.
    """

    def __init__(self, score: Score, label: int, strength: float = 1.0) -> None:
        self._score, self._label, self._strength = score, label, strength
        _check_label(label, getattr(score, "classes", None))

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        """The guided score, (B, d), (B,) → (B, d)."""
        own = torch.stack([t, torch.full_like(t, self._label)], 1)
        if self._strength == 1.0:
            return self._score(y, own)
        none = torch.stack([t, torch.full_like(t, -1.0)], 1)
        with_label, without = self._score(torch.cat([y, y]), torch.cat([own, none])).chunk(2)
        return without + self._strength * (with_label - without)


def _check_label(label: int, classes: int | None) -> None:
    """Nothing, if it is a label's number; an index below 0 would be another's."""
    if label < 0 or (classes is not None and label >= classes):
        known = "from 0 on" if classes is None else f"from 0 to {classes - 1}"
        raise InputError(f"label: expected a number {known}, found {label}")


def _conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x with M x = b for each row, M symmetric and positive definite, (B, m) → (B, m)."""
    x, r = torch.zeros_like(b), b
    p, square = r, (r * r).sum(1, keepdim=True)
    floor = torch.finfo(b.dtype).tiny
    for _ in range(iterations):
        q = matrix(p)
        # A network's Jacobian need not be positive definite: stop a row where it is not.
        curvature = (p * q).sum(1, keepdim=True)
        step = torch.where(curvature > floor, square / curvature.clamp(min=floor), 0.0)
        x, r = x + step * p, r - step * q
        following = (r * r).sum(1, keepdim=True)
        p, square = r + (following / square.clamp(min=floor)) * p, following
    return x
