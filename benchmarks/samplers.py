"""Quality against evaluations of the network: samplers of a nonlinear model and of VP + DSM trained as long.

    python benchmarks/samplers.py [digits|mnist-latent|mnist] [--runs FOLDER] [--ours RUN --vp RUN] [--root data] [--n 2000]
        [--budgets 5,10,20] [--nonlinear em,flow] [--linear em,ddim] [--out FILE.json] [--figure FILE.png]

Both models are trained in FOLDER if they are not there yet (a pixel U-Net takes hours), the linear one for about as many
seconds of the processor as the nonlinear one; or they are runs given by --ours and --vp. A distance on MNIST is FID against held-out
images (of latent data: decoded held-out codes), on digits the Fréchet distance between normal fits of the pixels of
generated and held-out images in standardised units. Evaluations are those of the network, per row: Heun's and the
corrector's steps take two.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from ndsm.config import load_config
from ndsm.data import Dataset, load
from ndsm.errors import InputError
from ndsm.experiment import Generator, begin, prepare, train_locally
from ndsm.metrics import evaluate
from ndsm.metrics.images import frechet_distance
from ndsm.run import Run

VP: dict[str, Any] = {
    "process.kind": "vp",
    "process.horizon": 1.0,
    "process.integrator": "euler-maruyama",
    "process.grid.kind": "uniform",
    "objective": {"kind": "dsm"},
    "train.times_per_path": 1,
}
LONGER = 1.5
"""Steps of VP + DSM in those of the nonlinear model, whose simulation and second evaluation take the time of the rest."""
NONLINEAR = "em,exponential,pc,ancestral,ode,flow,flow2"
LINEAR = "em,reverse-diffusion,pc,ancestral,ode,ddim,dpmpp-2m"
BUDGETS = "5,10,20,50,100,1000"
Row = dict[str, Any]


def trained(preset: str, fields: dict[str, Any], folder: Path, name: str, root: str) -> Run:
    """The run of a preset with fields changed, trained now unless it is there."""
    run = Run(folder / name)
    config = load_config(preset, {**fields, "data.root": root})
    if run.last_step() < config.train.steps:
        experiment = prepare(config, run)
        begin(experiment)
        for _ in train_locally(experiment):
            pass
    return run


def quality(dataset: Dataset, rows: np.ndarray) -> Row:
    """Distance, inception score (None without images' classifier) and balance of classes of generated rows."""
    metrics = evaluate(dataset, rows, None, 0)
    finite = rows[np.isfinite(rows).all(1)]
    distance = metrics.get("fid")
    if distance is None:
        distance = frechet_distance(finite, dataset.validation)
    return {
        "distance": distance,
        "is": metrics.get("is"),
        "tv": metrics["class_share_tv"],
        "nonfinite": metrics["nonfinite"],
    }


def table(
    models: dict[str, tuple[Run, list[str]]], dataset: Dataset, n: int, budgets: list[int]
) -> list[Row]:
    """A row for each model, sampler and budget that its grid allows."""
    found: list[Row] = []
    for model, (run, samplers) in models.items():
        generator = Generator.of(run)
        for sampler in samplers:
            for budget in budgets:
                try:
                    rows = np.concatenate(list(generator.rows(n, 0, budget, sampler)))
                except InputError as error:
                    print(f"{model:10} {sampler:18} {budget:5}  {error}", flush=True)
                    continue
                row = {"model": model, "sampler": sampler, "evaluations": budget, **quality(dataset, rows)}
                found.append(row)
                inception = "" if row["is"] is None else f", IS {row['is']:.2f}"
                print(
                    f"{model:10} {sampler:18} {budget:5}  distance {row['distance']:9.3f}{inception}, "
                    f"class shares TV {row['tv']:.4f}",
                    flush=True,
                )
    return found


def aims(rows: list[Row]) -> None:
    """Print the best of each model at 10, 20, 50 and 1,000 evaluations."""
    models = list(dict.fromkeys(row["model"] for row in rows))

    def best(model: str, budget: int) -> Row | None:
        at = [row for row in rows if row["model"] == model and row["evaluations"] == budget]
        return min(at, key=lambda row: row["distance"], default=None)

    for budget in sorted({row["evaluations"] for row in rows}):
        parts = [(model, found) for model in models if (found := best(model, budget))]
        print(
            f"{budget:5} evaluations: "
            + ", ".join(f"{model} {row['distance']:.3f} ({row['sampler']})" for model, row in parts)
        )


def draw(rows: list[Row], floor: float, path: Path, title: str) -> None:
    """Distance against evaluations, one line for each model and sampler."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    models = list(dict.fromkeys(row["model"] for row in rows))
    for model in models:
        samplers = list(dict.fromkeys(row["sampler"] for row in rows if row["model"] == model))
        for k, sampler in enumerate(samplers):
            points = [
                (row["evaluations"], row["distance"])
                for row in rows
                if (row["model"], row["sampler"]) == (model, sampler)
            ]
            style = "-o" if model == models[0] else "--s"
            axes.plot(*zip(*points, strict=True), style, ms=3, color=f"C{k}", label=f"{model}: {sampler}")
    axes.axhline(floor, color="grey", lw=1, label="held-out data")
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="distance", title=title)
    top = 30 * min(row["distance"] for row in rows)
    axes.set_ylim(0.7 * floor, top)
    axes.legend(fontsize=6, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def add_models(parser: argparse.ArgumentParser) -> None:
    """The options that name the two models."""
    parser.add_argument("--runs", type=Path, default=Path("runs/samplers"), help="folder of the two models")
    parser.add_argument("--ours", type=Path, help="run of the nonlinear model")
    parser.add_argument("--vp", type=Path, help="run of VP + DSM")
    parser.add_argument("--root", default="data", help="folder with MNIST/raw")


def models_of(options: argparse.Namespace) -> tuple[Run, Run, Dataset]:
    """The nonlinear run, VP's, and their data."""
    preset, folder, root = options.preset, options.runs, options.root
    longer = {**VP, "train.steps": round(LONGER * load_config(preset).train.steps)}
    ours = Run.open(options.ours) if options.ours else trained(preset, {}, folder, preset, root)
    linear = Run.open(options.vp) if options.vp else trained(preset, longer, folder, f"{preset}-vp", root)
    config = ours.config()
    data = config.data.model_copy(update={"root": Path(root)})
    return ours, linear, load(data, config.train.seed, ours.scaling())


def main() -> None:
    """Print one line per model, sampler and budget."""
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", nargs="?", default="digits", choices=["digits", "mnist-latent", "mnist"])
    add_models(parser)
    parser.add_argument("--n", type=int, default=2000, help="generated rows")
    parser.add_argument("--budgets", default=BUDGETS)
    parser.add_argument("--nonlinear", default=NONLINEAR, help="samplers of the nonlinear model")
    parser.add_argument("--linear", default=LINEAR, help="samplers of VP + DSM")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours, linear, dataset = models_of(options)
    generator = Generator.of(ours)
    floor, prior = (
        quality(dataset, rows) for rows in (dataset.train[: options.n], generator.prior_rows(options.n, 0))
    )
    print(
        f"training rows in place of generated ones {floor['distance']:.3f}, mixture alone {prior['distance']:.3f}"
    )
    models = {
        "nonlinear": (ours, options.nonlinear.split(",")),
        "VP + DSM": (linear, options.linear.split(",")),
    }
    rows = table(models, dataset, options.n, [int(budget) for budget in options.budgets.split(",")])
    aims(rows)
    if options.out:
        options.out.write_text(
            json.dumps(
                {"preset": options.preset, "n": options.n, "floor": floor, "prior": prior, "rows": rows},
                indent=1,
            ),
            encoding="utf-8",
        )
    if options.figure:
        draw(rows, floor["distance"], options.figure, f"{options.preset}, {options.n} rows")


if __name__ == "__main__":
    main()
