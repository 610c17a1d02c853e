"""The results of an experiment: its folder, its table and its figure."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndsm.config import build_config
from ndsm.core.atomic_file import write_whole
from ndsm.core.folders import first_foreign, names_below, remove_files
from ndsm.core.rng import numpy_stream
from ndsm.data import Dataset, load
from ndsm.errors import InputError
from ndsm.metrics import evaluate
from ndsm.reproduce.figures import image_study_figure, study_figure
from ndsm.reproduce.running import PICTURED, Result
from ndsm.reproduce.study import Job, Study, key_of, number, words
from ndsm.runs import Run
from ndsm.runs.lock import LOCK_FILES, RunLock
from ndsm.workflows.figures import image_rows


def toy_floor(study: Study, n: int) -> dict[str, float]:
    """Return the metrics of true points in place of generated ones, averaged over the runs' seeds."""
    every = defaultdict(list)
    data = build_config({"data": {"name": study.fields["data.name"]}}, "floor").data.unscaled()
    for seed in range(study.runs):
        truth = load(data, seed)
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

    FORMAT = "ndsm-reproduce"
    """Marks a results.json as one of this command; an older one is known by its keys."""

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
        self.path, self.study, self._scale = path, study, scale
        self.after_write: Callable[[], None] = lambda: None
        """Called after each change."""
        self.owner = RunLock(path / "owner.json", f"{path} is being written", "give another --out")
        every = study.jobs(scale, data)
        self.jobs = [job for job in every if methods is None or job.row in methods]
        self._names = {job.key: job.name for job in every}
        self.results: dict[str, Any] = {
            "format": self.FORMAT, "name": name, "scale": scale, "rows": [], "floor": {}
        }  # fmt: skip
        self.owner.check_free()
        self._check_place(fresh)
        if fresh:
            with self.owner.hold():
                self._remove()
        self._read()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes from running this experiment here, and read results that one has added meanwhile.

        Raises:
            InputError: another process runs it.
        """
        with self.owner.hold():
            self._read()
            yield

    def _check_place(self, fresh: bool) -> None:
        """Raise `InputError` if the folder holds files that the command does not make; with `fresh`, also if a run's folder does."""
        below = [f"runs/{name}/**" for name in self._names.values()] if fresh else ["runs/**"]
        own = [*LOCK_FILES, "runs/stop", *below]
        if self._is_marked():
            samples = [f"samples/{name}.npy" for name in self._names.values()] if fresh else ["samples/**"]
            own += ["results.json", "figure.png", *samples]
        if foreign := first_foreign(names_below(self.path), own):
            raise InputError(
                f"{self.path}: expected a new folder or one of `ndsm reproduce`, found one with other files in it: {foreign}"
            )
        if fresh:
            for run in self._runs():
                run.owner.check_free()
                run.check_place(fresh)

    def _runs(self) -> list[Run]:
        return [Run(self.path / "runs" / name) for name in self._names.values()]

    def _is_marked(self) -> bool:
        """Return whether there are results of this command; raise `InputError` if there are others in their place."""
        file = self.path / "results.json"
        if not file.is_file():
            return False
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if found.get("format") == self.FORMAT or found.keys() >= {"name", "scale", "rows", "floor"}:
                return True
        except (ValueError, AttributeError):
            pass
        raise InputError(f"{file}: expected the results of `ndsm reproduce`, found another file")

    def _remove(self) -> None:
        """Delete the files of the command; results.json, which marks them as its own, last."""
        for run in self._runs():
            run.remove()
        names = [name for name in names_below(self.path) if name not in LOCK_FILES]
        remove_files(self.path, sorted(names, key=lambda name: name == "results.json"))

    def _read(self) -> None:
        """Read the results that exist."""
        if not self._is_marked():
            return
        self.results = json.loads((self.path / "results.json").read_text(encoding="utf-8"))
        if (found := self.results["scale"]) != self._scale:
            raise InputError(
                f"{self.path} holds results at --scale {found:g}, expected {self._scale:g}: give another --out, or start over "
                "with --fresh"
            )

    def missing(self) -> list[Job]:
        """Return the jobs without a result."""
        done = {key_of(row["row"], row["setting"], row["seed"]) for row in self.results["rows"]}
        return [job for job in self.jobs if job.key not in done]

    def add(self, job: Job, result: Result) -> None:
        """Add the result of a job."""
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
                key_of(r["row"], r["setting"], r["seed"]),
            )
        )
        write_whole(self.path / "results.json", json.dumps(self.results, indent=1).encode())
        self.after_write()

    def finish(self) -> None:
        """Add the floor, and draw the figure."""
        config = self.jobs[0].config
        data = load(config.data.unscaled(), 0)
        rows = self.results["rows"]
        if data.toy is not None:
            self.results["floor"] = toy_floor(self.study, config.evaluate.n)
        else:
            floors = [key for key in self.study.keys if key.endswith("_floor")]
            known = {key: [row[key] for row in rows if row[key] is not None] for key in floors}
            self.results["floor"] = {
                key.removesuffix("_floor"): float(np.mean(found)) for key, found in known.items() if found
            }
        self._compare_at_equal_time()
        self.write()
        self._draw(data)
        self.after_write()

    def _compare_at_equal_time(self) -> None:
        """Give each row with a curve its metrics at the processor time that the fastest run ended at."""
        trained = [row for row in self.results["rows"] if row.get("curve")]
        least = min((row["cpu_seconds"] for row in trained), default=0.0)
        for row in trained:
            times = [line["cpu_seconds"] for line in row["curve"]]
            row["equal_time"] = {"cpu_seconds": least} | {
                key: float(np.interp(least, times, [line[key] for line in row["curve"]]))
                for key in self.study.shown
                if all(key in line for line in row["curve"])
            }

    def _draw(self, data: Dataset) -> None:
        """Draw the data and each row's median run side by side; for images with class shares and curves below."""
        groups = {group.label: group for group in self.groups()}
        panels, metric = [], self.study.shown[0]
        rows = {key_of(row["row"], row["setting"], row["seed"]): row for row in self.results["rows"]}
        for row, setting in self.study.rows:
            # Without a result are the rows that were left out.
            if (group := groups.get(_label(row, setting))) is None:
                continue
            key = key_of(row, setting, group.seed)
            samples = np.load(self.path / "samples" / f"{self._names[key]}.npy", allow_pickle=False)
            panels.append((f"{group.label}\n{metric} {group.median[metric]:.3g}", samples, rows[key]))
        path, title = self.path / "figure.png", self.study.title
        real = image_rows(data, data.train[:PICTURED])
        if real is None:
            study_figure([("data", data.train), *((name, x) for name, x, _ in panels)], path, title)
        else:
            image_study_figure([("data", real, {}), *panels], path, title)

    def groups(self) -> list["Group"]:
        """Return the finished rows, grouped by method and setting."""
        return summarise(self.results["rows"], self.study.shown)


@dataclass(frozen=True)
class Group:
    """The runs of one row and setting."""

    row: str
    setting: dict[str, Any]
    seed: int
    """Seed of the run with the median first metric."""
    median: dict[str, float]
    """Medians over the runs that have them of the metrics and train_seconds; with curves also of cpu_seconds and of `equal_time`, the
    first metric at the time that the fastest run took."""
    spread: tuple[float, float]
    """Smallest and largest first metric."""
    runs: int

    @property
    def label(self) -> str:
        """Row and setting."""
        return _label(self.row, self.setting)


def summarise(rows: Iterable[dict[str, Any]], metrics: tuple[str, ...]) -> list[Group]:
    """Group rows by method and setting, in their order; the first metric ranks the runs."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[json.dumps([row["row"], row["setting"]])].append(row)
    found = []
    for members in groups.values():
        first = metrics[0]
        ranked = sorted((r for r in members if r[first] is not None), key=lambda r: r[first]) or members
        middle = ranked[(len(ranked) - 1) // 2]
        numbers = [{**r, "equal_time": r.get("equal_time", {}).get(first)} for r in members]
        median = dict.fromkeys(metrics, math.nan)
        for key in (*metrics, "train_seconds", "cpu_seconds", "equal_time"):
            if known := [r[key] for r in numbers if r.get(key) is not None]:
                median[key] = float(np.median(known))
        spread = (number(ranked[0], first), number(ranked[-1], first))
        found.append(Group(middle["row"], middle["setting"], middle["seed"], median, spread, len(members)))
    return found


def _label(row: str, setting: dict[str, Any]) -> str:
    return " ".join([row, *words(setting, " ")])
