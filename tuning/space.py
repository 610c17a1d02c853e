"""What is searched over: fields of the configuration with the values they may take, and which go together."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import optuna
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ndsm.config import WITH_EPSILON, Config, Epsilon, build_config, flatten, merge
from ndsm.config.model_sections import Reference
from ndsm.config.roles import leaf_fields, names_of
from ndsm.errors import InputError
from ndsm.networks import IMAGE_SIDE
from ndsm.networks.unet import GROUP_CHANNELS

MAX_GRID = 100_000
"""Points beyond which a grid is refused."""
KNOTS = 4
"""Numbers of a piecewise-linear ε(t)."""

Condition = Mapping[str, tuple[Any, ...]]
"""Values of other fields with which a parameter has a meaning."""


@dataclass(frozen=True)
class Choice:
    """One of several values of a field."""

    field: str
    values: tuple[Any, ...]
    when: Condition | None = None

    def suggest(self, trial: optuna.Trial) -> Any:
        """The sampler's choice."""
        return trial.suggest_categorical(self.field, self.values)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Optuna's name for it."""
        return optuna.distributions.CategoricalDistribution(self.values)

    def points(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def __str__(self) -> str:
        return ",".join(str(v) for v in self.values)


@dataclass(frozen=True)
class Range:
    """A number of a field between two ends, both included."""

    field: str
    low: float
    high: float
    log: bool = False
    integer: bool = False
    when: Condition | None = None

    def suggest(self, trial: optuna.Trial) -> float:
        """The sampler's choice."""
        if self.integer:
            return trial.suggest_int(self.field, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.field, self.low, self.high, log=self.log)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Optuna's name for it."""
        if self.integer:
            return optuna.distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.log)

    def points(self) -> tuple[Any, ...]:
        """Both ends and the middle."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        values = (self.low, round(middle) if self.integer else middle, self.high)
        return tuple(dict.fromkeys(int(x) for x in values)) if self.integer else values

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


Parameter = Choice | Range


@dataclass(frozen=True)
class Space:
    """Parameters in an order in which each comes after those that its condition names.

    Args:
        base: the preset; what is not searched is as it says.
        parameters: what is searched.
    """

    base: Config
    parameters: tuple[Parameter, ...]

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """A value for each parameter that has a meaning beside the others, by field."""
        return self._walk(lambda parameter: parameter.suggest(trial))

    def distributions(self, params: Mapping[str, Any]) -> dict[str, optuna.distributions.BaseDistribution]:
        """Optuna's distributions of the parameters that `params` has."""
        return {p.field: p.distribution() for p in self.parameters if p.field in params}

    def preset(self) -> dict[str, Any]:
        """The preset's own values of the parameters that have a meaning for it; it need not lie in the space."""
        values = flatten(self.base)
        return {
            p.field: values[p.field]
            for p in self.parameters
            if p.field in values and _applies(p.when, values)
        }

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the parameters' points, each once.

        Raises:
            InputError: there are more than MAX_GRID.
        """
        size = math.prod(len(p.points()) for p in self.parameters)
        if size > MAX_GRID:
            raise InputError(
                f"--search grid: expected at most {MAX_GRID:,} combinations, found {size:,} of {len(self.parameters)} "
                "fields; leave some out by --freeze, or shorten their --space"
            )
        unique: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
        for point in itertools.product(*(p.points() for p in self.parameters)):
            values = dict(zip((p.field for p in self.parameters), point, strict=True))
            params = self._walk(lambda parameter, values=values: values[parameter.field])  # type: ignore[misc]
            unique[tuple(params.items())] = params
        return list(unique.values())

    def config(self, params: Mapping[str, Any]) -> Config:
        """The configuration with these values.

        Raises:
            InputError: they contradict one another or the rest of the preset.
        """
        fields: dict[str, Any] = {}
        knots = [v for k, v in params.items() if k.startswith("objective.epsilon.values.")]
        for field, value in params.items():
            if not field.startswith("objective.epsilon.values."):
                fields[field] = value
        if knots:
            fields["objective.epsilon.values"] = knots
        kind = fields.get("objective.kind", self.base.objective.kind)
        tree = self.base.model_dump(mode="json")
        # What is left of the preset's ε has no meaning beside another objective.
        if kind not in WITH_EPSILON:
            tree["objective"]["epsilon"] = Epsilon().model_dump(mode="json")
        return build_config(merge(tree, fields), "the search space")

    def describe(self) -> dict[str, str]:
        """Each field's values as they are typed after --space."""
        return {p.field: str(p) for p in self.parameters}

    def _walk(self, pick: Callable[[Parameter], Any]) -> dict[str, Any]:
        values, params = flatten(self.base), {}
        for parameter in self.parameters:
            if _applies(parameter.when, values):
                values[parameter.field] = params[parameter.field] = pick(parameter)
        return params


def _applies(when: Condition | None, values: Mapping[str, Any]) -> bool:
    return all(values[field] in allowed for field, allowed in (when or {}).items())


def make_space(
    base: Config, shape: tuple[int, ...], asked: Mapping[str, str], frozen: tuple[str, ...] = ()
) -> Space:
    """The preset's own space, with the ranges that are asked for and without the frozen fields.

    Args:
        base: the preset.
        shape: (rows, columns) of the data that trials learn from.
        asked: field and range (`1e-4..1e-2`) or choices (`path,ndsm-cv`), as typed.
        frozen: fields that keep the preset's value.

    Raises:
        InputError: an unknown field, an empty or reversed range, a wrong type, or a field both frozen and asked for.
    """
    usual = {p.field: p for p in default_parameters(base, *shape)}
    for field in frozen:
        _field(field, "--freeze")
        if field in asked:
            raise InputError(
                f"--freeze {field}: expected a field that is not searched, found --space.{field} too"
            )
    chosen = {
        field: p
        for field, p in usual.items()
        if not any(field == name or field.startswith(f"{name}.") for name in frozen)
    }
    for field, text in asked.items():
        chosen[field] = parse_parameter(field, text, usual.get(field))
    if not chosen:
        raise InputError("--freeze: expected some field left to search, found none")
    order = {field: i for i, field in enumerate(usual)}
    # Stable: what the preset's space does not have comes last.
    return Space(base, tuple(sorted(chosen.values(), key=lambda p: order.get(p.field, len(order)))))


def parse_parameter(field: str, text: str, usual: Parameter | None = None) -> Parameter:
    """The parameter that `--space.FIELD TEXT` asks for; a field's usual scale and condition are kept."""
    where = f"--space.{field}"
    info = _field(field, "--space")
    when = usual.when if usual else None
    if ".." not in text:
        values = tuple(
            dict.fromkeys(_value(info, part.strip(), where) for part in text.split(",") if part.strip())
        )
        if not values:
            raise InputError(
                f"{where}: expected choices such as a,b or a range such as 1e-4..1e-2, found {text!r}"
            )
        return Choice(field, values, when)
    ends = [_value(info, part.strip(), where) for part in text.split("..", 1)]
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in ends):
        raise InputError(
            f"{where}: expected choices such as a,b of a field that is no number, found {text!r}"
        )
    low, high = ends
    if not low < high:
        kind = "an empty" if low == high else "a reversed"
        raise InputError(f"{where}: expected a range from less to more, found {kind} one, {text}")
    log = usual.log if isinstance(usual, Range) else low > 0 and high >= 10 * low
    return Range(field, low, high, log and low > 0, isinstance(low, int) and isinstance(high, int), when)


def _field(name: str, option: str) -> FieldInfo:
    """The configuration's field of a dotted name."""
    fields = leaf_fields(Config)
    if any(known.startswith(f"{name}.") for known in fields):
        raise InputError(f"{option}: expected a field of the configuration, found the section {name!r}")
    if name not in fields:
        raise InputError(
            f"{option}: expected a field of the configuration such as process.last_dt, found {name!r}"
        )
    if name not in names_of(Config, "training"):
        raise InputError(
            f"{option}: expected a field that can differ between trials, found {name}: data, seeds, generation, training "
            "steps and machine are the same for all"
        )
    return fields[name]


def _value(info: FieldInfo, text: str, where: str) -> Any:
    annotated: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotated)
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        raise InputError(f"{where}: {error.errors()[0]['msg']}, found {text!r}") from None


def default_parameters(base: Config, rows: int, dimension: int) -> Iterator[Parameter]:
    """What is worth searching around a preset, given (rows, dimension) of its training data."""
    nonlinear = base.process.kind == "langevin"
    cv = {"objective.kind": WITH_EPSILON}

    def near(field: str, value: float, below: float, above: float, integer: bool = False) -> Range:
        low, high = value / below, value * above
        if integer:
            low, high = max(1, round(low)), max(2, round(high))
        return Range(field, low, high, log=True, integer=integer)

    if nonlinear:
        k = base.reference.n_components
        if k == "auto":
            k = Reference().n_components
        assert isinstance(k, int)
        most = max(4, min(3 * k, rows // 10))
        yield Range("reference.n_components", max(1, min(k, most) // 2), most, log=True, integer=True)
        types = ("spherical", "tied", "diag", "full") if dimension <= 16 else ("spherical", "diag")
        yield Choice("reference.covariance_type", types)
        yield Choice("reference.bayesian", (False, True))
        least, fitted = max(500, 10 * most), base.reference.fit_samples
        if least < rows:
            ends = min(least, fitted), max(rows, fitted)
            yield Range("reference.fit_samples", *ends, log=True, integer=True)
    yield near("process.horizon", base.process.horizon, 2, 2)
    yield Choice("process.grid.kind", tuple(dict.fromkeys(("uniform", "geometric", base.process.grid.kind))))
    yield near("process.grid.steps", base.process.grid.steps, 2, 2, integer=True)
    if base.process.last_dt is not None:
        yield near("process.last_dt", base.process.last_dt, 10, 10)
    kinds = (
        ("ndsm", "ndsm-cv", "antithetic", "path") if nonlinear else ("dsm", "ndsm", "ndsm-cv", "antithetic")
    )
    yield Choice("objective.kind", ("dsm",) if base.process.kind == "mixture-ou" else kinds)
    yield Choice("objective.epsilon.kind", ("constant", "piecewise-linear", "closed-form", "network"), cv)
    yield Range("objective.epsilon.value", 0.0, 1.0, when=cv | {"objective.epsilon.kind": ("constant",)})
    for i in range(KNOTS):
        field = f"objective.epsilon.values.{i}"
        yield Range(field, 0.0, 1.0, when=cv | {"objective.epsilon.kind": ("piecewise-linear",)})
    learned = cv | {"objective.epsilon.kind": ("network",)}
    yield Range("objective.epsilon.lr", 1e-4, 1e-2, log=True, when=learned)
    learns = cv | {"objective.epsilon.kind": ("closed-form", "network")}
    yield Range("objective.epsilon.every", 10, 200, log=True, integer=True, when=learns)
    spi = base.train.samples_per_insert
    yield near("train.samples_per_insert", spi, 2, 4)
    yield Range("train.times_per_path", 1, min(10, max(2, base.process.grid.steps // 2)), integer=True)
    yield near("train.lr", base.train.lr, 3, 10)
    # A U-Net's channels come in groups.
    step = GROUP_CHANNELS if base.network.kind in IMAGE_SIDE else 1
    widths = {max(step, round(base.network.width * f / step) * step) for f in (0.5, 1, 2)}
    yield Choice("network.width", tuple(sorted(widths)))
