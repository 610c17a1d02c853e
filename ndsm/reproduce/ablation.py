"""What the mixture's choices matter: components, covariances, rows it is fitted on, what the fit starts from, Bayesian K.

Each study is a preset with one choice of its `reference` section changed at a time, everything else being equal; every row
comes with the mixture alone of its own setting.
"""

from typing import Any

from ndsm.config import flat, read_preset
from ndsm.reproduce.study import Study

RUNS = 3
FIT_SAMPLES = (200, 1000)
ROWS = 5000
"""Generated rows of a run: fewer cannot tell the settings apart, and cost little beside the training."""


def _settings(components: int, covariances: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """The settings around K components: half, twice and four times as many, other shapes, fewer rows, other starts, Bayesian."""
    return (
        {"K": components},
        *({"K": k} for k in (components // 2, 2 * components, 4 * components)),
        *({"K": components, "covariance": kind} for kind in covariances),
        *({"K": components, "fit_samples": n} for n in FIT_SAMPLES),
        *({"K": components, "init": start} for start in ("k-means++", "random_from_data")),
        {"K": components, "n_init": 5},
        {"K": 4 * components, "bayesian": True},
    )


def _study(
    preset: str,
    components: int,
    keys: tuple[str, ...],
    shown: tuple[str, ...],
    covariances: tuple[str, ...] = ("diag", "tied", "full"),
) -> Study:
    return Study(
        title=f"The mixture's choices on {preset}",
        fields={
            **flat(read_preset(preset)),
            "evaluate.n": ROWS,
            # Thin directions of full covariances would ask Euler-Maruyama for thousands of steps.
            "process.integrator": "exponential",
            "sample.sampler": "exponential",
            "sample.steps": 100,
            "reference.reg_covar": 0.02,
            "reference.n_init": 1,
            "reference.fit_samples": 10_000,
        },
        methods={"path": {}},
        rows=tuple(("path", setting) for setting in _settings(components, covariances)),
        runs=RUNS,
        keys=("n", "nonfinite", *keys),
        shown=shown,
        prior_of="path",
        least_rows=ROWS,
    )


_BALANCE = ("class_share", "class_share_std", "class_share_tv")
ABLATIONS = {
    "ablation-mixture": _study(
        "toy-arcs", 8, (*_BALANCE, "swd2", "mode_std", "off_support"), ("swd2", "mode_std", "off_support")
    ),
    "ablation-mixture-digits": _study(
        "digits",
        20,
        (*_BALANCE, "swd2", "swd2_floor"),
        ("swd2", "class_share_tv"),
        # 70 rows a component say little about the 2,080 numbers of a full one, whose simulation is 20 times dearer.
        covariances=("diag", "tied"),
    ),
    "ablation-mixture-latent": _study(
        "mnist-latent",
        10,
        (*_BALANCE, "fid", "fid_floor", "is", "is_floor"),
        ("fid", "is", "class_share_std"),
    ),
}
