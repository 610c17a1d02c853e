"""What the examples share: the same rows learned by ndsm, by VP + DSM with the same network, and by the mixture alone."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ndsm
from ndsm.config import load_config
from ndsm.core.symmetry import GROUPS, mean_image

METHODS = ("ndsm", "VP + DSM", "VP + DSM, exactly symmetric", "mixture alone")
TRUTH = "true data"

Measure = Callable[[np.ndarray, int], dict[str, float]]
"""Numbers of generated rows, and the seed."""


def scaled(n: int, scale: float) -> int:
    """That fraction of n, at least 20: below it no measure is defined."""
    return max(20, round(n * scale))


def arguments(description: str | None) -> argparse.Namespace:
    """The options of every example; makes the folder."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="fraction of the training steps, simulation and generated rows",
    )
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the figure and the numbers")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


@dataclass(frozen=True)
class Model:
    """What draws rows, in the units of those that it learned."""

    sample: Callable[[int], np.ndarray]
    """n rows, (n, d)."""
    complete: Callable[[np.ndarray], np.ndarray]
    """Rows (n, d), their missing numbers (NaN) drawn given the others."""


def trained(
    X: np.ndarray, seed: int, steps: int, one_scale: bool = False, symmetry: str | None = None, **fields: Any
) -> dict[str, Model]:
    """A model of the rows X (N, d) by each method, trained for the same number of steps.

    Args:
        one_scale: divide all columns by one number, as suits pixels, instead of each by its own.
        symmetry: a group of `ndsm.core.symmetry`: VP + DSM also with a score that has this symmetry exactly.
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
    # What a linear process has of its own: its time and its steps.
    reference = {k: v for k, v in own.items() if not k.startswith("process.") and k != "sample.sampler"}
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "ndsm": ("path", path),
        "VP + DSM": ("dsm", {**linear, **reference}),
    }
    if symmetry is not None:
        # The rows are images: only these have a symmetry.
        images = {"data.name": "images", "data.path": "X"}
        settings[METHODS[2]] = ("dsm", {**linear, **reference, **images, "data.symmetry": symmetry})
    models = {}
    for name, (objective, overrides) in settings.items():
        # A symmetry of the rows is one of the scaled rows if it leaves the mean alone.
        group = GROUPS[overrides.get("data.symmetry", "none")]
        origin = mean_image(group, torch.from_numpy(mean[None]))[0].numpy()
        config = load_config("table-langevin", overrides)
        gen = ndsm.NDSM(
            config.reference.n_components,
            covariance_type=config.reference.covariance_type,
            objective=objective,
            config=config,
            max_steps=steps,
            random_state=seed,
        ).fit((X - origin) / scale)
        models[name] = _model(gen, origin, scale)
        if objective == "path":
            models["mixture alone"] = _mixture(gen, mean, scale, seed)
    return {name: models[name] for name in METHODS if name in models}


def _model(gen: ndsm.NDSM, mean: np.ndarray, scale: np.ndarray) -> Model:
    return Model(
        lambda n: gen.sample(n) * scale + mean,
        lambda rows: gen.impute((rows - mean) / scale)[0] * scale + mean,
    )


def _mixture(gen: ndsm.NDSM, mean: np.ndarray, scale: np.ndarray, seed: int) -> Model:
    mixture = gen.mixture_
    assert mixture is not None

    def complete(rows: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(((rows - mean) / scale).astype(np.float32))
        drawn = mixture.sample_given(y, ~y.isnan(), torch.Generator().manual_seed(seed))
        return drawn.numpy() * scale + mean

    return Model(
        lambda n: mixture.sample(n, torch.Generator().manual_seed(seed)).numpy() * scale + mean, complete
    )


def generated(X: np.ndarray, n: int, seed: int, steps: int, **settings: Any) -> dict[str, np.ndarray]:
    """n rows (n, d) by each method; `settings` are those of `trained`."""
    return {name: model.sample(n) for name, model in trained(X, seed, steps, **settings).items()}


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
    (out / f"{name}.json").write_text(json.dumps({"runs": results, "summary": table}, indent=1))


def scatters(
    panels: dict[str, np.ndarray], path: Path, title: str, marked: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write scatters of (n, 2) rows side by side on the axes of the first, those of the masks `marked` in red."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(panels), 3.4), layout="constrained")
    low, high = np.quantile(next(iter(panels.values())), [0.001, 0.999], axis=0)
    margin = 0.15 * (high - low)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True)
    for axis, (name, x) in zip(axes, panels.items(), strict=True):
        colours = np.where(marked[name], "tab:red", "tab:blue")[:3000] if marked else "tab:blue"
        axis.scatter(*x[:3000].T, s=3, c=colours, alpha=0.5, linewidths=0)
        axis.set(
            xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1])
        )
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)
