"""An experiment as a list of independent runs, their results, and what those amount to."""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndsm.config import Config, build_config, merge
from ndsm.data import Dataset, load
from ndsm.errors import InputError
from ndsm.experiment import Experiment, Generator, begin, prepare, train_locally
from ndsm.figures import image_rows, image_study_figure, study_figure
from ndsm.files import foreign_names, write_whole
from ndsm.metrics import evaluate
from ndsm.run import Run
from ndsm.streams import numpy_stream
from ndsm.training import Record, Trainer

SETTINGS = {
    "last_dt": "process.last_dt",
    "symmetry": "data.symmetry",
    "K": "reference.n_components",
    "covariance": "reference.covariance_type",
    "fit_samples": "reference.fit_samples",
    "bayesian": "reference.bayesian",
    "init": "reference.init_params",
    "n_init": "reference.n_init",
}
"""The field of each key that distinguishes rows of the same name."""

PICTURED = 64
"""Images of a run that are kept for the figure."""


@dataclass(frozen=True)
class Job:
    """One training run of a study."""

    row: str
    """Name of the method, as in results.json."""
    setting: dict[str, Any]
    """What distinguishes rows of the same name, keys of `SETTINGS`."""
    seed: int
    config: Config
    keys: tuple[str, ...]
    """Metrics that its row has."""
    moments: int = 0
    """Evaluations during training, at equal distances in steps, the last at the end."""
    moment_rows: int = 0
    """Generated rows of each."""
    prior: bool = False
    """Whether it also measures the mixture alone."""

    @property
    def name(self) -> str:
        """Its run directory's name."""
        return "-".join([self.row, *_words(self.setting, "-"), str(self.seed)])

    @property
    def key(self) -> str:
        """Tells it from the study's other jobs, as its row in results.json does."""
        return _key(self.row, self.setting, self.seed)


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper."""

    title: str
    fields: dict[str, Any]
    """Fields of every row's configuration."""
    methods: dict[str, dict[str, Any]]
    """Further fields of each row."""
    rows: tuple[tuple[str, dict[str, Any]], ...]
    """Method and setting, in the figure's order."""
    runs: int
    """Seeds of each row."""
    keys: tuple[str, ...]
    """Metrics in results.json."""
    shown: tuple[str, ...]
    """Metrics in the printed table; the first one ranks the runs."""
    moments: int = 0
    """Evaluations during training."""
    moment_rows: int = 0
    """Generated rows of each."""
    prior_of: str = "ndsm-eps0"
    """The method whose runs also measure the mixture alone; it is the same for all methods."""
    least_rows: int = 100
    """Generated rows of a run, at whatever scale."""

    def data_fields(self, root: Path) -> dict[str, Any]:
        """The fields that tell where its data lie; none for toys."""
        return {"data.root": root} if "mnist" in self.fields["data.name"] else {}

    def jobs(self, scale: float, data: dict[str, Any] | None = None) -> list[Job]:
        """All runs, their steps and generated rows multiplied by `scale`; `data` are further fields of each."""
        found = []
        for seed in range(self.runs):
            for row, setting in self.rows:
                fields = {
                    **self.fields,
                    **self.methods[row],
                    **{SETTINGS[key]: value for key, value in setting.items()},
                    **(data or {}),
                    "train.seed": seed,
                }
                fields["train.steps"] = max(100, round(scale * fields["train.steps"]))
                fields["evaluate.n"] = max(self.least_rows, round(scale * fields["evaluate.n"]))
                config = build_config(merge({}, fields), row)
                moment_rows = max(100, round(scale * self.moment_rows))
                prior = row == self.prior_of
                found.append(Job(row, setting, seed, config, self.keys, self.moments, moment_rows, prior))
        return found


Result = tuple[list[dict[str, Any]], np.ndarray]
"""Rows for results.json, and generated points (n, 2) in the data's units or images (64, 784) for the figure."""


def run_job(job: Job, runs: Path) -> Result:
    """Train (or resume) the run `runs`/NAME of a job, generate, and measure.

    Returns the job's row and, if it asks for that, one for the mixture alone.
    """
    torch.set_num_threads(1)
    run = Run(runs / job.name)
    experiment = prepare(job.config, run)
    begin(experiment)
    moments = _Moments(job, experiment)
    for _ in train_locally(experiment, moments.watch):
        pass
    n, seed = job.config.evaluate.n, job.config.train.seed
    generator = Generator.of(run)
    samples = np.concatenate(list(generator.rows(n, seed)))
    prior = generator.prior_rows(n, seed) if job.prior else None
    truth = experiment.dataset
    if truth.toy is not None:
        # Rows differ in whether they standardise; distances are compared in one unit.
        truth = load(job.config.data.model_copy(update={"standardize": False, "whiten": "none"}), seed)
        samples = run.scaling().invert(samples)
        prior = None if prior is None else run.scaling().invert(prior)
    metrics = evaluate(truth, samples, prior, seed)
    row = {"row": job.row, "seed": seed, "setting": job.setting}
    steps, seconds = job.config.train.steps, run.metrics_since(0)[0][-1]["seconds"]
    kept = {key: metrics[key] for key in job.keys}
    rows = [{**row, "steps": steps, "train_seconds": seconds, **kept, **moments.found()}]
    if prior is not None:
        kept = {key: metrics["prior"][key] for key in job.keys}
        rows.append({**row, "row": "prior", "steps": 0, "train_seconds": 0.0, **kept})
    if truth.toy is None:
        original = run.scaling().invert(samples[:PICTURED])
        samples = original if (images := image_rows(truth, original)) is None else images
    return rows, samples


class _Moments:
    """Evaluations of the averaged weights while they are trained: `curve.jsonl` in the run directory.

    `cpu_seconds` is processor time of training and simulation together, without the evaluations: other work on the
    machine does not change it, and on one core it is the training time.
    """

    def __init__(self, job: Job, experiment: Experiment) -> None:
        self._job, self._experiment = job, experiment
        self._file = experiment.run.path / "curve.jsonl"
        self._lines: list[dict[str, Any]] = []
        if self._file.is_file():
            self._lines = [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines()]
        # A killed run's time from its last evaluation to the checkpoint that it goes on from is not counted.
        last = self._lines[-1] if self._lines else {"seconds": 0.0, "cpu_seconds": 0.0}
        self._seconds, self._cpu_seconds = last["seconds"], last["cpu_seconds"]
        self._since = (time.monotonic(), time.process_time())

    def watch(self, record: Record, trainer: Trainer) -> None:
        """Evaluate, if the next moment has come."""
        job = self._job
        due = (len(self._lines) + 1) * job.config.train.steps // max(1, job.moments)
        if not job.moments or record.step < due:
            return
        self._seconds += time.monotonic() - self._since[0]
        self._cpu_seconds += time.process_time() - self._since[1]
        problem, dataset, seed = self._experiment.problem, self._experiment.dataset, job.seed
        generator = Generator(problem, trainer.ema, next(trainer.ema.parameters()).device)
        rows = np.concatenate(list(generator.rows(job.moment_rows, seed)))
        metrics = evaluate(dataset, rows, None, seed)
        line = {
            "step": record.step,
            "seconds": round(self._seconds, 3),
            "cpu_seconds": round(self._cpu_seconds, 3),
            **{key: metrics[key] for key in job.keys if isinstance(metrics[key], (int, float))},
        }
        self._lines.append(line)
        with self._file.open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
        self._since = (time.monotonic(), time.process_time())

    def found(self) -> dict[str, Any]:
        """Training times without the evaluations, and the lines; nothing if none were asked for."""
        if not self._lines:
            return {}
        last = self._lines[-1]
        return {"train_seconds": last["seconds"], "cpu_seconds": last["cpu_seconds"], "curve": self._lines}


def toy_floor(study: Study, n: int) -> dict[str, float]:
    """The metrics of true points in place of generated ones, mean over the runs' seeds."""
    every = defaultdict(list)
    data = {"name": study.fields["data.name"], "standardize": False}
    for seed in range(study.runs):
        truth = load(build_config({"data": data}, "floor").data, seed)
        assert truth.toy is not None
        points, _ = truth.toy.sample(n, numpy_stream(seed, "floor"))
        metrics = evaluate(truth, points, points, seed)
        for key in study.shown:
            every[key].append(metrics[key])
    return {key: float(np.mean(values)) for key, values in every.items()}


class Folder:
    """`OUT/NAME`: results.json with the rows done so far, samples/, runs/, figure.png.

    Args:
        path: the folder.
        name, study: which experiment.
        scale: of steps and generated rows.
        data: further fields of the `data` section, by their dotted names.
        fresh: remove what an earlier experiment left there.
        methods: the only methods to run; the results of others stay. All if None.

    Raises:
        InputError: it holds results of another scale, or something else, or the study has no such method.
    """

    OWN = ("results.json", "samples", "runs", "figure.png")

    def __init__(
        self,
        path: Path,
        name: str,
        study: Study,
        scale: float,
        data: dict[str, Any] | None = None,
        fresh: bool = False,
        methods: Collection[str] | None = None,
    ) -> None:
        if unknown := sorted(set(methods or ()) - {row for row, _ in study.rows}):
            known = ", ".join(dict.fromkeys(row for row, _ in study.rows))
            raise InputError(f"--rows: expected rows of {name}: {known}; found {unknown[0]!r}")
        if foreign := foreign_names(path, self.OWN):
            raise InputError(
                f"{path}: expected a new folder or one of `ndsm reproduce`, found one with other files in it: {foreign[0]}"
            )
        if fresh:
            shutil.rmtree(path, ignore_errors=True)
        self.path, self.study = path, study
        every = study.jobs(scale, data)
        self.jobs = [job for job in every if methods is None or job.row in methods]
        self._names = {job.key: job.name for job in every}
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
        return [job for job in self.jobs if job.key not in done]

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
        write_whole(self.path / "results.json", json.dumps(self.results, indent=1).encode())

    def finish(self) -> None:
        """Add the floor, and draw the figure."""
        config = self.jobs[0].config
        data = load(config.data.model_copy(update={"standardize": False, "whiten": "none"}), 0)
        rows = self.results["rows"]
        if data.toy is not None:
            self.results["floor"] = toy_floor(self.study, config.evaluate.n)
        else:
            floors = [key for key in self.study.keys if key.endswith("_floor")]
            self.results["floor"] = {
                key.removesuffix("_floor"): float(np.mean([row[key] for row in rows])) for key in floors
            }
        self._compare_at_equal_time()
        self.write()
        self._draw(data)

    def _compare_at_equal_time(self) -> None:
        """Give each row with a curve its metrics at the processor time that the fastest run ended at."""
        trained = [row for row in self.results["rows"] if row.get("curve")]
        least = min((row["cpu_seconds"] for row in trained), default=0.0)
        for row in trained:
            times = [line["cpu_seconds"] for line in row["curve"]]
            row["equal_time"] = {"cpu_seconds": least} | {
                key: float(np.interp(least, times, [line[key] for line in row["curve"]]))
                for key in self.study.shown
            }

    def _draw(self, data: Dataset) -> None:
        """The data and each row's median run side by side; for images with class shares and curves below."""
        groups = {group.label: group for group in self.groups()}
        panels, metric = [], self.study.shown[0]
        rows = {_key(row["row"], row["setting"], row["seed"]): row for row in self.results["rows"]}
        for row, setting in self.study.rows:
            # Without a result are the rows that were left out.
            if (group := groups.get(_label(row, setting))) is None:
                continue
            key = _key(row, setting, group.seed)
            samples = np.load(self.path / "samples" / f"{self._names[key]}.npy", allow_pickle=False)
            panels.append((f"{group.label}\n{metric} {group.median[metric]:.3g}", samples, rows[key]))
        path, title = self.path / "figure.png", self.study.title
        real = image_rows(data, data.train[:PICTURED])
        if real is None:
            study_figure([("data", data.train), *((name, x) for name, x, _ in panels)], path, title)
        else:
            image_study_figure([("data", real, {}), *panels], path, title)

    def groups(self) -> list["Group"]:
        """The rows done so far by method and setting."""
        return summarise(self.results["rows"], self.study.shown)


@dataclass(frozen=True)
class Group:
    """The runs of one row and setting."""

    row: str
    setting: dict[str, Any]
    seed: int
    """Of the run with the median first metric."""
    median: dict[str, float]
    """Medians over the runs of the metrics and train_seconds; with curves also of cpu_seconds and of `equal_time`, the
    first metric at the time that the fastest run took."""
    spread: tuple[float, float]
    """Smallest and largest first metric."""
    runs: int

    @property
    def label(self) -> str:
        """Row and setting."""
        return _label(self.row, self.setting)


def summarise(rows: Iterable[dict[str, Any]], metrics: tuple[str, ...]) -> list[Group]:
    """The rows by method and setting, in the order they come; the first metric ranks the runs."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[json.dumps([row["row"], row["setting"]])].append(row)
    found = []
    for members in groups.values():
        ranked = sorted(members, key=lambda r: r[metrics[0]])
        middle = ranked[(len(ranked) - 1) // 2]
        numbers = [{**r, "equal_time": r.get("equal_time", {}).get(metrics[0])} for r in members]
        median = {
            key: float(np.median([r[key] for r in numbers]))
            for key in (*metrics, "train_seconds", "cpu_seconds", "equal_time")
            if numbers[0].get(key) is not None
        }
        spread = (ranked[0][metrics[0]], ranked[-1][metrics[0]])
        found.append(Group(middle["row"], middle["setting"], middle["seed"], median, spread, len(members)))
    return found


def _label(row: str, setting: dict[str, Any]) -> str:
    return " ".join([row, *_words(setting, " ")])


def _words(setting: dict[str, Any], between: str) -> list[str]:
    return [f"{k}{between}{v if isinstance(v, str) else f'{v:g}'}" for k, v in setting.items()]


def _key(row: str, setting: dict[str, Any], seed: int) -> str:
    return json.dumps([row, setting, seed])


def run_here(jobs: list[Job], runs: Path, on_done: Callable[[Job, Result], None]) -> None:
    """The jobs one after the other in this process."""
    for job in jobs:
        on_done(job, run_job(job, runs))
