"""Normal quantiles of a column: the standard normal number with the same probability below it, by a histogram of the data.

The distribution function F is linear between knots (v, w). Two knots with one v are a point mass, spread over the normal axis by a
uniform number as the randomised probability integral transform does. Beyond the last knots tails fall exponentially, but for
a bound, where a knot with w = 0 or 1 ends the axis.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri, ndtri_exp

MAX_KNOTS = 128
"""Knots of a column of different numbers, spread evenly over the normal axis."""
ROWS_PER_KNOT = 8
"""Least mean number of rows between them."""
LEAST_W = 1e-10
"""Least probability on either side of a bounded column's numbers: 6.4 standard deviations."""
LOG_SQRT_2PI = 0.5 * float(np.log(2 * np.pi))


@dataclass(frozen=True, eq=False)
class Quantiles:
    """A monotone map of numbers (n,) to the normal axis and back."""

    v: np.ndarray
    """(K,) ascending, K >= 2."""
    w: np.ndarray
    """(K,) strictly ascending, in [0, 1]."""
    tails: tuple[bool, bool]
    """Whether numbers can lie below the first knot, and above the last one."""

    def forward(self, v: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal numbers (n,), the logarithm of the map's derivative there, and which numbers are point masses.

        At a point mass the derivative is that with respect to u.

        Args:
            v: numbers.
            u: places within point masses, in [0, 1).
        """
        kv, kw = self.v, self.w
        place = np.searchsorted(kv, v, "right") - 1
        # Of two equal knots the last one was found.
        atom = (place > 0) & (kv[np.clip(place - 1, 0, None)] == v)
        place = np.where(atom, place - 1, np.clip(place, 0, len(kv) - 2))
        width, mass = kv[place + 1] - kv[place], kw[place + 1] - kw[place]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(atom, u, (v - kv[place]) / width)
            log_slope = np.log(np.where(atom, mass, mass / width))
        w = np.clip(kw[place] + np.clip(share, 0.0, 1.0) * mass, LEAST_W, 1 - LEAST_W)
        y = ndtri(w)
        for side, tail in ((-1, self._tail(0)), (1, self._tail(-1))):
            if tail is None:
                continue
            end, log_mass, scale = tail
            beyond = side * (v - end)
            out = (beyond > 0) & ~atom
            if out.any():
                log_w = log_mass - beyond[out] / scale
                y[out] = -side * ndtri_exp(log_w)
                log_slope[out] = log_w - np.log(scale)
        return np.where(np.isnan(v), np.nan, y), log_slope + 0.5 * y**2 + LOG_SQRT_2PI, atom

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Numbers (n,) of normal ones."""
        v = np.interp(ndtr(y), self.w, self.v)
        for side, tail in ((-1, self._tail(0)), (1, self._tail(-1))):
            if tail is None:
                continue
            end, log_mass, scale = tail
            log_w = log_ndtr(-side * y)
            out = log_w < log_mass
            v[out] = end + side * (log_mass - log_w[out]) * scale
        return np.where(np.isnan(y), np.nan, v)

    def _tail(self, end: int) -> tuple[float, float, float] | None:
        """Knot, log mass beyond it and scale of the exponential tail of an end (0 or -1); None at a bound."""
        if not self.tails[end]:
            return None
        near = 1 if end == 0 else -2
        mass = self.w[0] if end == 0 else 1 - self.w[-1]
        density = abs((self.w[near] - self.w[end]) / max(abs(self.v[near] - self.v[end]), 1e-300))
        if self.v[near] == self.v[end]:
            # A point mass at the end: its tail is as wide as the whole column's.
            density = 1 / max(float(self.v[-1] - self.v[0]), 1e-300)
        return float(self.v[end]), float(np.log(mass)), float(mass / density)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        return {"v": self.v.tolist(), "w": self.w.tolist(), "tails": list(self.tails)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Quantiles":
        """The map that `to_json` wrote."""
        v, w = (np.array(tree[key], dtype=np.float64) for key in ("v", "w"))
        return cls(v, w, (tree["tails"][0], tree["tails"][1]))

    @classmethod
    def of_cells(
        cls, edges: tuple[np.ndarray, np.ndarray], counts: np.ndarray, bounded: tuple[bool, bool]
    ) -> "Quantiles":
        """The map of values with cells.

        Args:
            edges: lower and upper edge of the values' cells, (L,) each, ascending.
            counts: rows of each value, (L,).
            bounded: whether no value lies below the first one, or above the last one.
        """
        low, high = edges
        gaps = low[1:] > high[:-1] + 1e-9 * (high[:-1] - low[:-1])
        # Values that no row has get two rows' worth in all, half a one each if they are few.
        spare = 0.5 * min(1.0, 4 / max(1, int(gaps.sum())))
        ends = [0.0 if bound else 0.5 for bound in bounded]
        v, rows, below = [low[0]], [ends[0]], ends[0]
        for i, count in enumerate(counts):
            if i and gaps[i - 1]:
                below += spare
                v.append(low[i])
                rows.append(below)
            below += float(count)
            v.append(high[i])
            rows.append(below)
        return cls(np.array(v), np.array(rows) / (below + ends[1]), (not bounded[0], not bounded[1]))

    def thinned(self, kept: np.ndarray) -> "Quantiles":
        """The map with fewer knots: those `kept`, (K,) bool, the ends, and some evenly spread over the normal axis.

        There are `MAX_KNOTS` of the latter at most.
        """
        z = np.linspace(ndtri(max(self.w[0], LEAST_W)), ndtri(min(self.w[-1], 1 - LEAST_W)), MAX_KNOTS)
        chosen = kept.copy()
        chosen[np.searchsorted(self.w, ndtr(z)).clip(max=len(self.w) - 1)] = True
        chosen[[0, -1]] = True
        return Quantiles(self.v[chosen], self.w[chosen], self.tails)

    @classmethod
    def of_numbers(
        cls,
        values: np.ndarray,
        counts: np.ndarray,
        point_masses: np.ndarray,
        low: float | None,
        high: float | None,
    ) -> "Quantiles":
        """The map of numbers without steps.

        Args:
            values: different numbers, (m,) ascending.
            counts: rows of each, (m,).
            point_masses: which of them are point masses, (m,) bool.
            low, high: bounds, None for tails.
        """
        n, upper = float(counts.sum()), np.cumsum(counts)
        middle = (upper - counts / 2) / n
        free = np.flatnonzero(~point_masses)
        v, w = (
            [values[point_masses]] * 2,
            [
                (upper - counts)[point_masses] / n,
                upper[point_masses] / n,
            ],
        )
        if len(free):
            # Runs between point masses keep their ends, so that no knot's interval reaches over a mass.
            change = np.diff(np.cumsum(point_masses)[free]) != 0
            ends = free[np.append(True, change) | np.append(change, True)]
            k = int(np.clip(n // ROWS_PER_KNOT, 4, MAX_KNOTS))
            z = np.linspace(ndtri(middle[free[0]]), ndtri(middle[free[-1]]), k)
            chosen = free[np.searchsorted(middle[free], ndtr(z)).clip(max=len(free) - 1)]
            chosen = np.unique(np.concatenate([chosen, ends]))
            v.append(values[chosen])
            w.append(middle[chosen])
        v_all, w_all = np.concatenate(v), np.concatenate(w)
        # Half a row of mass is left to what lies beyond the ends, also beyond a point mass.
        w_all = (w_all * n + 0.5) / (n + 1)
        order = np.lexsort((w_all, v_all))
        v_all, w_all = v_all[order], w_all[order]
        if low is not None and low < v_all[0]:
            v_all, w_all = np.append(low, v_all), np.append(0.0, w_all)
        if high is not None and high > v_all[-1]:
            v_all, w_all = np.append(v_all, high), np.append(w_all, 1.0)
        return cls(v_all, w_all, (low is None, high is None))
