"""Layout of a row: the recorded quantities by name, and where each lies."""

from dataclasses import dataclass

from torch import Tensor

ONE_STEP = ("mean", "noise", "t", "std")
"""Records of the one-step objectives: μ_{N-1}, Z_N, t_N, σ_{N-1}."""
WHOLE_PATH = ("state", "mirror", "path_weight", "probe", "tangent", "mirror_tangent", "t", "std", "chance")
"""Records of the path objective: Y_n, the same of the path with the opposite noise, G_n (the other path's is -G_n),
u, D_n u on either path, t_n, sqrt(V_n), and a number that is uniform in [0, 1) and independent of all else."""
ONE_STEP_AND_PROBE = (*ONE_STEP, "probe")
"""`ONE_STEP` and a standard normal vector that is independent of all else."""
ONE_STEP_AND_SIGNAL = ("mean", "noise", "signal", "t", "std")
"""`ONE_STEP` of a process with hidden components, and α (Y_0 - μ_K), what is left of the row in its component."""
COMPONENT = "component"
"""Record of a process with components, before any label: the component whose coordinates the row is in."""
LABEL = "label"
"""Last record of a model with labels: the label of the start, or -1 where it is dropped."""
SCALARS = ("t", "std", "chance", COMPONENT, LABEL)
"""Records with one number per row."""


@dataclass(frozen=True)
class RowLayout:
    """Where each recorded quantity lies in a row.

    `ONE_STEP`: mean (d), noise (d), t (1), std (1), with Y_N = mean + std · noise. `WHOLE_PATH`: the first six
    (d each), t (1), std (1), chance (1). Either may end in component (1), in label (1), or in both.
    """

    records: tuple[str, ...]
    dimension: int

    def __post_init__(self) -> None:
        layouts = (ONE_STEP, ONE_STEP_AND_PROBE, ONE_STEP_AND_SIGNAL, WHOLE_PATH)
        endings: tuple[tuple[str, ...], ...] = ((), (COMPONENT,), (LABEL,), (COMPONENT, LABEL))
        if self.records not in {(*records, *ending) for records in layouts for ending in endings}:
            raise ValueError(f"records: expected one of {layouts}, found {self.records}")

    @property
    def widths(self) -> dict[str, int]:
        """Numbers per row of each recorded quantity."""
        return {name: 1 if name in SCALARS else self.dimension for name in self.records}

    @property
    def width(self) -> int:
        """Numbers per row."""
        return sum(self.widths.values())

    def split(self, rows: Tensor) -> dict[str, Tensor]:
        """Views of (B, width) rows by name: (B, d), or (B,) for `SCALARS`."""
        parts = dict(zip(self.records, rows.split(list(self.widths.values()), 1), strict=True))
        return {name: part[:, 0] if name in SCALARS else part for name, part in parts.items()}


def paths_per_block(block_mb: float, layout: RowLayout, times_per_path: int) -> int:
    """Trajectories that fill a block of `block_mb` MB of float32 rows; at least 16."""
    return max(16, int(block_mb * 2**20 / 4 / layout.width / times_per_path))
