"""The Gaussian mixture: prior of the generator, stationary law of the noising.

η*(y) = Σ_i w_i N(y; μ_i, Σ_i) (eq. 2), V = -log η*.

Symbols: d dimension, K components, B rows; r_i(y) responsibilities; g_i(y) the score of component i. The methods take
rows (B, d); `at` and `score_columns`, which the simulator calls, take columns (d, B), as `ndsm.mixture.covariances` does.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from ndsm.core.symmetry import Symmetry
from ndsm.errors import InputError
from ndsm.mixture.conditional import responsibilities_given, sample_given
from ndsm.mixture.covariances import Components, Diagonal, Full, Spherical, Tied
from ndsm.mixture.fit import fit_parameters

CovarianceType = Literal["spherical", "tied", "diag", "full"]


class MixtureAt:
    """The mixture at some columns; shares the responsibilities between its score and Hessian.

    Args:
        components: the mixture's.
        centered: the columns, about the mixture's origin, (d, B). They must not change as long as this is used.
        responsibilities: r, (K, B).
    """

    def __init__(self, components: Components, centered: Tensor, responsibilities: Tensor) -> None:
        self._components, self._centered, self._r = components, centered, responsibilities

    def score(self) -> Tensor:
        """∇log η*(y), (d, B)."""
        return self._components.combine(self._centered, self._r)

    def share(self, component: Tensor) -> Tensor:
        """The responsibility of each column's given component, (B,) → (B,)."""
        return self._r.gather(0, component[None])[0]

    def hessian_vector_product(self, v: Tensor) -> Tensor:
        """∇²log η*(y) v, (d, B) → (d, B).

        Σ_i r_i (g_i (g_i·v) - P_i v) - s (s·v) with s = Σ_i r_i g_i, which is Σ_i r_i g_i ((g_i - s)·v) - Σ_i r_i P_i v.
        """
        y, r, c = self._centered, self._r, self._components
        dots = c.dots(y, v)
        return c.combine(y, r * (dots - (r * dots).sum(0))).sub_(c.precision(v, r))


_SHAPES: dict[str, Callable[..., Components]] = {
    "spherical": Spherical,
    "diag": Diagonal,
    "tied": Tied,
    "full": Full,
}
ROUNDING = 1e-15
"""Relative rounding error per weight of a sum of weights in float64."""


def _placed(device: torch.device | str) -> torch.device:
    """The device as tensors there say it: `cuda` is the current GPU, `cuda:0` for instance."""
    named = torch.device(device)
    return (
        named
        if named.type in ("cpu", "meta") or named.index is not None
        else torch.empty(0, device=named).device
    )


class GaussianMixture:
    """Mixture Σ_i w_i N(μ_i, Σ_i) as a torch object.

    Args:
        weights: w, (K,), positive; normalised to sum 1.
        means: μ, (K, d).
        covariances: in scikit-learn's shapes: spherical (K,), tied (d, d), diag (K, d), full (K, d, d).
        covariance_type: which of the four.
        device: where the methods compute; their inputs must be there.
        dtype: in which precision, and their inputs'.

    Raises:
        InputError: the shapes do not fit together, or a covariance is not positive definite.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        covariance_type: CovarianceType = "spherical",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        # Factorised once in float64: a thin covariance's inverse loses too much in float32.
        w, mu, cov = (
            torch.as_tensor(x, dtype=torch.float64, device="cpu") for x in (weights, means, covariances)
        )
        expected = {
            "spherical": mu.shape[:1],
            "tied": mu.shape[1:] * 2,
            "diag": mu.shape,
            "full": (*mu.shape, *mu.shape[1:]),
        }
        if covariance_type not in expected:
            raise InputError(
                f"covariance_type: expected one of {', '.join(expected)}, found {covariance_type!r}"
            )
        if mu.ndim != 2 or w.shape != mu.shape[:1] or cov.shape != torch.Size(expected[covariance_type]):
            raise InputError(
                f"mixture: expected weights (K,), means (K, d) and {covariance_type} covariances "
                f"{tuple(expected[covariance_type])}, found {tuple(w.shape)}, {tuple(mu.shape)} and {tuple(cov.shape)}"
            )
        self.covariance_type: CovarianceType = covariance_type
        # Left alone where they sum to 1 but for rounding: a mixture that is read is the one that was written, to the last bit.
        total = w.sum()
        self.weights = w if abs(float(total) - 1) < ROUNDING * len(w) else w / total
        self.means, self.covariances = mu, cov
        self.device, self.dtype = _placed(device), dtype
        eigenvalues = self.eigenvalues()
        if not (bool((w > 0).all()) and bool(torch.isfinite(mu).all()) and float(eigenvalues.min()) > 0):
            raise InputError(
                "mixture: expected positive weights, finite means and positive definite covariances, found smallest "
                f"weight {float(w.min()):.3g} and smallest covariance eigenvalue {float(eigenvalues.min()):.3g}; "
                "a larger reference.reg_covar keeps covariances away from singular"
            )
        self.min_variance = float(eigenvalues.min())
        """Smallest eigenvalue of any Σ_i; Euler-Maruyama is stable for steps below twice that."""
        per_component = eigenvalues.mean(1) if eigenvalues.ndim == 2 else eigenvalues
        self.mean_variance = float((self.weights * per_component).sum())
        """Variance within a component, averaged over components and dimensions."""

        def cast_to(x: Tensor) -> Tensor:
            return x.to(device=self.device, dtype=dtype).contiguous()

        # The quadratic forms are expanded, which cancels badly far from the origin: move the origin. For
        # standardised data it is there already, and the simulator is spared an operation.
        center = self.weights @ mu
        far = (
            float(center.norm()) > 10.0 * float(((mu - center) ** 2).sum(1).max() + self.mean_variance) ** 0.5
        )
        self._center = cast_to(center[:, None]) if far else None
        centered_means = mu - center if far else mu
        self._components = _SHAPES[covariance_type](self.weights.log(), centered_means, cov, cast_to)

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self.means.shape[0]

    @property
    def dimension(self) -> int:
        """Dimension d."""
        return self.means.shape[1]

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        n_components: int = 10,
        *,
        covariance_type: CovarianceType = "spherical",
        bayesian: bool = False,
        fit_samples: int | None = None,
        reg_covar: float = 1e-6,
        init_params: str = "kmeans",
        n_init: int = 1,
        seed: int = 0,
    ) -> "GaussianMixture":
        """Mixture fitted by scikit-learn to rows of x, (n, d), or to `fit_samples` of them drawn at random.

        With `bayesian`, `n_components` is an upper bound: components that hold fewer than two of the fitted
        rows are dropped.

        Raises:
            InputError: fewer rows than components, or a covariance collapses.
        """
        parameters = fit_parameters(
            x,
            n_components,
            covariance_type,
            bayesian=bayesian,
            fit_samples=fit_samples,
            reg_covar=reg_covar,
            init_params=init_params,
            n_init=n_init,
            seed=seed,
        )
        return cls(*parameters, covariance_type)

    def symmetrised(self, group: Sequence[Symmetry]) -> "GaussianMixture":
        """The mixture's mean over a group of linear isometries, which none of them changes; |G| times the components.

        Tied covariances become one, the mean of their images. Diagonal ones have to stay diagonal.
        """
        matrices = [g(torch.eye(self.dimension, dtype=torch.float64)) for g in group]
        cov = self.covariances
        images = {
            "spherical": lambda m: cov,
            "diag": lambda m: cov @ (m * m),
            "tied": lambda m: m.T @ cov @ m,
            "full": lambda m: m.T @ cov @ m,
        }
        moved = [images[self.covariance_type](m) for m in matrices]
        return GaussianMixture(
            self.weights.repeat(len(group)),
            torch.cat([self.means @ m for m in matrices]),
            torch.stack(moved).mean(0) if self.covariance_type == "tied" else torch.cat(moved),
            self.covariance_type,
            device=self.device,
            dtype=self.dtype,
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "GaussianMixture":
        """The same mixture, computing on another device or in another precision; itself where neither is another."""
        if (device is None or _placed(device) == self.device) and dtype in (None, self.dtype):
            return self
        return GaussianMixture(
            self.weights,
            self.means,
            self.covariances,
            self.covariance_type,
            device=self.device if device is None else device,
            dtype=self.dtype if dtype is None else dtype,
        )

    # ---- on columns, (d, B) ----

    def _centered(self, y: Tensor) -> Tensor:
        return y if self._center is None else y - self._center

    def _joint(self, centered: Tensor) -> Tensor:
        # r up to a factor, (K, B). Without the clamp, exp makes subnormal numbers,
        # on which exp itself is 8 times slower and the matrix product after it 100 times; e^-60 is far
        # below float32's resolution beside the largest term, 1.
        log_joint = self._components.log_joint(centered)
        shifted = log_joint.sub_(log_joint.detach().amax(0))
        # In place where nothing differentiates through it, as in the simulator.
        return (shifted.clamp(min=-60.0) if shifted.requires_grad else shifted.clamp_(min=-60.0)).exp_()

    def _responsibilities(self, centered: Tensor) -> Tensor:
        joint = self._joint(centered)
        return joint / joint.sum(0)

    def score_columns(self, y: Tensor) -> Tensor:
        """∇log η*(y) on columns, (d, B) → (d, B)."""
        centered = self._centered(y)
        return self._components.average(centered, self._joint(centered))

    def at(self, y: Tensor) -> "MixtureAt":
        """The mixture at the columns y, (d, B)."""
        centered = self._centered(y)
        return MixtureAt(self._components, centered, self._responsibilities(centered))

    # ---- on rows, (B, d) ----

    def log_prob(self, y: Tensor) -> Tensor:
        """log η*(y), (B, d) → (B,)."""
        return torch.logsumexp(self._components.log_joint(self._centered(y.T)), 0)

    def score(self, y: Tensor) -> Tensor:
        """∇log η*(y) = -∇V(y), (B, d) → (B, d)."""
        return self.score_columns(y.T).T

    def responsibilities(self, y: Tensor) -> Tensor:
        """Posterior probability r_i(y) of each component, (B, d) → (B, K)."""
        return self._responsibilities(self._centered(y.T)).T

    def hessian_vector_product(self, y: Tensor, v: Tensor) -> Tensor:
        """∇²log η*(y) v, (B, d), (B, d) → (B, d)."""
        return self.at(y.T).hessian_vector_product(v.T).T

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent draws, (n, d); the generator must be on the mixture's device."""
        return self.sample_with_components(n, generator)[0]

    def sample_with_components(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent draws and the component each came from, (n, d) and (n,)."""
        weights, means = self.weights.to(self.device), self.means.to(self.device, self.dtype)
        i = torch.multinomial(weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.dimension, generator=generator, device=self.device, dtype=self.dtype)
        cov = self.covariances
        match self.covariance_type:
            case "spherical":
                z *= cov.sqrt().to(z)[i, None]
            case "diag":
                z *= cov.sqrt().to(z)[i]
            case "tied":
                z = z @ torch.linalg.cholesky(cov).to(z).T
            case "full":
                for k, root in enumerate(torch.linalg.cholesky(cov).to(z)):
                    z[i == k] = z[i == k] @ root.T
        return z.add_(means[i]), i

    def sample_given(self, y: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
        """One draw for each row given its known numbers, (B, d) → (B, d) in y's dtype; those are left as they are.

        Exact: a component by its posterior weight, then its own conditional law. Computed in float64 on the CPU.

        Args:
            y: rows; what is not known may be anything.
            known: (B, d) bool.
            generator: on the CPU.
        """
        covariances = [self.covariance(i) for i in range(self.n_components)]
        return sample_given(self.weights, self.means, covariances, y, known, generator)

    def responsibilities_given(self, y: Tensor, known: Tensor) -> Tensor:
        """Posterior probability of each component given the known numbers of rows, (B, K) float64 on the CPU.

        Args:
            y: (B, d); what is not known may be anything.
            known: (B, d) bool.
        """
        covariances = [self.covariance(i) for i in range(self.n_components)]
        return responsibilities_given(self.weights, self.means, covariances, y, known)

    def shares_of_classes(self, rows: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
        """Mean responsibilities over the rows of each class, (classes, K), positive and of sum 1.

        Args:
            rows: (N, d) float32.
            labels: (N,), from 0 to classes - 1.
        """
        total = np.full((classes, self.n_components), 1e-6)
        for begin in range(0, len(rows), 4096):
            part = slice(begin, begin + 4096)
            r = self.to("cpu").responsibilities(torch.from_numpy(rows[part]).to(self.dtype)).double().numpy()
            np.add.at(total, labels[part], r)
        return np.asarray(total / total.sum(1, keepdims=True))

    def with_weights(self, weights: Tensor) -> "GaussianMixture":
        """The same components with other weights, (K,)."""
        return GaussianMixture(
            weights, self.means, self.covariances, self.covariance_type, device=self.device, dtype=self.dtype
        )

    def with_components(self, kept: Tensor) -> "GaussianMixture":
        """The mixture of some of the components, (K,) bool, in their proportions."""
        shared = self.covariance_type == "tied"
        return GaussianMixture(
            self.weights[kept], self.means[kept], self.covariances if shared else self.covariances[kept],
            self.covariance_type, device=self.device, dtype=self.dtype,
        )  # fmt: skip

    @cached_property
    def axes(self) -> tuple[Tensor, Tensor] | None:
        """Variances along the axes of the component covariances and these axes in columns, float64: tied (d,) and (d, d), full
        (K, d) and (K, d, d); None where the axes are the coordinates'."""
        if self.covariance_type in ("spherical", "diag"):
            return None
        values, axes = torch.linalg.eigh(self.covariances)
        return values, axes

    def covariance(self, component: int) -> Tensor:
        """A component's covariance, (d,) if it is diagonal, else (d, d)."""
        match self.covariance_type:
            case "spherical":
                return self.covariances[component].expand(self.dimension)
            case "tied":
                return self.covariances
        return self.covariances[component]

    # ---- stored form ----

    def tensors(self) -> dict[str, Tensor]:
        """The parameters in float64, as they are written to `reference.safetensors`."""
        return {"weights": self.weights, "means": self.means, "covariances": self.covariances}

    def describe(self) -> dict[str, Any]:
        """Summary in JSON types, as written to `reference.json`."""
        return {
            "covariance_type": self.covariance_type,
            "n_components": self.n_components,
            "dimension": self.dimension,
            "weights": [float(w) for w in self.weights],
            "min_variance": self.min_variance,
            "mean_variance": self.mean_variance,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], covariance_type: str) -> "GaussianMixture":
        """The mixture that `tensors` and `describe` were taken from."""
        kind = cast(CovarianceType, covariance_type)
        return cls(tensors["weights"], tensors["means"], tensors["covariances"], kind)

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the component covariances, (K,) if spherical, else (K, d), float64."""
        match self.covariance_type:
            case "spherical" | "diag":
                return self.covariances
            case "tied":
                return torch.linalg.eigvalsh(self.covariances).expand(self.n_components, -1)
            case _:
                return torch.linalg.eigvalsh(self.covariances)
