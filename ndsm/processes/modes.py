"""Each path's own mode: the mixture component it starts in, seen along that component's axes.

Inside component i the Langevin drift is linear, f(y) = P_i (y - μ_i), and everything about it (the exponential
step, the weights of the path control variate) is a function of the eigenvalues of Σ_i, one axis at a time. The
mode stays fixed along a path, so that each step stays a smooth function of the state.
"""

import torch
from torch import Tensor

from ndsm.reference import GaussianMixture


class Modes:
    """The modes of B paths.

    Args:
        mixture: the mixture, or None for a drift without one: a single mode of infinite variance.
        start: Y_0, (d, B).
    """

    component: Tensor
    """(B,) likeliest component of each start."""
    variance: Tensor
    """(r, K) variances of each component along its axes; r = 1 for spherical components, else d."""

    def __init__(self, mixture: GaussianMixture | None, start: Tensor) -> None:
        d, paths = start.shape
        self.component = torch.zeros(paths, dtype=torch.long)
        self.variance = torch.full((1, 1), torch.inf)
        # (K or 1, d, d) axes of the components in columns, or None if they are the coordinates'.
        self._axes: Tensor | None = None
        self._paths_of: list[Tensor] = []
        if mixture is None:
            return
        self.component = mixture.responsibilities(start.T).argmax(1)
        cov = mixture.covariances
        match mixture.covariance_type:
            case "spherical":
                variance = cov[None]
            case "diag":
                variance = cov.T
            case "tied":
                values, axes = torch.linalg.eigh(cov)
                variance, self._axes = values[:, None].expand(d, mixture.n_components), axes[None].to(start)
            case "full":
                values, axes = torch.linalg.eigh(cov)
                variance, self._axes = values.T, axes.to(start)
                self._paths_of = [(self.component == i).nonzero()[:, 0] for i in range(mixture.n_components)]
        self.variance = variance.to(start)

    @property
    def isotropic(self) -> bool:
        """Whether a mode has the same variance along all axes."""
        return len(self.variance) == 1

    def of_paths(self, table: Tensor, paths: Tensor | None = None) -> Tensor:
        """Columns (r, B) of a table (r, K) for each path, or for some of them."""
        return table.index_select(1, self.component if paths is None else self.component[paths])

    def to_axes(self, x: Tensor, paths: Tensor | None = None) -> Tensor:
        """Coordinates along the axes of each path's mode, (d, B) → (d, B); `paths` says which ones x holds."""
        return self._rotate(x, paths, transpose=True)

    def from_axes(self, x: Tensor, paths: Tensor | None = None) -> Tensor:
        """Back from `to_axes`."""
        return self._rotate(x, paths, transpose=False)

    def _rotate(self, x: Tensor, paths: Tensor | None, transpose: bool) -> Tensor:
        if self._axes is None:
            return x
        axes = self._axes.transpose(1, 2) if transpose else self._axes
        if len(axes) == 1:
            return axes[0] @ x
        groups = self._paths_of
        if paths is not None:
            component = self.component[paths]
            groups = [(component == i).nonzero()[:, 0] for i in range(len(axes))]
        out = torch.empty_like(x)
        for q, group in zip(axes, groups, strict=True):
            if len(group):
                out[:, group] = q @ x.index_select(1, group)
        return out
