"""Tables 1-3 and figures 6 to 8 (section 5): MNIST in pixels and in the paper's four-dimensional latent space.

The paper's: networks (a U-Net of about 1.1 million weights; 7 x 32 in latent space), batch (64 images; 250 latent rows,
NDSM's from trajectories recorded at 5 times), Adam, 100 epochs, T = 2 and ten round Gaussians (latent: fitted to 1,000
codes), N = 14,000 in the low-data regime, and 1,000 steps of generation in latent space. Left open there and the same
for all rows here: learning rate 1e-3 (latent) and 5e-4 (U-Net), constant, so that every moment of a training is a fair
place to stop; averaged weights; times fed as log t; output divided by sqrt(V(t)); loss weighted by V(t); the
stationary score added to the network's output, which for the linear process is its usual preconditioning; generation on a
grid refined towards 0 with a last step that adds no noise.

Not the paper's: forward grids of 40 steps of the exponential integrator (the paper: 2,000 of Euler-Maruyama), the same
for all nonlinear rows; in pixels 100 steps of generation; rows `mixture-dsm` and `path`; ten round Gaussians for Approx.-C2-MNIST, too, where two of one
covariance (the paper's) do not tell its modes apart: one of them took in a fifth of the large digits beside the small ones.
"""

from dataclasses import replace
from typing import Any

from ndsm.reproduce.study import Study

COMMON: dict[str, Any] = {
    "data.validation_fraction": 0.0,
    "reference.n_components": 10,
    "reference.covariance_type": "spherical",
    "train.lr_schedule": "constant",
    "train.report_seconds": 0.5,
}
LATENT: dict[str, Any] = {
    **COMMON,
    "data.name": "mnist-latent",
    "reference.fit_samples": 1000,
    "network.kind": "mlp",
    "network.width": 32,
    "network.depth": 7,
    "train.steps": 24_000,
    "train.batch_rows": 250,
    "train.lr": 1e-3,
    "sample.steps": 1000,
    "evaluate.n": 10_000,
}
PIXELS: dict[str, Any] = {
    **COMMON,
    "data.name": "mnist",
    "network.kind": "unet",
    "network.width": 32,
    "network.depth": 4,
    "train.batch_rows": 64,
    "train.lr": 5e-4,
    "sample.steps": 100,
    "evaluate.n": 5000,
}
LOW_DATA = 14_000
EPOCHS = 100

LINEAR: dict[str, Any] = {
    "process.kind": "vp",
    "process.horizon": 1.0,
    "process.last_dt": 1e-3,
    "objective.kind": "dsm",
    "train.times_per_path": 1,
}
NONLINEAR: dict[str, Any] = {
    "process.horizon": 2.0,
    "process.last_dt": 1e-3,
    "process.integrator": "exponential",
    "process.grid.kind": "geometric",
    "process.grid.steps": 40,
    "train.times_per_path": 5,
}
METHODS: dict[str, dict[str, Any]] = {
    "ou-dsm": LINEAR,
    "mixture-dsm": {**NONLINEAR, "objective.kind": "mixture-dsm", "train.times_per_path": 1},
    "ndsm-eps0": {**NONLINEAR, "objective.kind": "ndsm"},
    "ndsm-cv": {
        **NONLINEAR,
        "objective.kind": "ndsm-cv",
        "objective.epsilon": {"kind": "network", "every": 20},
    },
    "path": {**NONLINEAR, "objective.kind": "path", "objective.epsilon": {"every": 100}},
}
ALL_ROWS: tuple[tuple[str, dict[str, Any]], ...] = tuple((row, {}) for row in METHODS)
PIXEL_KEYS = (
    "n",
    "nonfinite",
    "fid",
    "fid_floor",
    "is",
    "is_floor",
    "nearest",
    "nearest_floor",
    "class_share",
    "class_share_std",
    "classifier",
    "classifier_accuracy",
)
SHOWN = ("fid", "is", "class_share_std")
SYMMETRIC_ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ou-dsm", {}),
    ("ou-dsm", {"symmetry": "c2"}),
    ("mixture-dsm", {}),
    ("ndsm-cv", {}),
    ("path", {}),
)


def _latent(title: str, rows: tuple[tuple[str, dict[str, Any]], ...]) -> Study:
    # The linear row goes on for half as many epochs again, to be compared at the nonlinear rows' training time.
    longer = {"ou-dsm": {**LINEAR, "train.steps": 3 * LATENT["train.steps"] // 2}}
    return Study(
        title=title,
        fields=LATENT,
        methods={**METHODS, **longer},
        rows=rows,
        runs=3,
        keys=(*PIXEL_KEYS, "fid_images", "fid_images_floor"),
        shown=SHOWN,
        moments=6,
        moment_rows=1000,
    )


def _pixels(title: str, n: int | None, rows: tuple[tuple[str, dict[str, Any]], ...]) -> Study:
    images = n or 60_000
    return Study(
        title=title,
        fields={**PIXELS, "data.n": n, "train.steps": EPOCHS * images // PIXELS["train.batch_rows"]},
        methods=METHODS,
        rows=rows,
        runs=1,
        keys=PIXEL_KEYS,
        shown=SHOWN,
        moments=5,
        moment_rows=1000,
    )


def _symmetric(title: str) -> Study:
    base = _pixels(title, None, SYMMETRIC_ROWS)
    return replace(
        base,
        fields={**base.fields, "data.name": "c2-mnist"},
        keys=(*base.keys, "fake_share", "fake_share_floor"),
        shown=("fake_share", *base.shown),
    )


IMAGE_STUDIES = {
    "table1": _pixels("Table 1: MNIST", None, ALL_ROWS),
    "table2": _pixels(f"Table 2: MNIST, N = {LOW_DATA:,}", LOW_DATA, ALL_ROWS),
    "table3": _latent("Table 3: MNIST in latent space", ALL_ROWS),
    "fig6": _pixels(f"Figure 6: MNIST, N = {LOW_DATA:,}", LOW_DATA, (("ou-dsm", {}), ("ndsm-cv", {}))),
    "fig7": _symmetric("Figure 7: Approx.-C2-MNIST"),
    "fig8": _latent("Figure 8: FID against training time", (("ou-dsm", {}), ("ndsm-eps0", {}))),
}
