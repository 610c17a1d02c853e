"""Each path's own mode: the mixture component it starts in, seen along that component's axes.

Inside component i the Langevin drift is linear, f(y) = P_i (y - μ_i), and everything about it (the exponential
step, the weights of the path control variate) is a function of the eigenvalues of Σ_i, one axis at a time. The
mode stays fixed along a path, so that each step stays a smooth function of the state.
"""

import copy
from functools import cached_property

import torch
from torch import Tensor

from ndsm.mixture import GaussianMixture


class Modes:
    """The modes of B paths.

    Args:
        mixture: the mixture, or None for a drift without one: a single mode of infinite variance.
        start: Y_0, (d, B).
    """

    component: Tensor
    """(B,) likeliest component of each start."""
    variance: Tensor
    """(r, K) variances of each component along its axes; r = 1 for spherical components, else d. One column, (r, 1), if
    they are the same for all components. Other tables of numbers per axis and component have the same form."""

    def __init__(self, mixture: GaussianMixture | None, start: Tensor) -> None:
        paths = start.shape[1]
        self.component = torch.zeros(paths, dtype=torch.long, device=start.device)
        self.variance = torch.full((1, 1), torch.inf, device=start.device)
        # (K or 1, d, d) axes of the components in columns, or None if they are the coordinates'.
        self._axes: Tensor | None = None
        if mixture is None:
            return
        self.component = mixture.responsibilities(start.T).argmax(1)
        cov = mixture.covariances
        match mixture.covariance_type:
            case "spherical":
                variance = cov[None]
            case "diag":
                variance = cov.T
            case _:
                assert mixture.axes is not None
                d, (values, axes) = len(start), mixture.axes
                variance, self._axes = values.reshape(-1, d).T, axes.reshape(-1, d, d).to(start)
        self.variance = variance.to(start)

    @property
    def axes(self) -> Tensor | None:
        """Axes of the components in columns, (K, d, d), one set for all, (1, d, d), or None: the coordinates'."""
        return self._axes

    @property
    def isotropic(self) -> bool:
        """Whether a mode has the same variance along all axes."""
        return len(self.variance) == 1

    def take(self, paths: Tensor) -> "Modes":
        """The modes of some of the paths, (m,), which may repeat."""
        taken = copy.copy(self)
        taken.__dict__.pop("_paths_of", None)
        taken.component = self.component[paths]
        return taken

    @property
    def column(self) -> Tensor:
        """(B,) column of each path in a table like `variance`."""
        return self.component if self.variance.shape[1] > 1 else torch.zeros_like(self.component)

    def of_paths(self, table: Tensor) -> Tensor:
        """Columns (r, B) of a table (r, K) for each path; a table (r, 1), which is the same for all, as it is."""
        return table if table.shape[1] == 1 else table.index_select(1, self.component)

    def add_scaled(self, x: Tensor, a: Tensor, y: Tensor) -> None:
        """x + A y in place of x, (d, B), for matrices A with eigenvalues a, (r, B), along the axes of the paths' modes."""
        if len(a) == 1:
            x.addcmul_(a, y)
        else:
            x.add_(self.from_axes(a * self.to_axes(y)))

    def to_axes(self, x: Tensor) -> Tensor:
        """Coordinates along the axes of each path's mode, (d, B) → (d, B)."""
        return self._rotate(x, transpose=True)

    def from_axes(self, x: Tensor) -> Tensor:
        """Back from `to_axes`."""
        return self._rotate(x, transpose=False)

    @cached_property
    def _paths_of(self) -> list[Tensor]:
        return [(self.component == i).nonzero()[:, 0] for i in range(self.variance.shape[1])]

    def _rotate(self, x: Tensor, transpose: bool) -> Tensor:
        if self._axes is None:
            return x
        axes = self._axes.transpose(1, 2) if transpose else self._axes
        if len(axes) == 1:
            return axes[0] @ x
        out = torch.empty_like(x)
        for q, group in zip(axes, self._paths_of, strict=True):
            if len(group):
                out[:, group] = q @ x.index_select(1, group)
        return out
