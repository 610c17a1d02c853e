"""The search space: what is searched around a preset, how ranges are typed, and what is refused."""

import optuna
import pytest

from ndsm.cli.options import split_options
from ndsm.config import load_config, preset_names
from ndsm.errors import InputError
from tuning.space import Choice, Range, Space, make_space, parse_parameter

SHAPE = (8000, 2)


def space_of(preset="toy-arcs", ranges=None, frozen=(), **overrides):
    return make_space(load_config(preset, overrides), SHAPE, ranges or {}, frozen)


def sampled(space, n=60, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(n)]


@pytest.mark.parametrize("preset", preset_names())
def test_the_preset_lies_in_its_own_space_and_is_its_own_configuration(preset):
    space = space_of(preset)
    params = space.preset()
    assert space.config(params) == space.base
    distributions = space.distributions(params)
    assert distributions.keys() == params.keys()
    assert [k for k, d in distributions.items() if not d._contains(d.to_internal_repr(params[k]))] == []


def test_only_parameters_with_a_meaning_beside_the_others_are_suggested():
    seen = set()
    for params in sampled(space_of(), 200):
        kind, epsilon = params["objective.kind"], params.get("objective.epsilon.kind")
        assert (epsilon is not None) == (kind in ("ndsm-cv", "path"))
        assert ("objective.epsilon.value" in params) == (epsilon == "constant")
        assert ("objective.epsilon.lr" in params) == (epsilon == "network")
        assert ("objective.epsilon.every" in params) == (epsilon in ("network", "closed-form"))
        knots = [k for k in params if k.startswith("objective.epsilon.values.")]
        assert len(knots) == (4 if epsilon == "piecewise-linear" else 0)
        seen.add((kind, epsilon))
    assert len(seen) == 10


def test_every_suggestion_of_the_usual_space_agrees_with_itself():
    space = space_of()
    for params in sampled(space):
        config = space.config(params)
        assert config.network.width == params["network.width"]
        if params.get("objective.epsilon.kind") == "piecewise-linear":
            assert config.objective.epsilon.values == tuple(
                params[f"objective.epsilon.values.{i}"] for i in range(4)
            )


def test_a_combination_that_contradicts_itself_is_refused_with_the_reason():
    space = space_of(ranges={"process.grid.steps": "4..8", "train.times_per_path": "6..9"})
    with pytest.raises(InputError, match=r"exceeds process\.grid\.steps"):
        space.config({**space.preset(), "process.grid.steps": 4, "train.times_per_path": 9})


def test_ranges_and_choices_are_read_in_the_fields_type():
    assert parse_parameter("process.last_dt", "1e-4..1e-2") == Range("process.last_dt", 1e-4, 1e-2, log=True)
    assert parse_parameter("train.ema", "0.9..0.99") == Range("train.ema", 0.9, 0.99)
    assert parse_parameter("network.depth", "2..5") == Range("network.depth", 2, 5, integer=True)
    assert parse_parameter("network.width", "32,64") == Choice("network.width", (32, 64))
    assert parse_parameter("reference.bayesian", "true,false") == Choice("reference.bayesian", (True, False))
    assert parse_parameter("network.residual", "fading,true").values == ("fading", True)


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("process.lastdt", "1..2", "field of the configuration such as process.last_dt, found 'process.lastdt'"),
        ("process", "1..2", "found the section 'process'"),
        ("process.last_dt", "1e-2..1e-4", "found a reversed one"),
        ("process.last_dt", "1e-2..1e-2", "found an empty one"),
        ("process.last_dt", "..1e-2", "found ''"),
        ("process.last_dt", "-1..1e-2", "greater than 0, found '-1'"),
        ("process.last_dt", ",", "expected choices such as a,b or a range"),
        ("objective.kind", "ndsm..path", "field that is no number"),
        ("objective.kind", "ndsm,magic", "found 'magic'"),
        ("train.seed", "0..3", "data, seeds, generation"),
        ("data.whiten", "none", "data, seeds, generation"),
    ],
)  # fmt: skip
def test_a_wrong_range_is_one_sentence(field, text, says):
    with pytest.raises(InputError) as error:
        parse_parameter(field, text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_frozen_fields_keep_the_presets_value():
    space = space_of(frozen=("objective.kind", "objective.epsilon.values", "train.lr"))
    for params in sampled(space, 10):
        assert not {"objective.kind", "train.lr"} & params.keys()
        config = space.config(params)
        assert (config.objective.kind, config.train.lr) == ("path", space.base.train.lr)


def test_a_field_is_not_frozen_and_searched_at_once():
    with pytest.raises(InputError, match=r"found --space\.train\.lr too"):
        space_of(ranges={"train.lr": "1e-4..1e-3"}, frozen=("train.lr",))
    with pytest.raises(InputError, match="--freeze: expected a field"):
        space_of(frozen=("train.rate",))


def test_a_grid_has_every_combination_once():
    base = load_config("toy-arcs")
    kinds = Choice("objective.kind", ("ndsm", "path"))
    every = Range("objective.epsilon.every", 10, 90, integer=True, when={"objective.kind": ("path",)})
    grid = Space(base, (kinds, every)).grid()
    assert sorted(map(str, grid)) == sorted(
        map(
            str,
            [
                {"objective.kind": "ndsm"},
                *({"objective.kind": "path", "objective.epsilon.every": n} for n in (10, 50, 90)),
            ],
        )
    )
    with pytest.raises(InputError, match="at most 100,000 combinations"):
        space_of().grid()


def test_space_options_are_told_from_the_others():
    args = [
        "toy-arcs",
        "--space.process.last-dt",
        "1e-4..1e-2",
        "--trials",
        "3",
        "--space.network.width=8,16",
    ]
    rest, ranges = split_options(args, "--space.")
    assert rest == ["toy-arcs", "--trials", "3"]
    assert ranges == {"process.last_dt": "1e-4..1e-2", "network.width": "8,16"}
    with pytest.raises(InputError, match="expected a range such as"):
        split_options(["--space.train.lr", "--trials", "3"], "--space.")
