"""The paper's experiments as lists of independent jobs, and what their results amount to.

Figures 2 and 3 (section 4) compare, on points in the plane, denoising score matching on a linear process with
NDSM-CV. Every row has the paper's network (7 x 32, GELU), optimiser (Adam, 1e-3), data (10,000 points), batch (250
rows, NDSM's from trajectories recorded at 5 times), length (50,000 steps), generation (1,000 steps) and number of runs
(5). The paper only draws its targets; ours are `ndsm.data`'s toys with known mode weights.

What the paper leaves open is the same for all rows: times fed as log t with Fourier features, output divided by
sqrt(V(t)), loss weighted by V(t), averaged weights, cosine learning rate, forward grids shifted at random,
generation on a grid refined towards 0. The NDSM rows do not get this project's -∇V term (`network.residual`):
with it an untrained network already has the mixture's class balance, and the comparison would show little.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndsm.config import Config, build_config, merge
from ndsm.data import load
from ndsm.errors import InputError
from ndsm.experiment import Generator, begin, prepare, train_locally
from ndsm.figures import study_figure
from ndsm.metrics import evaluate
from ndsm.run import Run
from ndsm.streams import numpy_stream

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
ROWS: dict[str, dict[str, Any]] = {
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


@dataclass(frozen=True)
class Job:
    """One training run of a study."""

    row: str
    """Name of the method, as in results.json."""
    setting: dict[str, Any]
    """What distinguishes rows of the same name."""
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """Its run directory's name."""
        return "-".join([self.row, *(f"{k}-{v:g}" for k, v in self.setting.items()), str(self.seed)])

    @property
    def key(self) -> str:
        """Tells it from the study's other jobs, as its row in results.json does."""
        return _key(self.row, self.setting, self.seed)


@dataclass(frozen=True)
class Study:
    """A figure of the paper."""

    title: str
    target: str
    """Toy."""
    rows: tuple[tuple[str, dict[str, Any]], ...]
    """Method and setting, in the figure's order."""

    def jobs(self, scale: float) -> list[Job]:
        """All runs, their steps and generated rows multiplied by `scale`."""
        found = []
        for seed in range(RUNS):
            for row, setting in self.rows:
                fields = {
                    "data.name": self.target,
                    **PROTOCOL,
                    **ROWS[row],
                    **{f"process.{key}": value for key, value in setting.items()},
                    "train.seed": seed,
                }
                for key in ("train.steps", "evaluate.n"):
                    fields[key] = max(100, round(scale * fields[key]))
                found.append(Job(row, setting, seed, build_config(merge({}, fields), row)))
        return found


STUDIES = {
    "fig2": Study(
        "Figure 2: eight uneven modes",
        "gaussians",
        (("ou-dsm", {}), ("ndsm-eps1", {}), ("ndsm-eps0", {}), ("ndsm-cv", {})),
    ),
    "fig3": Study(
        "Figure 3: Δt_N on thin arcs",
        "arcs",
        (("ou-dsm", {}), *(("ndsm-cv", {"last_dt": dt}) for dt in (COARSE_DT, 1e-3, 1e-4))),
    ),
}

Result = tuple[list[dict[str, Any]], np.ndarray]
"""Rows for results.json, and generated points in the data's units, (n, 2)."""


def run_job(job: Job, runs: Path) -> Result:
    """Train (or resume) the run `runs`/NAME of a job, generate, and measure in the data's own units.

    Returns the job's row and, from the plain NDSM run, one for the mixture alone.
    """
    torch.set_num_threads(1)
    run = Run(runs / job.name)
    experiment = prepare(job.config, run)
    begin(experiment)
    for _ in train_locally(experiment):
        pass
    n, seed = job.config.evaluate.n, job.config.train.seed
    generator, scaling = Generator.of(run), run.scaling()
    samples = scaling.invert(np.concatenate(list(generator.rows(n, seed))))
    prior = scaling.invert(generator.prior_rows(n, seed))
    # Rows differ in whether they standardise; distances are compared in one unit.
    truth = load(job.config.data.model_copy(update={"standardize": False}), seed)
    metrics = evaluate(truth, samples, prior, seed)
    row = {"row": job.row, "seed": seed, "setting": job.setting}
    steps, seconds = job.config.train.steps, run.metrics_since(0)[0][-1]["seconds"]
    rows = [{**row, "steps": steps, "train_seconds": seconds, **_kept(metrics)}]
    if job.row == "ndsm-eps0":
        rows.append({**row, "row": "prior", "steps": 0, "train_seconds": 0.0, **_kept(metrics["prior"])})
    return rows, samples


KEYS = ("n", "nonfinite", "mode_std", "class_share", "class_share_std", "swd2", "off_support")


def _kept(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: metrics[key] for key in KEYS}


def floor(study: Study, n: int) -> dict[str, float]:
    """The metrics of true points in place of generated ones, mean over the runs' seeds."""
    every = defaultdict(list)
    for seed in range(RUNS):
        truth = load(build_config({"data": {"name": study.target, "standardize": False}}, "floor").data, seed)
        assert truth.toy is not None
        points, _ = truth.toy.sample(n, numpy_stream(seed, "floor"))
        metrics = evaluate(truth, points, points, seed)
        for key in ("mode_std", "swd2", "off_support"):
            every[key].append(metrics[key])
    return {key: float(np.mean(values)) for key, values in every.items()}


class Folder:
    """`OUT/NAME`: results.json with the rows done so far, samples/, runs/, figure.png.

    Raises:
        InputError: it holds results of another scale, or something else.
    """

    def __init__(self, path: Path, name: str, scale: float) -> None:
        self.path, self.scale = path, scale
        self.study = STUDIES[name]
        self.results: dict[str, Any] = {"name": name, "scale": scale, "rows": [], "floor": {}}
        file = path / "results.json"
        if file.is_file():
            try:
                self.results = json.loads(file.read_text(encoding="utf-8"))
                found = self.results["scale"]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{file}: expected the results of `ndsm reproduce`, found another file"
                ) from None
            if found != scale:
                raise InputError(
                    f"{path} holds results at --scale {found:g}, expected {scale:g}: give another --out, or start over "
                    "with --fresh"
                )

    def missing(self) -> list[Job]:
        """Jobs without a result."""
        done = {_key(row["row"], row["setting"], row["seed"]) for row in self.results["rows"]}
        return [job for job in self.study.jobs(self.scale) if job.key not in done]

    def add(self, job: Job, result: Result) -> None:
        """Keep a job's result."""
        rows, samples = result
        (self.path / "samples").mkdir(parents=True, exist_ok=True)
        np.save(self.path / "samples" / f"{job.name}.npy", samples)
        self.results["rows"] += rows
        self.write()

    def write(self) -> None:
        """Write results.json, its rows in the study's order."""
        order = [row for row, _ in self.study.rows]
        # The mixture's rows come first: they are no row of the study.
        self.results["rows"].sort(
            key=lambda r: (
                order.index(r["row"]) if r["row"] in order else -1,
                _key(r["row"], r["setting"], r["seed"]),
            )
        )
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / ".results.json.partial"
        partial.write_text(json.dumps(self.results, indent=1), encoding="utf-8")
        partial.replace(self.path / "results.json")

    def finish(self) -> None:
        """Add the floor, and draw the figure."""
        jobs = {job.key: job for job in self.study.jobs(self.scale)}
        first = next(iter(jobs.values()))
        self.results["floor"] = floor(self.study, first.config.evaluate.n)
        self.write()
        truth = load(first.config.data.model_copy(update={"standardize": False}), 0).train
        groups = {group.label: group for group in summarise(self.results["rows"])}
        panels = []
        for row, setting in self.study.rows:
            group = groups[_label(row, setting)]
            job = jobs[_key(row, setting, group.seed)]
            samples = np.load(self.path / "samples" / f"{job.name}.npy", allow_pickle=False)
            panels.append((f"{group.label}\nmode_std {group.median['mode_std']:.0f}", samples))
        study_figure([("data", truth), *panels], self.path / "figure.png", self.study.title)


@dataclass(frozen=True)
class Group:
    """The runs of one row and setting."""

    row: str
    setting: dict[str, Any]
    seed: int
    """Of the run with the median mode_std."""
    median: dict[str, float]
    """Medians over the runs of mode_std, swd2, off_support and train_seconds."""
    spread: tuple[float, float]
    """Smallest and largest mode_std."""
    runs: int

    @property
    def label(self) -> str:
        """Row and setting."""
        return _label(self.row, self.setting)


def summarise(rows: Iterable[dict[str, Any]]) -> list[Group]:
    """The rows by method and setting, in the order they come."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[json.dumps([row["row"], row["setting"]])].append(row)
    found = []
    for members in groups.values():
        ranked = sorted(members, key=lambda r: r["mode_std"])
        middle = ranked[(len(ranked) - 1) // 2]
        median = {
            key: float(np.median([r[key] for r in members]))
            for key in ("mode_std", "swd2", "off_support", "train_seconds")
        }
        spread = (ranked[0]["mode_std"], ranked[-1]["mode_std"])
        found.append(Group(middle["row"], middle["setting"], middle["seed"], median, spread, len(members)))
    return found


def _label(row: str, setting: dict[str, Any]) -> str:
    return " ".join([row, *(f"{key} {value:g}" for key, value in setting.items())])


def _key(row: str, setting: dict[str, Any], seed: int) -> str:
    return json.dumps([row, setting, seed])


def run_here(jobs: list[Job], runs: Path, on_done: Callable[[Job, Result], None]) -> None:
    """The jobs one after the other in this process."""
    for job in jobs:
        on_done(job, run_job(job, runs))
