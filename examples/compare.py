"""What the examples share: the same rows learned by ndsm, by VP + DSM with the same network, and by the mixture alone."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ndsm
from ndsm.config import load_config
from ndsm.symmetry import GROUPS, mean_image

METHODS = ("ndsm", "VP + DSM", "VP + DSM, exactly symmetric", "mixture alone")
TRUTH = "true data"

Measure = Callable[[np.ndarray, int], dict[str, float]]
"""Numbers of generated rows, and the seed."""


def arguments(description: str | None) -> argparse.Namespace:
    """The options of every example."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the training steps")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the figure and the numbers")
    return parser.parse_args()


def generated(
    X: np.ndarray,
    n: int,
    seed: int,
    steps: int,
    one_scale: bool = False,
    symmetry: str | None = None,
    **fields: Any,
) -> dict[str, np.ndarray]:
    """n rows (n, d) by each method, trained on X (N, d) for the same number of steps.

    Args:
        one_scale: divide all columns by one number, as suits pixels, instead of each by its own.
        symmetry: a group of `ndsm.symmetry`: VP + DSM also with a score that has this symmetry exactly.
        fields: of the configuration for ndsm, with `__` for the dot: `reference__n_components=6`.
    """
    mean, scale = X.mean(0), X.std(0)
    if one_scale:
        scale = np.sqrt(np.mean(scale**2))
    shared = {"train.device": "cpu", "data.standardize": False}
    own = {key.replace("__", "."): value for key, value in fields.items()}
    path = {
        **shared, "objective.kind": "path", "objective.epsilon.every": 100,
        "process.integrator": "exponential", "process.grid.steps": 40, **own,
    }  # fmt: skip
    linear = {**shared, "process.kind": "vp", "process.horizon": 1.0, "objective.kind": "dsm"}
    reference = {key: value for key, value in own.items() if not key.startswith("process.")}
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "ndsm": ("path", path),
        "VP + DSM": ("dsm", {**linear, **reference}),
    }
    if symmetry is not None:
        settings[METHODS[2]] = ("dsm", {**linear, **reference, "data.symmetry": symmetry})
    rows = {}
    for name, (objective, overrides) in settings.items():
        # A symmetry of the rows is one of the scaled rows if it leaves the mean alone.
        group = GROUPS[overrides.get("data.symmetry", "none")]
        origin = mean_image(group, torch.from_numpy(mean[None]))[0].numpy()
        config = load_config("vectors", overrides)
        gen = ndsm.NDSM(
            config.reference.n_components,
            covariance_type=config.reference.covariance_type,
            objective=objective,
            config=config,
            max_steps=steps,
            random_state=seed,
        ).fit((X - origin) / scale)
        rows[name] = gen.sample(n) * scale + origin
        if objective == "path":
            assert gen.mixture_ is not None
            drawn = gen.mixture_.sample(n, torch.Generator().manual_seed(seed)).numpy()
            rows["mixture alone"] = drawn * scale + mean
    return {name: rows[name] for name in METHODS if name in rows}


def summary(results: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Mean, least and greatest over the seeds, by method and measure."""
    return {
        method: {
            key: [f([r[method][key] for r in results]).item() for f in (np.mean, np.min, np.max)]
            for key in results[0][method]
        }
        for method in results[0]
    }


def report(name: str, results: list[dict[str, dict[str, float]]], out: Path) -> None:
    """Print the table, mean (least - greatest) over the seeds, and write NAME.json."""
    table = summary(results)
    print("| | " + " | ".join(next(iter(table.values()))) + " |")
    print("|---" * (1 + len(next(iter(table.values())))) + "|")
    for method, row in table.items():
        print(f"| {method} | " + " | ".join(f"{m:.3g} ({a:.3g}-{b:.3g})" for m, a, b in row.values()) + " |")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"runs": results, "summary": table}, indent=1))


def scatters(panels: dict[str, np.ndarray], path: Path, title: str) -> None:
    """Write scatters of (n, 2) rows side by side on the axes of the first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(panels), 3.4), layout="constrained")
    low, high = np.quantile(next(iter(panels.values())), [0.001, 0.999], axis=0)
    margin = 0.15 * (high - low)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True)
    for axis, (name, x) in zip(axes, panels.items(), strict=True):
        axis.scatter(*x[:3000].T, s=3, alpha=0.5, linewidths=0)
        axis.set(
            xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1])
        )
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
