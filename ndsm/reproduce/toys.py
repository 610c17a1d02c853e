"""Figures 2 and 3 (section 4): denoising score matching on a linear process against NDSM-CV, on points in the plane.

Every row has the paper's network (7 x 32, GELU), optimiser (Adam, 1e-3), data (10,000 points), batch (250 rows, NDSM's
from trajectories recorded at 5 times), length (50,000 steps), generation (1,000 steps) and number of runs (5). The
paper only draws its targets; ours are `ndsm.data`'s toys with known mode weights.

What the paper leaves open is the same for all rows: times fed as log t with Fourier features, output divided by
sqrt(V(t)), loss weighted by V(t), averaged weights, cosine learning rate, forward grids shifted at random, generation on a
grid refined towards 0. The NDSM rows do not get this project's -∇V term (`network.residual`): with it an untrained
network already has the mixture's class balance, and the comparison would show little.
"""

from typing import Any

from ndsm.reproduce.study import Study

RUNS = 5
"""Independent runs of each row; figures show the one with the median `mode_std`."""
COARSE_DT = 0.00998
"""Δt_n for n < N."""

PROTOCOL: dict[str, Any] = {
    "data.n": 10_000,
    "data.validation_fraction": 0.0,
    "reference.n_components": 8,
    "reference.n_init": 5,
    "network.width": 32,
    "network.depth": 7,
    "network.residual": False,
    "train.steps": 50_000,
    "train.batch_rows": 250,
    "train.lr": 1e-3,
    "sample.steps": 1000,
    "evaluate.n": 10_000,
}
LANGEVIN: dict[str, Any] = {
    # Steps and horizon are in the data's own units.
    "data.standardize": False,
    "process.horizon": 50 * COARSE_DT,
    "process.grid.steps": 50,
    "process.last_dt": 1e-3,
    "train.times_per_path": 5,
}
METHODS: dict[str, dict[str, Any]] = {
    "ou-dsm": {
        "data.standardize": True,
        "process.kind": "vp",
        "process.horizon": 1.0,
        "process.last_dt": 1e-3,
        "objective.kind": "dsm",
        "train.times_per_path": 1,
    },
    "ndsm-eps1": {
        **LANGEVIN,
        "objective.kind": "ndsm-cv",
        "objective.epsilon": {"kind": "constant", "value": 1.0},
    },
    "ndsm-eps0": {**LANGEVIN, "objective.kind": "ndsm"},
    "ndsm-cv": {
        **LANGEVIN,
        "objective.kind": "ndsm-cv",
        "objective.epsilon": {"kind": "network", "every": 20},
    },
}
KEYS = ("n", "nonfinite", "mode_std", "class_share", "class_share_std", "swd2", "off_support")


def _study(title: str, target: str, rows: tuple[tuple[str, dict[str, Any]], ...]) -> Study:
    return Study(
        title=title,
        fields={"data.name": target, **PROTOCOL},
        methods=METHODS,
        rows=rows,
        runs=RUNS,
        keys=KEYS,
        shown=("mode_std", "swd2", "off_support"),
    )


TOY_STUDIES = {
    "fig2": _study(
        "Figure 2: eight uneven modes",
        "gaussians",
        (("ou-dsm", {}), ("ndsm-eps1", {}), ("ndsm-eps0", {}), ("ndsm-cv", {})),
    ),
    "fig3": _study(
        "Figure 3: Δt_N on thin arcs",
        "arcs",
        (("ou-dsm", {}), *(("ndsm-cv", {"last_dt": dt}) for dt in (COARSE_DT, 1e-3, 1e-4))),
    ),
}
