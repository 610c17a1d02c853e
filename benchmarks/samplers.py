"""Quality against evaluations of the network: samplers of a nonlinear model and of VP + DSM trained as long.

    python benchmarks/samplers.py [digits] [mnist-latent] [mnist] [--runs FOLDER] [--steps N] [--ours RUN --vp RUN] [--root data]
        [--n 2000] [--budgets 5,10,20] [--nonlinear em,flow] [--linear em,ddim] [--search TRIALS] [--out FILE.json] [--figure FILE.png]

Both models are trained in FOLDER if they are not there yet (a pixel U-Net takes hours), the linear one for about as many
seconds of the processor as the nonlinear one; or they are runs given by --ours and --vp, of one preset. A distance on MNIST is FID
against held-out images (of latent data: decoded held-out codes), on digits the Fréchet distance between normal fits of the pixels of
generated and held-out images in standardised units, and the inception score that of a logistic regression. Evaluations are those of the network, per row: Heun's and the
corrector's steps take two, adaptive steps as many as they ask for.

--search chooses, for either model and each budget up to 50, order, noise and grid of its few-step sampler by TRIALS of Optuna's
TPE, by the distance to one half of the held-out rows (the first trial is the sampler as it comes); every distance that is
printed, of all samplers, is then to the other half, with other seeds.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
from sklearn.linear_model import LogisticRegression

from ndsm.config import load_config
from ndsm.data import Dataset, load
from ndsm.errors import InputError
from ndsm.metrics import evaluate
from ndsm.metrics.image_quality import frechet_distance
from ndsm.processes.transitions import kernel_of
from ndsm.runs import Run
from ndsm.samplers import Sampler, Spacing
from ndsm.samplers.flow import Flow
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally
from ndsm.workflows.trained_model import TrainedModel

VP: dict[str, Any] = {
    "process.kind": "vp",
    "process.horizon": 1.0,
    "process.integrator": "euler-maruyama",
    "process.grid.kind": "uniform",
    "objective": {"kind": "dsm"},
    "train.times_per_path": 1,
    "sample.sampler": "em",
}
LONGER = 2.0
"""Steps of VP + DSM in those of the nonlinear model, whose simulation and second evaluation take the time of the rest."""
NONLINEAR = "em,exponential,pc,ancestral,ode,flow,flow2"
LINEAR = "em,reverse-diffusion,pc,ancestral,ode,ddim,dpmpp-2m"
BUDGETS = "5,10,20,50,100,1000"
LARGEST_SEARCHED = 50
"""Evaluations beyond which no grid is searched: there it hardly matters, and costs most."""
SEARCH_SEED = 1
"""Of the rows that a search is scored by; the ones in the table have seed 0."""
Row = dict[str, Any]
Choices = Callable[[int], list[tuple[str, str | Sampler]]]
"""Names and samplers for a number of evaluations."""


def trained(preset: str, fields: dict[str, Any], folder: Path, name: str, root: str) -> Run:
    """The run of a preset with fields changed, trained now unless it is there."""
    run = Run(folder / name)
    config = load_config(preset, {**fields, "data.root": root})
    if run.last_step() < config.train.steps:
        since = time.process_time()
        experiment = prepare(config, run)
        begin(experiment)
        for _ in train_locally(experiment):
            pass
        seconds = {"cpu_seconds": round(time.process_time() - since, 1)}
        (folder / f"{name}.json").write_text(json.dumps(seconds), encoding="utf-8")
    return run


def training_seconds(run: Run) -> float | None:
    """Seconds of the processor that a run of `trained`, or of a study, took; None if nobody counted."""
    kept, curve = run.path.with_name(f"{run.path.name}.json"), run.path / "curve.jsonl"
    file = kept if kept.is_file() else curve
    if not file.is_file():
        return None
    return float(json.loads(file.read_text(encoding="utf-8").splitlines()[-1])["cpu_seconds"])


@functools.lru_cache(maxsize=4)
def digit_probabilities(dataset: Dataset) -> LogisticRegression:
    """What the inception score of 8x8 digits is computed by; fitted on the training rows."""
    return LogisticRegression(max_iter=2000).fit(dataset.train, dataset.train_labels)


def quality(dataset: Dataset, rows: np.ndarray) -> Row:
    """Distance, inception score and balance of classes of generated rows."""
    metrics = evaluate(dataset, rows, None, 0)
    finite = rows[np.isfinite(rows).all(1)]
    distance, inception = metrics.get("fid"), metrics.get("is")
    if distance is None:
        distance = frechet_distance(finite, dataset.validation)
        log_p = digit_probabilities(dataset).predict_log_proba(finite)
        p = np.exp(log_p)
        inception = float(np.exp((p * (log_p - np.log(p.mean(0)))).sum(1).mean()))
    return {
        "distance": distance,
        "is": inception,
        "tv": metrics["class_share_tv"],
        "nonfinite": metrics["nonfinite"],
    }


def searched(run: Run, held_out: Dataset, n: int, budget: int, trials: int) -> tuple[Flow, dict[str, Any]]:
    """The few-step sampler of a run with the smallest distance to held-out rows, and what was chosen."""
    model = TrainedModel.of(run)
    end = model.problem.end_dt

    def sampler(trial: optuna.Trial) -> Flow:
        signal = trial.suggest_float("signal", 0.002, 0.5, log=True)
        spacing = Spacing(
            power=trial.suggest_float("power", 1.0, 10.0, log=True),
            # From T itself, or from where this much of the data is left.
            signal=0.0 if trial.suggest_categorical("start", ["T", "signal"]) == "T" else signal,
            end=end * trial.suggest_float("end", 0.2, 50.0, log=True),
        )
        order, noise = trial.suggest_categorical("order", [1, 2]), trial.suggest_float("noise", 0.0, 1.0)
        return Flow(kernel_of, "searched", order, noise, spacing)

    def distance(trial: optuna.Trial) -> float:
        rows = model.all_rows(n, SEARCH_SEED, budget, sampler(trial))
        return float(np.nan_to_num(quality(held_out, rows)["distance"], nan=1e9))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    linear = run.config().process.kind != "langevin"
    for order in (1, 2):
        usual = {
            "signal": 0.03,
            "start": "T" if linear else "signal",
            "end": 1.0,
            "order": order,
            "noise": 0.0,
        }
        study.enqueue_trial({**usual, "power": 7.0 if linear else 3.0})
    study.optimize(distance, n_trials=trials)
    return sampler(study.best_trial), study.best_params


def counter(asked: list[int]) -> Callable[[Any, Any, torch.Tensor], None]:
    """A hook that notes how many rows a network is asked for."""
    return lambda module, inputs, output: asked.append(len(output))


def table(models: dict[str, tuple[Run, Choices]], dataset: Dataset, n: int, budgets: list[int]) -> list[Row]:
    """A row for each model, sampler and budget that its grid allows."""
    found: list[Row] = []
    for model_name, (run, choices) in models.items():
        model = TrainedModel.of(run)
        asked: list[int] = []
        model.network.register_forward_hook(counter(asked))
        for budget in budgets:
            for name, sampler in choices(budget):
                asked.clear()
                try:
                    rows = model.all_rows(n, 0, budget, sampler)
                except InputError as error:
                    print(f"{model_name:10} {name:18} {budget:5}  {error}", flush=True)
                    continue
                row = {"model": model_name, "sampler": name, "budget": budget, "evaluations": sum(asked) / n}
                row |= quality(dataset, rows)
                found.append(row)
                print(
                    f"{model_name:10} {name:18} {row['evaluations']:7.1f}  distance {row['distance']:9.3f}, "
                    f"IS {row['is']:.2f}, class shares TV {row['tv']:.4f}",
                    flush=True,
                )
    return found


def aims(rows: list[Row]) -> None:
    """Print the best of each model at each number of evaluations."""
    models = list(dict.fromkeys(row["model"] for row in rows))

    def best(model: str, budget: int) -> Row | None:
        at = [row for row in rows if row["model"] == model and row["budget"] == budget]
        return min(at, key=lambda row: row["distance"], default=None)

    for budget in sorted({row["budget"] for row in rows}):
        parts = [(model, found) for model in models if (found := best(model, budget))]
        print(
            f"{budget:5} evaluations: "
            + ", ".join(f"{model} {row['distance']:.3f} ({row['sampler']})" for model, row in parts)
        )


def draw(tables: dict[str, dict[str, Any]], path: Path) -> None:
    """Distance, inception score and error of class shares against evaluations, a column for each preset."""
    shown = {"distance": "distance", "is": "inception score", "tv": "class shares, total variation"}
    figure, axes = plt.subplots(
        len(shown), len(tables), figsize=(5.5 * len(tables), 9), squeeze=False, sharex=True
    )
    for column, (preset, found) in enumerate(tables.items()):
        rows = found["rows"]
        models = list(dict.fromkeys(row["model"] for row in rows))
        samplers = list(dict.fromkeys(row["sampler"] for row in rows))
        for axis, (key, label) in zip(axes[:, column], shown.items(), strict=True):
            for model in models:
                for k, sampler in enumerate(samplers):
                    points = [
                        (row["evaluations"], row[key])
                        for row in rows
                        if (row["model"], row["sampler"]) == (model, sampler)
                    ]
                    if points:
                        style = "-o" if model == models[0] else "--s"
                        axis.plot(
                            *zip(*points, strict=True),
                            style,
                            ms=3,
                            color=f"C{k}",
                            label=f"{model}: {sampler}",
                        )
            axis.axhline(found["floor"][key], color="grey", lw=1, label="training rows")
            axis.set(xscale="log", ylabel=label)
        axes[0, column].set(
            yscale="log",
            title=f"{preset}, {found['n']} rows",
            ylim=(0.7 * found["floor"]["distance"], 30 * min(row["distance"] for row in rows)),
        )
        axes[2, column].set(xlabel="evaluations of the network", yscale="log")
        axes[0, column].legend(fontsize=5, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def add_models(parser: argparse.ArgumentParser) -> None:
    """The options that name the two models."""
    parser.add_argument("--runs", type=Path, default=Path("runs/samplers"), help="folder of the two models")
    parser.add_argument(
        "--steps", type=int, help="training steps of the nonlinear model; the preset's if not given"
    )
    parser.add_argument("--ours", type=Path, help="run of the nonlinear model")
    parser.add_argument("--vp", type=Path, help="run of VP + DSM")
    parser.add_argument("--root", default="data", help="folder with MNIST/raw")


def models_of(options: argparse.Namespace, seed: int = 0) -> tuple[Run, Run, Dataset]:
    """The nonlinear run, VP's, and their data; those of another seed than 0 are in a folder of their own."""
    preset, root = options.preset, options.root
    folder = options.runs / f"seed-{seed}" if seed else options.runs
    own = {"train.seed": seed, "train.steps": options.steps or load_config(preset).train.steps}
    longer = {**VP, **own, "train.steps": round(LONGER * own["train.steps"])}
    ours = Run.open(options.ours) if options.ours else trained(preset, own, folder, preset, root)
    linear = Run.open(options.vp) if options.vp else trained(preset, longer, folder, f"{preset}-vp", root)
    config = ours.config()
    data = config.data.model_copy(update={"root": Path(root)})
    return ours, linear, load(data, config.train.seed, ours.scaling())


def held_out_part(dataset: Dataset, part: slice) -> Dataset:
    """The data set with a part of its held-out rows."""
    labels = dataset.validation_labels
    return replace(
        dataset,
        validation=dataset.validation[part],
        validation_labels=None if labels is None else labels[part],
    )


def measured(preset: str, options: argparse.Namespace) -> dict[str, Any]:
    """The table of a preset, JSON-ready; printed as it is made."""
    ours, linear, dataset = models_of(argparse.Namespace(**{**vars(options), "preset": preset}))
    budgets = [int(budget) for budget in options.budgets.split(",")]
    seconds = {name: training_seconds(run) for name, run in (("nonlinear", ours), ("VP + DSM", linear))}
    print(f"{preset}: trained for {seconds} seconds of the processor", flush=True)
    chosen: dict[tuple[str, int], Flow] = {}
    choices: list[Row] = []
    runs = {
        "nonlinear": (ours, options.nonlinear.split(",")),
        "VP + DSM": (linear, options.linear.split(",")),
    }
    if options.search:
        half = len(dataset.validation) // 2
        held_out, dataset = (held_out_part(dataset, part) for part in (slice(half), slice(half, None)))
        for model, (run, _) in runs.items():
            for budget in (b for b in budgets if b <= LARGEST_SEARCHED):
                chosen[model, budget], what = searched(run, held_out, options.n, budget, options.search)
                choices.append({"model": model, "budget": budget, **what})
                print(f"{model:10} {budget:5}  searched: {what}", flush=True)
    prior_rows = TrainedModel.of(ours).prior_rows(options.n, 0)
    floor, prior = (quality(dataset, rows) for rows in (dataset.train[: options.n], prior_rows))
    print(
        f"training rows in place of generated ones {floor['distance']:.3f}, mixture alone {prior['distance']:.3f}"
    )

    def with_search(model: str, names: list[str]) -> Choices:
        def of(budget: int) -> list[tuple[str, str | Sampler]]:
            best = [("searched", chosen[model, budget])] if (model, budget) in chosen else []
            return [*best, *((name, name) for name in names)]

        return of

    models = {model: (run, with_search(model, names)) for model, (run, names) in runs.items()}
    rows = table(models, dataset, options.n, budgets)
    aims(rows)
    return {
        "n": options.n, "train_seconds": seconds, "floor": floor, "prior": prior, "searched": choices, "rows": rows
    }  # fmt: skip


def main() -> None:
    """Print one line per model, sampler and budget."""
    parser = argparse.ArgumentParser()
    parser.add_argument("presets", nargs="*", default=["digits"], help="of digits, mnist-latent, mnist")
    add_models(parser)
    parser.add_argument("--n", type=int, default=2000, help="generated rows")
    parser.add_argument("--budgets", default=BUDGETS)
    parser.add_argument("--nonlinear", default=NONLINEAR, help="samplers of the nonlinear model")
    parser.add_argument("--linear", default=LINEAR, help="samplers of VP + DSM")
    parser.add_argument("--search", type=int, default=0, metavar="TRIALS", help="of each search; 0: none")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tables = {}
    for preset in options.presets:
        tables[preset] = measured(preset, options)
        if options.out:
            options.out.write_text(json.dumps(tables, indent=1), encoding="utf-8")
        if options.figure:
            draw(tables, options.figure)


if __name__ == "__main__":
    main()
