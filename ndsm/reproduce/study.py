"""An experiment as a list of independent runs."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndsm.config import Config, build_config, merge

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
        return "-".join([self.row, *words(self.setting, "-"), str(self.seed)])

    @property
    def key(self) -> str:
        """Tells it from the study's other jobs, as its row in results.json does."""
        return key_of(self.row, self.setting, self.seed)


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


def number(row: dict[str, Any], key: str) -> float:
    """A metric of a row, NaN where none of the generated rows was finite."""
    return math.nan if row[key] is None else float(row[key])


def words(setting: dict[str, Any], between: str) -> list[str]:
    """What distinguishes a row, a word for each of its fields."""
    return [f"{k}{between}{v if isinstance(v, str) else f'{v:g}'}" for k, v in setting.items()]


def key_of(row: str, setting: dict[str, Any], seed: int) -> str:
    """Tells a run from the others of its study."""
    return json.dumps([row, setting, seed])
