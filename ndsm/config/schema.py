"""The configuration: one frozen tree, and the only place with default values.

A preset (`ndsm/config/presets/*.yaml`) names what differs from these defaults; the command line overrides single
fields (`--train.lr 1e-3`). Every run directory holds the whole resolved tree as `config.yaml`. Each field says what it
decides (`ndsm.config.roles`).
"""

import math
from typing import Literal

from pydantic import model_validator

from ndsm.config.data_section import CONTINUOUS, IMAGES, Data
from ndsm.config.model_sections import WITH_EPSILON, Epsilon, Network, Objective, Process, Reference
from ndsm.config.run_sections import Evaluate, Sample, Train
from ndsm.config.section import Section

ONE_STEP_OBJECTIVES = ("ndsm", "ndsm-cv", "antithetic", "sliced")
"""Objectives that record the last step of a path alone."""


class Config(Section):
    """Everything a run depends on."""

    data: Data = Data()
    reference: Reference = Reference()
    process: Process = Process()
    objective: Objective = Objective()
    network: Network = Network()
    train: Train = Train()
    sample: Sample = Sample()
    evaluate: Evaluate = Evaluate()

    def integrator(self, mixture: bool = True) -> Literal["euler-maruyama", "exponential"]:
        """The scheme that `process.integrator` stands for.

        Args:
            mixture: whether the noising has a mixture; a Langevin process with a drift of one's own has none.
        """
        chosen = self.process.integrator
        if chosen != "auto":
            return chosen
        one_step = self.process.last_dt is None and self.objective.kind in ONE_STEP_OBJECTIVES
        exact = self.process.kind == "langevin" and mixture and not one_step
        return "exponential" if exact else "euler-maruyama"

    @model_validator(mode="after")
    def _fields_agree(self) -> "Config":
        if self.data.name not in ("vectors", "images") and (self.data.path or self.data.columns):
            raise ValueError(
                f"data.path and data.columns go with data.name 'vectors' or 'images', not {self.data.name!r}"
            )
        if self.data.column_types and not (self.data.name == "vectors" and self.data.transforms_columns):
            raise ValueError(
                "data.column_types goes with data.name 'vectors', data.standardize true and no data.dequantize"
            )
        if self.data.whiten != "none" and not self.data.standardize:
            raise ValueError(
                f"data.whiten {self.data.whiten!r} acts on standardised rows: expected data.standardize true, found false"
            )
        if self.data.whiten != "none" and self.data.symmetry != "none":
            raise ValueError("data.whiten mixes the dimensions: expected 'none' beside data.symmetry")
        if self.data.symmetry != "none" and self.data.name not in IMAGES:
            raise ValueError(
                f"data.symmetry {self.data.symmetry!r} turns images: expected data.name {_listed(IMAGES)}, found "
                f"{self.data.name!r}"
            )
        if self.data.dequantize is not None and self.data.name in CONTINUOUS:
            raise ValueError(
                "data.dequantize is the step of numbers that come in whole steps: expected none with data.name "
                f"{self.data.name!r}, found {self.data.dequantize:g}"
            )
        if self.data.whiten != "none" and self.network.kind in ("unet", "diffusers"):
            raise ValueError(
                f"network.kind {self.network.kind!r} sees rows as images, which data.whiten mixes: expected data.whiten 'none', "
                f"found {self.data.whiten!r}"
            )
        if self.network.classes and self.network.kind == "diffusers":
            raise ValueError("network.classes goes with network.kind 'mlp', 'resmlp' or 'unet'")
        if self.data.labels is not None and self.data.name != "vectors":
            raise ValueError(f"data.labels goes with data.name 'vectors', not {self.data.name!r}")
        if self.data.labels is not None and self.data.labels in (self.data.columns or ()):
            raise ValueError(
                f"data.labels {self.data.labels!r} is not learned: expected data.columns without it, found it among them"
            )
        linear = self.process.kind != "langevin"
        if self.objective.kind == "dsm" and not linear:
            raise ValueError(
                "objective.kind 'dsm' needs a process whose transition law is known: vp, ve, subvp, ou or mixture-ou"
            )
        if self.objective.component == "likeliest" and self.objective.kind != "mixture-dsm":
            raise ValueError(
                f"objective.component 'likeliest' goes with objective.kind 'mixture-dsm', not {self.objective.kind!r}"
            )
        if self.process.form == "marginal" and self.process.kind != "mixture-ou":
            raise ValueError(
                f"process.form 'marginal' goes with process.kind 'mixture-ou', not {self.process.kind!r}"
            )
        if self.process.kind == "mixture-ou":
            self._check_components()
        if self.objective.mirrored and self.objective.kind not in ("dsm", "mixture-dsm"):
            raise ValueError(
                f"objective.mirrored goes with objective.kind 'dsm' or 'mixture-dsm', not {self.objective.kind!r}, which has two "
                "evaluations already"
            )
        for name, value in (
            ("network.output_scale", self.network.output_scale),
            ("objective.weighting", self.objective.weighting),
        ):
            if value == "velocity" and not linear:
                raise ValueError(f"{name} 'velocity' needs a linear process: vp, ve, subvp, ou or mixture-ou")
        if self.objective.kind == "mixture-dsm" and linear:
            raise ValueError("objective.kind 'mixture-dsm' goes with process.kind 'langevin'")
        # How often it is updated may stay set: a preset's objective is then exchanged by one option.
        epsilon = self.objective.epsilon.model_copy(update={"every": Epsilon().every})
        if self.objective.kind not in WITH_EPSILON and epsilon != Epsilon():
            raise ValueError(
                f"objective.epsilon goes with objective.kind 'ndsm-cv' or 'path'; {self.objective.kind!r} has no control "
                "variate to scale"
            )
        if linear and self.objective.kind == "path":
            raise ValueError("objective.kind 'path' goes with process.kind 'langevin'")
        if linear and self.process.integrator == "exponential":
            raise ValueError("process.integrator 'exponential' goes with process.kind 'langevin'")
        if (
            self.process.integrator == "exponential"
            and self.process.last_dt is None
            and self.objective.kind in ONE_STEP_OBJECTIVES
        ):
            raise ValueError(
                f"process.integrator 'exponential' with objective.kind {self.objective.kind!r} needs process.last_dt, the "
                "size of the recorded example's own step"
            )
        largest = self.process.sigma_max or math.inf
        if largest <= self.process.sigma_min or self.process.beta_max < self.process.beta_min:
            raise ValueError("process.sigma_max and beta_max must lie above sigma_min and beta_min")
        if self.train.times_per_path > self.process.grid.steps:
            raise ValueError(
                f"train.times_per_path {self.train.times_per_path} exceeds process.grid.steps "
                f"{self.process.grid.steps}: a path has no more recorded times than steps"
            )
        least, most = self.train.worker_range
        for workers in range(least, most + 1):
            if self.train.batch_rows % (workers * self.train.accumulate):
                raise ValueError(
                    f"train.batch_rows {self.train.batch_rows} does not divide into train.workers {workers} x "
                    f"train.accumulate {self.train.accumulate} equal parts"
                )
        if self.train.min_blocks > self.train.ring_blocks:
            raise ValueError(
                f"train.min_blocks {self.train.min_blocks} exceeds train.ring_blocks {self.train.ring_blocks}"
            )
        return self

    def _check_components(self) -> None:
        """Check what goes with the coordinates of components."""
        if self.objective.kind != "dsm":
            raise ValueError(
                f"process.kind 'mixture-ou' has its transition law in closed form: expected objective.kind 'dsm', found "
                f"{self.objective.kind!r}"
            )
        if self.data.symmetry != "none":
            raise ValueError(
                f"process.kind 'mixture-ou' sees rows in the coordinates of components, which data.symmetry "
                f"{self.data.symmetry!r} does not know: expected 'none'"
            )


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"
