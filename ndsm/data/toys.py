"""Two-dimensional toys with known modes: what a model should reproduce is counted exactly.

Each toy is thin curves or cells with unequal weights, so two failures show up as numbers: wrong mode weights
(`mode_of`) and points between the modes (`off_support`). A true sample is off support with probability
below 1e-3: 6.3e-5 on the curves, 3.4e-4 for the Gaussians, 0 on the checkerboard.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ndsm.errors import InputError

UNEVEN = np.array([0.30, 0.20, 0.15, 0.10, 0.10, 0.07, 0.05, 0.03])
"""Mode weights (8,) of arcs, checkerboard and gaussians."""

RING_CENTRES = 4.0 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)
"""Eight points (8, 2), evenly on the circle of radius 4."""


@dataclass(frozen=True, eq=False)
class Toy(ABC):
    """A law on the plane as a mixture of modes that barely touch, in original units."""

    weights: np.ndarray
    """Probabilities (K,) of the modes."""
    thickness: float
    """Standard deviation of the noise around the modes' centre lines; 0 if the modes have sharp edges."""

    @abstractmethod
    def distance(self, x: np.ndarray) -> np.ndarray:
        """Distances (n, K) of points (n, 2) from each mode's centre line, point or cell."""

    @abstractmethod
    def _draw(self, mode: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One point for each of the modes (n,), as (n, 2) float64."""

    def sample(self, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Independent points (n, 2) float32 and the modes (n,) int64 they were drawn from."""
        mode = generator.choice(len(self.weights), size=n, p=self.weights).astype(np.int64)
        return self._draw(mode, generator).astype(np.float32), mode

    def mode_of(self, x: np.ndarray) -> np.ndarray:
        """Index (n,) int64 of the mode nearest to each of the points (n, 2)."""
        return self.distance(x).argmin(axis=1).astype(np.int64)

    def off_support(self, x: np.ndarray) -> np.ndarray:
        """Whether each of the points (n, 2) is farther than 4 thicknesses from every mode, as (n,) bool."""
        return self.distance(x).min(axis=1) > 4.0 * self.thickness


@dataclass(frozen=True, eq=False)
class Arcs(Toy):
    """Eight thin half circles around the circle of radius 4, facing in and out by turns."""

    weights: np.ndarray = field(default_factory=UNEVEN.copy)
    thickness: float = 0.05
    radius: float = 0.8

    def _middle(self) -> np.ndarray:
        """Angle (8,) of each half circle's midpoint as seen from its own centre."""
        mode = np.arange(8)
        return mode * np.pi / 4 + np.pi * (mode % 2)

    def _draw(self, mode: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        angle = self._middle()[mode] + generator.uniform(-np.pi / 2, np.pi / 2, len(mode))
        radius = self.radius + self.thickness * generator.standard_normal(len(mode))
        return RING_CENTRES[mode] + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Distances (n, 8) from the half circles; beyond their ends, from the nearer end point."""
        offset = np.asarray(x, dtype=np.float64)[:, None, :] - RING_CENTRES
        middle = self._middle()
        axis = np.stack([np.cos(middle), np.sin(middle)], axis=1)
        along = (offset * axis).sum(axis=2)
        across = np.abs(offset[..., 0] * axis[:, 1] - offset[..., 1] * axis[:, 0])
        from_circle = np.abs(np.hypot(along, across) - self.radius)
        return np.where(along >= 0, from_circle, np.hypot(along, across - self.radius))


@dataclass(frozen=True, eq=False)
class Rings(Toy):
    """Three thin concentric rings of radii 1, 2.5 and 4."""

    weights: np.ndarray = field(default_factory=lambda: np.array([0.2, 0.3, 0.5]))
    thickness: float = 0.05
    radii: np.ndarray = field(default_factory=lambda: np.array([1.0, 2.5, 4.0]))

    def _draw(self, mode: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        angle = generator.uniform(0.0, 2 * np.pi, len(mode))
        radius = self.radii[mode] + self.thickness * generator.standard_normal(len(mode))
        return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Distances (n, 3) from the circles."""
        x = np.asarray(x, dtype=np.float64)
        return np.abs(np.hypot(x[:, 0], x[:, 1])[:, None] - self.radii)


@dataclass(frozen=True, eq=False)
class Checkerboard(Toy):
    """The 8 filled cells of a 4x4 board on [-4, 4]^2, uniform in each; off_support is exact."""

    weights: np.ndarray = field(default_factory=UNEVEN.copy)
    thickness: float = 0.0

    def _corners(self) -> np.ndarray:
        """Lower left corners (8, 2) of the filled cells, whose side is 2."""
        cells = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
        return 2.0 * np.array(cells) - 4.0

    def _draw(self, mode: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return self._corners()[mode] + 2.0 * generator.uniform(size=(len(mode), 2))

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Distances (n, 8) from the cells, 0 inside and on the edge."""
        from_centre = np.abs(np.asarray(x, dtype=np.float64)[:, None, :] - (self._corners() + 1.0))
        return np.linalg.norm(np.maximum(from_centre - 1.0, 0.0), axis=2)


@dataclass(frozen=True, eq=False)
class Gaussians(Toy):
    """Eight round Gaussians at radius 4; a sanity case only, since a mixture prior alone solves it."""

    weights: np.ndarray = field(default_factory=UNEVEN.copy)
    thickness: float = 0.3

    def _draw(self, mode: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return RING_CENTRES[mode] + self.thickness * generator.standard_normal((len(mode), 2))

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Distances (n, 8) from the means."""
        return np.linalg.norm(np.asarray(x, dtype=np.float64)[:, None, :] - RING_CENTRES, axis=2)


TOYS: dict[str, Callable[[], Toy]] = {
    "arcs": Arcs,
    "rings": Rings,
    "checkerboard": Checkerboard,
    "gaussians": Gaussians,
}


def make_toy(name: str) -> Toy:
    """The toy `arcs`, `rings`, `checkerboard` or `gaussians`.

    Raises:
        InputError: there is no toy of that name.
    """
    if name not in TOYS:
        raise InputError(f"no toy {name!r}: expected one of {', '.join(TOYS)}")
    return TOYS[name]()
