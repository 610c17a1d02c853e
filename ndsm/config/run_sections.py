"""The sections `train`, `sample` and `evaluate`: how a run is executed, generated from and looked at."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ndsm.config.roles import setting
from ndsm.config.section import Section


class Train(Section):
    """The optimisation, and the machine it runs on."""

    steps: int = setting("protocol", 10_000, ge=1, continuable=True, basic=True)
    """Optimiser steps."""
    batch_rows: int = setting("training", 250, ge=1, basic=True)
    """Rows per optimiser step, over all workers."""
    accumulate: int = setting("execution", 1, ge=1)
    """Micro-batches per optimiser step: each worker's rows are split into as many, which bounds the memory."""
    lr: float = setting("training", 1e-3, gt=0.0, adjustable=True, basic=True)
    """Adam's learning rate."""
    lr_schedule: Literal["constant", "cosine"] = setting("training", "cosine", continuable=True)
    """Learning rate over the run: constant, or a cosine down to 0 at train.steps."""
    ema: float = setting("training", 0.999, ge=0.0, lt=1.0, continuable=True)
    """Decay per step of the exponential moving average of the weights; 0 keeps the raw weights."""
    grad_clip: float = setting("training", 10.0, gt=0.0, allow_inf_nan=True, continuable=True)
    """Largest gradient norm; a larger gradient is scaled down to it."""
    patience: int = setting("training", 0, ge=0, basic=True)
    """How many held-out losses in a row may be above the smallest before training ends early; the averaged weights of the smallest
    one are kept. 0 trains all train.steps, holds no rows out and keeps the last weights."""
    validation_steps: int = setting("training", 100, ge=10, multiple_of=10)
    """Steps between two held-out losses."""
    held_out_fraction: float = setting("training", 0.1, gt=0.0, lt=1.0)
    """Share of the training rows, 10,000 at most, that no training example starts from with train.patience; their loss is the held-out
    one. Those of data.validation_fraction remain for the metrics alone."""
    seed: int = setting("protocol", 0, ge=0, basic=True)
    """Seed of every random stream of the run."""
    samples_per_insert: float = setting("training", 1.0, gt=0.0)
    """How often each simulated row is used, on average. The network can learn a row's noise by heart when it
    sees it again; reuse only where simulating is the slower side."""
    times_per_path: int = setting("training", 5, ge=1)
    """Recorded times per trajectory (k of Remark 3.1)."""
    block_mb: float = setting("training", 2.0, gt=0.0)
    """Size of one simulated block, MB."""
    ring_blocks: int = setting("training", 16, ge=1)
    """Blocks each worker's ring holds; the oldest is overwritten."""
    min_blocks: int = setting("training", 1, ge=1)
    """Blocks in the ring before the first step."""
    window: int = setting("execution", 2, ge=1)
    """Blocks each simulator may be ahead of the trainer."""
    workers: int | str = setting("execution", 1, basic=True)
    """Training workers (data-parallel), a GPU or train.cpus_per_worker CPUs each; or "min,max": as many as the cluster has room for."""
    cpus_per_worker: int = setting("execution", 1, ge=1)
    """CPUs that Ray reserves for each training worker, which are the threads of its steps. --local uses all cores of its process
    but one, or OMP_NUM_THREADS threads."""
    simulators: Annotated[int, Field(ge=0)] | Literal["auto"] = setting("execution", 1, basic=True)
    """Simulator actors, one CPU each; 0 simulates on a thread and the device of each worker; `auto` measures what is needed when
    training starts, and adds or removes some while the workers wait or do not."""
    max_failures: int = setting("execution", 3, ge=-1)
    """How often the workers are restarted from the last checkpoint after a failure; -1 sets no limit."""
    start_seconds: float = setting("execution", 600.0, gt=0.0, allow_inf_nan=True)
    """How long to wait for CPUs and GPUs that other work on the cluster holds, at the start and after a loss, before the command
    ends. Of train.workers min,max as many as fit are started after 15 s of it."""
    block_seconds: float = setting("execution", 600.0, gt=0.0, allow_inf_nan=True)
    """How long a worker waits for a block while no simulator answers before the run ends: simulators that crash or hang
    again and again. Three tenths of it have to exceed the time that a block takes."""
    max_bad_blocks: int = setting("execution", 0, ge=0)
    """How many blocks may be left out that a simulator fails at, or hangs at for three tenths of train.block_seconds, in three
    tries; another block takes the place of each, for good. 0: the run ends at the first, whose index it names, since what is left
    out may lie where the data are rare."""
    device: Literal["auto", "cpu", "cuda"] = setting("execution", "auto", basic=True)
    """Device of the training step; auto is a GPU where there is one, on Ray where there is one for each worker."""
    precision: Literal["float32", "bfloat16"] = setting("training", "float32")
    """Number format inside the network; everything around it is float32 (torch's autocast)."""
    compile: bool = setting("execution", False)
    """Compile the network by torch.compile, which needs a C++ compiler on every node."""
    checkpoint_seconds: float = setting("execution", 30.0, gt=0.0, allow_inf_nan=True)
    """Seconds between checkpoints."""
    report_seconds: float = setting("execution", 2.0, gt=0.0, allow_inf_nan=True)
    """Seconds between lines of metrics.jsonl."""
    storage: str | None = setting("storage", None)
    """Where the run's folder is made, in place of --out: on several machines a path they all see, or a URI
    (s3://bucket/folder, gs://..., file:///...) that the folder under --out is copied to and resumed from."""
    storage_seconds: float = setting("execution", 600.0, ge=0.0, allow_inf_nan=True)
    """How long a training goes on while a URI as train.storage does not answer, and at its end waits for it, before the run ends. Its
    checkpoints are meanwhile in the folder under --out alone, and uploaded once the storage answers."""

    @property
    def worker_range(self) -> tuple[int, int]:
        """Least and largest number of training workers."""
        if isinstance(self.workers, int):
            return self.workers, self.workers
        least, most = self.workers.split(",")
        return int(least), int(most)

    @property
    def first_simulators(self) -> int:
        """Simulators before anything is measured."""
        return 1 if self.simulators == "auto" else int(self.simulators)

    @field_validator("workers")
    @classmethod
    def _workers_are_a_number_or_a_range(cls, value: int | str) -> int | str:
        match = re.fullmatch(r"\s*(\d+)\s*(?:,\s*(\d+)\s*)?", str(value))
        if match is None or not 1 <= int(match[1]) <= int(match[2] or match[1]):
            raise ValueError(f"expected a number from 1 on, or 'min,max', found {value!r}")
        return f"{int(match[1])},{int(match[2])}" if match[2] else int(match[1])


SamplerName = Literal[
    "em",
    "exponential",
    "reverse-diffusion",
    "ancestral",
    "pc",
    "annealed",
    "ode",
    "ode-adaptive",
    "flow",
    "flow2",
    "ddim",
    "dpmpp-2m",
]


class Sample(Section):
    """Generation by the reverse process."""

    sampler: SamplerName = setting("sampling", "em", basic=True)
    """The reverse SDE by Euler-Maruyama (`em`), with a Langevin corrector (`pc`), by steps that are exact inside a mode
    of the mixture (`exponential`) or a linear process's own (`reverse-diffusion`, `ancestral`); Langevin dynamics over
    noise scales (`annealed`: ve); the probability flow by Heun's method (`ode`), adaptive steps (`ode-adaptive`), or
    few steps that are exact inside a mode (`flow`, second order `flow2`) or of a linear process (`ddim`, `dpmpp-2m`)."""
    steps: int = setting("sampling", 250, ge=2, basic=True)
    """Network evaluations per sample."""
    noise: float | None = setting("sampling", None, ge=0.0, le=1.0)
    """Noise of each step of flow, flow2, ddim, dpmpp-2m and ancestral, from 0 (the probability flow) to 1 (ancestral sampling);
    the sampler's own if null: 1 for ancestral, 0 for the others."""
    power: float | None = setting("sampling", None, gt=0.0)
    """The same samplers' times are equally spaced in the power-th root of t (of σ/α for linear noising); null: 3 (7)."""
    signal: float | None = setting("sampling", None, ge=0.0, lt=1.0)
    """They begin where this fraction of the data is left in a mode of the mean variance, at the horizon with 0; null: 0.03 for a
    mixture's noising in fewer than 30 steps, else 0."""
    end: float | None = setting("sampling", None, gt=0.0)
    """Their last time before 0; null: process.last_dt, or the first step of the grid."""
    slope_error: float | None = setting("sampling", None, ge=0.0)
    """Error of the learned slope relative to its size near the data, for flow, flow2 and ancestral with a mixture's noising: where
    less of the data is left than that the slope counts for less, which keeps the error from growing and is a bias of its own.
    0 for none; null: 0.02."""
    particles: int = setting("sampling", 16, ge=1)
    """Completions of a row with missing or given numbers that are weighted against one another, and of which draws are taken; 1 for
    none but the draw itself, whose mode is then as likely as the mixture has it."""


class Evaluate(Section):
    """What `metrics.json` is computed from."""

    n: int = setting("evaluation", 10_000, ge=2, basic=True)
    """Generated rows."""
    seconds: float | None = setting("execution", None, gt=0.0, allow_inf_nan=True)
    """Between evaluations of the newest checkpoint during the training, by a Ray task on a CPU that nobody uses, or in a
    pause of the training with --local; null: only at the end."""
