"""What `make same` runs with both trees: trainings, each with the commands that follow it on its run.

Only what users can name is used here (commands, options, `ndsm.*`), so that the same list runs with a tree whose modules have
other names. `tests/unit/test_same.py` checks that every value of every choice in the configuration has a case.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Literal

LOCAL = {"train.report_seconds": "inf", "train.checkpoint_seconds": "inf", "train.device": "cpu"}
"""Nothing that is compared may depend on the clock: neither does the loss, of which one mean is reported, at the end."""

SMALL: dict[str, Any] = {
    **LOCAL,
    "train.steps": 12,
    "train.batch_rows": 48,
    "train.block_mb": 0.05,
    "process.grid.steps": 10,
    "network.width": 8,
    "network.depth": 2,
    "process.horizon": 0.5,
    "reference.n_components": 3,
    "reference.reg_covar": 0.3,
    "sample.steps": 16,
}
"""A training of a moment, wide enough a mixture for Euler-Maruyama in few steps."""

IMAGE: dict[str, Any] = {
    **SMALL,
    "train.steps": 3,
    "train.batch_rows": 8,
    "train.block_mb": 0.5,
    "sample.sampler": "exponential",
    "sample.steps": 4,
    "evaluate.n": 24,
}
"""For U-Nets and rows of hundreds of pixels."""

LINEAR = {
    "vp": ("em", "reverse-diffusion", "ancestral", "pc", "ode", "ode-adaptive", "ddim", "dpmpp-2m"),
    "ve": (
        "em",
        "reverse-diffusion",
        "ancestral",
        "pc",
        "annealed",
        "ode",
        "ode-adaptive",
        "ddim",
        "dpmpp-2m",
    ),
    "subvp": ("em", "reverse-diffusion", "pc", "ode", "ode-adaptive", "ddim", "dpmpp-2m"),
    "ou": ("em", "reverse-diffusion", "ancestral", "pc", "ode", "ode-adaptive", "ddim", "dpmpp-2m"),
}
"""Linear processes, and the samplers that go with each."""
NONLINEAR = ("em", "exponential", "ancestral", "pc", "ode", "ode-adaptive", "flow", "flow2")
"""The samplers of a mixture's noising."""

SCORE = "score run {inputs}/rows.parquet --out logp.parquet"
IMPUTE = "impute run {inputs}/holes.parquet --draws 2 --steps 5 --particles 4 --out imputed.parquet"
FORGET = "forget the last checkpoint"
"""No command of `ndsm`: what follows goes on from the one before."""
GIVEN = "sample run --n 12 --steps 5 --given x0=0.5 --out given.parquet"


@dataclass(frozen=True)
class Case:
    """A training and what follows.

    Args:
        name: what it is called in the output.
        fields: of the configuration, over the preset's.
        door: `fit` trains `ndsm.NDSM` on rows and saves it as the folder `run`; `train` is `ndsm train`; `python` is the function
            of `python_cases.py` of the same name; `ray` is `ndsm train` on Ray, each command in a process of its own.
        then: commands that follow; {inputs} is the folder of `inputs.py`. What they write as `--out` is compared.
        labelled: whether `fit` gets labels.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    door: Literal["fit", "train", "python", "ray"] = "fit"
    preset: str = "table-langevin"
    then: tuple[str, ...] = ()
    labelled: bool = False


def sample(sampler: str, options: str = "") -> str:
    """The command that generates rows by a sampler."""
    return f"sample run --n 40 --seed 3 --steps 24 --sampler {sampler} {options} --out {sampler}.parquet"


PLAIN = "sample run --n 40 --out rows.parquet"


def fits() -> Iterator[Case]:
    """Trainings in Python, which take a fraction of a second each: no evaluation, no report."""

    def fit(name: str, *then: str, labelled: bool = False, **fields: Any) -> Case:
        dotted = {key.replace("__", "."): value for key, value in fields.items()}
        return Case(name, {**SMALL, **dotted}, then=then or (PLAIN,), labelled=labelled)

    # Objectives and the factor of their control variates.
    for kind in ("ndsm", "antithetic", "mixture-dsm", "sliced"):
        yield fit(f"objective {kind}", objective__kind=kind)
    for kind in ("ndsm-cv", "path"):
        for epsilon in ("constant", "piecewise-linear", "closed-form", "network"):
            yield fit(
                f"objective {kind}, epsilon {epsilon}",
                objective__kind=kind,
                objective__epsilon__kind=epsilon,
                objective__epsilon__every=4,
                **({"objective__epsilon__value": 0.5} if epsilon == "constant" else {}),
            )
    for kind in ("ndsm", "path"):
        for last_dt, integrator in (
            (None, "euler-maruyama"),
            (1e-3, "exponential"),
            (1e-3, "euler-maruyama"),
        ):
            yield fit(
                f"objective {kind}, {integrator}, last step {last_dt}",
                objective__kind=kind,
                process__integrator=integrator,
                process__last_dt=last_dt,
                process__grid__steps=40,
            )
    for weighting in ("none", "variance", "likelihood"):
        yield fit(f"weighting {weighting}", objective__weighting=weighting)
    yield fit(
        "weighting likelihood, vp",
        process__kind="vp",
        objective__kind="dsm",
        objective__weighting="likelihood",
    )
    # Processes, grids and samplers.
    for grid in ("uniform", "geometric", "importance"):
        yield fit(f"grid {grid}", process__grid__kind=grid, process__grid__jitter=0.5)
        yield fit(f"grid {grid}, vp", process__grid__kind=grid, process__kind="vp", objective__kind="dsm")
    for kind, samplers in LINEAR.items():
        commands = (
            *map(sample, samplers),
            SCORE,
            f"{SCORE.replace('logp', 'bound')} --bound 4",
            IMPUTE,
            GIVEN,
        )
        # At time 0 sub-VP adds no noise at all, which objectives of single steps divide by.
        for objective in ("dsm",) if kind == "subvp" else ("dsm", "ndsm", "antithetic", "sliced"):
            yield fit(
                f"process {kind}, {objective}",
                *(commands if objective == "dsm" else ()),
                process__kind=kind,
                objective__kind=objective,
                process__horizon=3.0 if kind == "ou" else 1.0,
            )
    yield fit(
        "process ve, largest distance", process__kind="ve", objective__kind="dsm", process__sigma_max=None
    )
    for covariance in ("spherical", "tied", "diag", "full", "auto"):
        yield fit(
            f"process mixture-ou, {covariance}",
            *map(sample, LINEAR["ou"]),
            SCORE,
            f"{SCORE.replace('logp', 'bound')} --bound 4",
            IMPUTE,
            GIVEN,
            "sample run --n 20 --mode-weights 0,1,3 --out modes.parquet" if covariance != "auto" else PLAIN,
            process__kind="mixture-ou",
            process__horizon=3.0,
            objective__kind="dsm",
            objective__weighting="velocity",
            network__output_scale="velocity",
            reference__covariance_type=covariance,
            **({"reference__n_components": "auto"} if covariance == "auto" else {}),
        )
    for covariance in ("spherical", "tied", "diag", "full"):
        yield fit(
            f"form marginal, {covariance}",
            *map(sample, ("ode", "ode-adaptive", "ddim", "dpmpp-2m")),
            SCORE,
            process__kind="mixture-ou",
            process__form="marginal",
            process__horizon=3.0,
            objective__kind="dsm",
            objective__weighting="velocity",
            objective__mirrored=covariance == "diag",
            network__output_scale="velocity",
            sample__sampler="dpmpp-2m",
            reference__covariance_type=covariance,
        )
    yield fit("the likeliest component", objective__kind="mixture-dsm", objective__component="likeliest")
    yield fit("early stopping", train__patience=1, train__validation_steps=10, train__held_out_fraction=0.2)
    yield fit("mirrored noise, vp", process__kind="vp", objective__kind="dsm", objective__mirrored=True)
    yield fit("mirrored noise, mixture-dsm", objective__kind="mixture-dsm", objective__mirrored=True)
    for covariance in ("spherical", "tied", "diag", "full"):
        yield fit(
            f"process langevin, {covariance}",
            *map(sample, NONLINEAR),
            SCORE,
            f"{SCORE.replace('logp', 'probes')} --probes 3 --seed 5 --end 0.01",
            IMPUTE,
            GIVEN,
            reference__covariance_type=covariance,
            objective__kind="path",
        )
        yield fit(f"bayesian {covariance}", reference__covariance_type=covariance, reference__bayesian=True)
        yield fit(
            f"whitening, {covariance}",
            *map(sample, ("exponential", "flow")),
            SCORE,
            data__whiten="within-mode",
            data__whiten_components=3,
            reference__covariance_type=covariance,
        )
    for start in ("kmeans", "k-means++", "random_from_data"):
        yield fit(f"mixture from {start}", reference__init_params=start, reference__n_init=2)
    yield fit("mixture of few rows", reference__fit_samples=60, reference__reg_covar=0.5)
    # Settings of a sampler.
    for sampler, kind in (
        ("flow", "langevin"),
        ("flow2", "langevin"),
        ("ancestral", "langevin"),
        ("dpmpp-2m", "vp"),
    ):
        for setting, value in {
            "noise": 0.5,
            "power": 2.0,
            "signal": 0.1,
            "end": 0.02,
            "slope_error": 0.0,
        }.items():
            if setting != "slope_error" or kind == "langevin":
                yield fit(
                    f"{sampler}, {setting}",
                    process__kind=kind,
                    objective__kind="ndsm" if kind == "langevin" else "dsm",
                    sample__sampler=sampler,
                    **{f"sample__{setting}": value},
                )
    yield fit("noise of a step", sample("flow", "--noise 0.7"), sample("ancestral", "--noise 0.3"))
    # Networks and the optimiser.
    for network in ("mlp", "resmlp"):
        for residual in (True, False, "fading"):
            yield fit(
                f"network {network}, residual {residual}", network__kind=network, network__residual=residual
            )
    yield fit("network without output scale", network__output_scale="none", network__time_features=0)
    yield fit("network's time", network__time_features=5, network__time_scale=2.0)
    yield fit("learning rate constant, no average", train__lr_schedule="constant", train__ema=0.0)
    yield fit("learning rate cosine", train__lr_schedule="cosine", train__grad_clip=0.01)
    yield fit("micro-batches", train__accumulate=3)
    yield fit("reuse of rows", train__samples_per_insert=4.0, train__ring_blocks=2, train__times_per_path=2)
    yield fit("many blocks", train__block_mb=0.01, train__min_blocks=3, train__steps=40)
    yield fit("bfloat16", train__precision="bfloat16")
    yield fit("not standardised", data__standardize=False)
    yield fit("seed", train__seed=7)
    # Labels.
    for kind in ("langevin", "vp", "mixture-ou"):
        yield fit(
            f"labels, {kind}",
            PLAIN,
            "sample run --n 20 --label b --out label.parquet",
            "sample run --n 20 --label a --guidance 2 --sampler em --out guidance.parquet",
            "sample run --n 20 --with-labels --guidance 1.5 --out with-labels.parquet",
            SCORE,
            labelled=True,
            process__kind=kind,
            objective__kind="path" if kind == "langevin" else "dsm",
            network__label_dropout=0.3,
        )


def trainings() -> Iterator[Case]:
    """Trainings from the command line: data, evaluation and report."""

    def train(name: str, preset: str, *then: str, small: Mapping[str, Any] = SMALL, **fields: Any) -> Case:
        dotted = {key.replace("__", "."): value for key, value in fields.items()}
        return Case(name, {"evaluate.n": 40, **small, **dotted}, "train", preset, then or (PLAIN,))

    toy = {"data__n": 200}
    yield train("preset toy-arcs", "toy-arcs", PLAIN, "evaluate run --n 30", reference__n_init=2, **toy)
    yield train("preset digits", "digits", PLAIN, sample("flow"), data__n=300)
    yield train(
        "preset table-langevin",
        "table-langevin",
        PLAIN,
        "sample run --n 20 --label b --guidance 2 --out label.csv",
        "score run {inputs}/table.parquet --out logp.parquet",
        "impute run {inputs}/table-holes.parquet --draws 2 --steps 5 --out imputed.parquet",
        data__path="{inputs}/table.parquet",
        data__labels="kind",
        network__classes="auto",
    )
    yield train(
        "preset table",
        "table",
        PLAIN,
        "sample run --n 20 --label b --guidance 2 --out label.csv",
        "sample run --n 20 --class-weights a=1,b=3 --out classes.csv",
        "score run {inputs}/table.parquet --out logp.parquet",
        "impute run {inputs}/table-holes.parquet --draws 2 --steps 5 --out imputed.parquet",
        data__path="{inputs}/table.parquet",
        data__labels="kind",
        network__classes="auto",
    )
    yield train(
        "text, some columns, another separator",
        "table-langevin",
        "sample run --n 30 --out rows.npy",
        data__path="{inputs}/table.csv",
        data__columns=("height", "count"),
        data__csv__delimiter=";",
        data__csv__decimal_point=",",
        data__csv__skip_rows=1,
    )
    yield train(
        "table .npy, no evaluation rows",
        "table-langevin",
        data__path="{inputs}/rows.npy",
        data__validation_fraction=0.0,
    )
    for name in ("rings", "checkerboard", "gaussians"):
        yield train(f"data {name}", "toy-arcs", data__name=name, **toy)
    yield train(
        "resumed",
        "toy-arcs",
        FORGET,
        "train toy-arcs --local --quiet --out . --name run {fields}",
        PLAIN,
        train__checkpoint_seconds=1e-9,
        **toy,
    )
    yield train("folder of parts", "toy-arcs", "sample run --n 50 --local --out parts", **toy)
    yield train(
        "symmetry and dequantizing",
        "digits",
        PLAIN,
        "score run {inputs}/digits.npy --out logp.parquet",
        data__n=200,
        data__symmetry="c2",
        data__dequantize=1.0,
    )
    for kind in ("unet", "diffusers"):
        yield train(
            f"network {kind}",
            "digits",
            small=IMAGE,
            data__n=100,
            network__kind=kind,
            reference__covariance_type="diag",
        )
    yield train(
        "data images",
        "digits",
        small=IMAGE,
        data__name="images",
        data__path="{inputs}/images",
        network__classes="auto",
    )
    for preset in ("mnist", "mnist-latent", "c2-mnist"):
        yield train(f"preset {preset}", preset, small=IMAGE, data__root="{inputs}/mnist", data__n=128)
    yield train(
        "c2-mnist, symmetry", "c2-mnist", small=IMAGE, data__root="{inputs}/mnist", data__symmetry="c2"
    )
    yield train(
        "variance of gradients",
        "toy-arcs",
        "bench variance toy-arcs {fields} --n 100 --steps 5 --objectives "
        "ndsm-eps0,ndsm-eps1,ndsm-cv,antithetic,path,path-eps0,path-eps1 --out variance.json",
        **toy,
    )


PYTHON = (
    "own drift",
    "own drift without a known law",
    "objects as objectives",
    "labels in Python",
    "missing numbers in Python",
    "reconstruction",
    "reconstruction, vp",
    "denoising",
    "second-order score",
    "data frames",
    "mixture",
    "opened run",
)
"""Names of the functions of `python_cases.py`."""

RAY = (
    Case(
        "training and generation on Ray",
        {**SMALL, "data.n": 200, "evaluate.n": 40, "train.simulators": 2},
        "ray",
        "toy-arcs",
        ("sample run --n 50 --out parts",),
    ),
)

CASES = (*fits(), *trainings(), *(Case(name, door="python") for name in PYTHON))


def chosen(cases: Sequence[Case], pattern: str) -> list[Case]:
    """The cases whose names contain a pattern or fit it, as of a shell."""
    return [case for case in cases if pattern in case.name or fnmatch(case.name, pattern)]
