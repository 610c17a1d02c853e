"""The configuration: one frozen tree, and the only place with default values.

A preset (`ndsm/config/presets/*.yaml`) names what differs from these defaults; the command line overrides single
fields (`--train.lr 1e-3`). Every run directory holds the whole resolved tree as `config.yaml`. Each field says what it
decides (`ndsm.config.roles`).
"""

import codecs
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ndsm.config.roles import names_of, setting
from ndsm.core.uris import is_uri
from ndsm.errors import InputError


class FieldErrors(InputError):
    """Problems of one section, each a sentence that begins with the field's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems[:3]))
        self.problems = problems


class Section(BaseModel):
    """A part of the tree: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        # pydantic's own message is a page with an address; the command line shows one sentence.
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise FieldErrors(describe(error)) from None


IMAGES = ("digits", "mnist", "c2-mnist", "images")
"""Data sets whose rows are square images, pixel row by pixel row."""

CONTINUOUS = ("mnist-latent", "arcs", "rings", "checkerboard", "gaussians")
"""Data sets whose numbers are known to come in no steps."""


class Csv(Section):
    """How tables as text are written."""

    delimiter: str | None = setting("data", None)
    """What separates fields: one character, or \\t; null: a comma, in .tsv files a tab."""
    decimal_point: Literal[".", ","] = setting("data", ".")
    """What separates the fraction of a number."""
    encoding: str = setting("data", "utf-8")
    """Encoding of the text, as Python calls it, such as utf-16 or cp1252."""
    skip_rows: int = setting("data", 0, ge=0)
    """Lines before the one with the column names."""

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_one_character(cls, value: str | None) -> str | None:
        value = "\t" if value == "\\t" else value
        if value is not None and (len(value) != 1 or not value.isascii() or value in '\n\r"'):
            raise ValueError(f"expected one ASCII character, or \\t, found {value!r}")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError(
                f"expected an encoding that Python knows, such as utf-8, utf-16 or cp1252, found {value!r}"
            ) from None


class Data(Section):
    """Where the rows come from and how they are prepared."""

    name: Literal[
        "digits",
        "mnist",
        "mnist-latent",
        "c2-mnist",
        "arcs",
        "rings",
        "checkerboard",
        "gaussians",
        "vectors",
        "images",
    ] = setting("data", "digits", basic=True)
    """Data set: scikit-learn's digits; MNIST, its latent space (an autoencoder's four numbers), MNIST with every other
    image turned and halved; a 2-D toy; `vectors` (the table at data.path); or `images` (the folder or .parquet file at
    data.path)."""
    root: Path = setting("storage", Path("data"))
    """Folder with MNIST/raw; its files are downloaded there if they are missing."""
    path: str | None = setting("data", None, basic=True)
    """Table for `vectors`: .npy, .csv/.tsv (compressed as .csv.gz or not), .parquet, .arrow/.feather, or a folder of Parquet
    files; a path or a URI (s3://bucket/table.parquet, gs://..., file:///...). Square grey `images`: a folder of files, in
    sub-folders if they have classes, or a .parquet file with a column of encoded ones."""
    csv: Csv = Csv()
    columns: tuple[str, ...] | None = setting("data", None, basic=True)
    """Columns of the table to learn; all of them if not given. The column of images."""
    labels: str | None = setting("data", None, basic=True)
    """Column of the table that holds labels: text, true/false, whole numbers or dates; it is not learned."""
    standardize: bool = setting("scaling", True)
    """Shift and scale each dimension to mean 0 and variance 1; undone on output."""
    whiten: Literal["none", "within-mode"] = setting("scaling", "none")
    """After standardising, mix the dimensions so that the modes become nearly round; undone on output."""
    whiten_components: int = setting("scaling", 10, ge=1)
    """Modes that the whitening tells apart; about reference.n_components."""
    whiten_samples: int = setting("scaling", 10_000, ge=2)
    """Rows the whitening is fitted on (at most; drawn at random)."""
    symmetry: Literal["none", "c2"] = setting("scaling", "none")
    """What is known to leave the law of images as it is: c2, turning them by 180° (reversing the row of pixels). Scaling,
    mixture and score, and with them the law of what is generated, are then made exactly symmetric."""
    dequantize: float | None = setting("data", None, gt=0.0)
    """Width of a grey level or of an integer's step in the data's own units: uniform noise of that width is added to every
    number, so that the rows have a density (digits: 1; mnist: 0.0039215686; integers: 1); undone on output."""
    n: int | None = setting("data", None, ge=2, basic=True)
    """Use the first n rows after the seeded shuffle (toys: how many to draw, 10,000 if not given)."""
    validation_fraction: float = setting("data", 0.1, ge=0.0, lt=1.0)
    """Share of the rows held out for evaluation; MNIST has a test split of its own."""

    def unscaled(self) -> "Data":
        """The same rows in their own units."""
        usual = {name: type(self).model_fields[name].default for name in names_of(Data, "scaling")}
        return self.model_copy(update=usual | {"standardize": False})

    @field_validator("path", mode="before")
    @classmethod
    def _paths_are_text(cls, value: Any) -> Any:
        """The same text for the same path, and a URI as it is: Python's `Path` would make one slash of its two."""
        if value == "":
            # A shell's variable that is not set: as a path it would be the folder where the command runs.
            raise ValueError("expected a path or a URI, found ''")
        if isinstance(value, str | Path) and not is_uri(value):
            return str(Path(value))
        return value


class Reference(Section):
    """The Gaussian mixture that is prior of the generator and stationary law of the noising."""

    n_components: int = setting("training", 10, ge=1, basic=True)
    """Mixture components K (the most it may use, if reference.bayesian)."""
    covariance_type: Literal["spherical", "tied", "diag", "full"] = setting(
        "training", "spherical", basic=True
    )
    """Shape of the component covariances."""
    bayesian: bool = setting("training", False)
    """Infer how many components are needed (BayesianGaussianMixture)."""
    fit_samples: int = setting("training", 10_000, ge=2)
    """Rows the mixture is fitted on (at most; drawn at random)."""
    reg_covar: float = setting("training", 1e-6, gt=0.0)
    """Variance added to the covariances' diagonal; bounds the smallest eigenvalue from below."""
    init_params: Literal["kmeans", "k-means++", "random_from_data"] = setting("training", "kmeans")
    """What the fit starts from, as scikit-learn calls it: k-means' clusters, its spread-out seeds, or rows at random."""
    n_init: int = setting("training", 1, ge=1)
    """Initialisations of the fit; the best is kept."""


class Grid(Section):
    """The forward time grid."""

    kind: Literal["uniform", "geometric", "importance"] = setting("training", "uniform")
    """Equal steps; steps that grow geometrically from process.last_dt up to the stable size; or steps from process.last_dt on
    over which g²/V grows by the same, which makes the weight by V(t) the likelihood's."""
    steps: int = setting("training", 50, ge=1)
    """Steps from time 0 to the horizon."""
    jitter: float = setting("training", 0.9, ge=0.0, lt=1.0)
    """Each group of trajectories moves its grid by up to this fraction of a step, so that the network sees
    all times and not just the grid's own."""


class Process(Section):
    """The forward noising dY = -f(Y, t) dt + g(t) dW."""

    kind: Literal["langevin", "vp", "ve", "subvp", "ou"] = setting("training", "langevin", basic=True)
    """Nonlinear, f = -grad log(mixture density) and g = sqrt(2); or linear with a known transition law."""
    beta_min: float = setting("training", 0.1, gt=0.0)
    """β at time 0 (vp, subvp)."""
    beta_max: float = setting("training", 20.0, gt=0.0)
    """β at the horizon (vp, subvp)."""
    sigma_min: float = setting("training", 0.01, gt=0.0)
    """Noise scale at time 0, data units (ve)."""
    sigma_max: float | None = setting("training", 20.0, gt=0.0)
    """Noise scale at the horizon, data units (ve); null: the largest distance between two training rows."""
    horizon: float = setting("training", 0.5, gt=0.0, basic=True)
    """Final time T, in the process's own time unit (squared data units)."""
    grid: Grid = Grid()
    last_dt: float | None = setting("training", 1e-3, gt=0.0)
    """Size of the recorded example's own last step (the paper's Δt_N); the grid's own step if null."""
    integrator: Literal["auto", "euler-maruyama", "exponential"] = setting("training", "euler-maruyama")
    """One-step scheme of the simulation; the exponential one is exact while a path stays in its mixture component,
    and stable for any step. auto: exponential where the process has a mixture and the objective takes it, else
    euler-maruyama."""


WITH_EPSILON = ("ndsm-cv", "path")
"""Objectives whose control variate has a factor ε(t)."""


class Epsilon(Section):
    """The factor ε(t) of the control variate (Theorem 3.2); for objective.kind ndsm-cv and path."""

    kind: Literal["constant", "piecewise-linear", "closed-form", "network"] = setting(
        "training", "closed-form"
    )
    """A fixed value, fixed values joined by lines, the minimiser of eq. 22 per bin of log t, or the paper's network
    ε_φ."""
    value: float = setting("training", 0.0, adjustable=True)
    """The constant. ndsm-cv: 0 is NDSM, 1 undoes the cancellation of Theorem 3.1. path: 0 is implicit score matching,
    1 is closest to denoising score matching."""
    values: tuple[float, ...] = setting("training", (1.0, 0.0), min_length=2, adjustable=True)
    """piecewise-linear: ε at as many times, equally spaced in log t from the smallest trained one to the horizon."""
    every: int = setting("training", 20, ge=1, adjustable=True)
    """Steps between updates of an ε that learns (the paper's N_CV)."""
    bins: int = setting("training", 20, ge=1)
    """Bins of log t of the closed form; 1 makes it a constant."""
    lr: float = setting("training", 1e-3, gt=0.0, adjustable=True)
    """Adam's learning rate for the network ε_φ."""


class Objective(Section):
    """What is minimised."""

    kind: Literal["ndsm", "ndsm-cv", "antithetic", "path", "dsm", "mixture-dsm", "sliced"] = setting(
        "training", "ndsm", basic=True
    )
    """NDSM (Theorem 3.1); with a control variate (Theorem 3.2); averaged over both signs of the last increment;
    with a control variate from the whole path; denoising score matching (linear processes); each point noised by
    its own component's linear process; sliced score matching, which takes any process."""
    epsilon: Epsilon = Epsilon()
    weighting: Literal["none", "variance", "likelihood"] = setting("training", "variance")
    """Weight of an example at time t: 1; V(t), the variance the noising has added by then; or what makes the loss a bound on
    the likelihood, g(t)² over the density of the grid's times."""


Residual = bool | Literal["fading"]
"""Whether the stationary score is part of the model's."""


class Network(Section):
    """The score network s(y, t)."""

    kind: Literal["mlp", "resmlp", "unet", "diffusers"] = setting("training", "mlp", basic=True)
    """Plain multilayer perceptron (the paper's), one of residual blocks modulated by the time, or, for rows that are
    square grey images, pixel row by pixel row, the paper's U-Net or the one of the diffusers library (optional)."""
    width: int = setting("training", 32, ge=1, basic=True)
    """Units per hidden layer; channels of a U-Net's first level, a multiple of 8, doubled at each further one."""
    depth: int = setting("training", 7, ge=1, basic=True)
    """Hidden layers (mlp), residual blocks (resmlp), or levels of a U-Net, each at half the side of the one before
    (the paper's has 4)."""
    residual: Residual = setting("training", True)
    """Learn the difference from the stationary score: s = -grad V + net/scale; `fading` multiplies -grad V by
    V(t)/V(T), which goes to 0 with t."""
    output_scale: Literal["none", "std"] = setting("training", "std")
    """Divide the network's output by 1 or by sqrt(V(t))."""
    time_features: int = setting("training", 8, ge=0)
    """Random Fourier features of log t beside log t itself."""
    classes: Annotated[int, Field(ge=0, lt=2**15)] | Literal["auto"] = setting("training", 0, basic=True)
    """Number of labels that the score is learned for, beside the score without; 0 learns the latter alone, auto counts the
    different labels of the data. Digits, MNIST, toys and image folders have labels of their own, tables those of
    data.labels."""
    label_dropout: float = setting("training", 0.1, ge=0.0, le=1.0)
    """Share of the examples whose label is dropped: what the score without a label is learned from."""
    time_scale: float = setting("training", 1.0, gt=0.0)
    """Standard deviation of those features' frequencies; large ones are wrong between trained times."""

    @property
    def class_count(self) -> int:
        """`classes` of a configuration whose data have been counted."""
        if self.classes == "auto":
            raise InputError("network.classes: expected a number here, found 'auto'")
        return self.classes


class Train(Section):
    """The optimisation, and the machine it runs on."""

    steps: int = setting("protocol", 10_000, ge=1, basic=True)
    """Optimiser steps."""
    batch_rows: int = setting("training", 250, ge=1, basic=True)
    """Rows per optimiser step, over all workers."""
    accumulate: int = setting("execution", 1, ge=1)
    """Micro-batches per optimiser step: each worker's rows are split into as many, which bounds the memory."""
    lr: float = setting("training", 1e-3, gt=0.0, adjustable=True, basic=True)
    """Adam's learning rate."""
    lr_schedule: Literal["constant", "cosine"] = setting("training", "cosine")
    """Learning rate over the run: constant, or a cosine down to 0."""
    ema: float = setting("training", 0.999, ge=0.0, lt=1.0)
    """Decay per step of the exponential moving average of the weights; 0 keeps the raw weights."""
    grad_clip: float = setting("training", 10.0, gt=0.0, allow_inf_nan=True)
    """Largest gradient norm; a larger gradient is scaled down to it."""
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
    """Training workers (data-parallel), one CPU or GPU each; or "min,max": as many as the cluster has room for."""
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
    again and again. It has to exceed the time that a block takes."""
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
                "objective.kind 'dsm' needs a process whose transition law is known: vp, ve, subvp or ou"
            )
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


def describe(error: ValidationError) -> list[str]:
    """A sentence for each problem that pydantic found, beginning with the field's dotted name."""
    sentences = []
    unions: dict[tuple[str, str], list[str]] = {}
    for e in error.errors():
        where = ".".join(str(p) for p in e["loc"])
        inner = e.get("ctx", {}).get("error")
        if isinstance(inner, FieldErrors):
            sentences += [f"{where}.{problem}" for problem in inner.problems]
        elif e["type"] in ("value_error", "missing"):
            message = e["msg"].removeprefix("Value error, ")
            sentences.append(f"{where}: {message}" if where else message)
        elif len(e["loc"]) > 1 and isinstance(e["loc"][-1], str):
            # One error for each type of a union, whose name ends the location.
            unions.setdefault((str(e["loc"][0]), repr(e["input"])), []).append(e["msg"])
        else:
            sentences.append(f"{where}: {e['msg']}, found {e['input']!r}")
    start = "Input should be "
    for (field, given), messages in unions.items():
        wanted = " or ".join(message.removeprefix(start) for message in messages)
        sentences.append(f"{field}: {start}{wanted}, found {given}")
    return sentences


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"
