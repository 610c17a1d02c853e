"""The configuration: every mistake is one sentence with the field's dotted name and what was found."""

import contextlib
import math
from typing import get_args

import pytest
import yaml

from ndsm.config import Config, build_config, flatten, load_config, merge, preset_names, read_preset
from ndsm.config.roles import DEFINING, Role, leaf_fields, names_of
from ndsm.errors import InputError
from ndsm.runs.identity import training_hash


def test_every_preset_is_a_valid_configuration():
    assert preset_names() == [
        "c2-mnist",
        "digits",
        "mnist",
        "mnist-latent",
        "table",
        "table-langevin",
        "toy-arcs",
        "vectors",
    ]
    for name in preset_names():
        overrides = {"data.path": "table.csv"} if name in ("table", "table-langevin", "vectors") else {}
        fields = flatten(load_config(name, overrides))
        stated = [
            (f"{section}.{k}", v) for section, node in read_preset(name).items() for k, v in node.items()
        ]
        assert stated
        for field, value in stated:
            assert isinstance(value, dict) or fields[field] == value


def test_the_defaults_are_a_valid_configuration():
    assert build_config({}, "nothing") == Config()


@pytest.mark.parametrize(
    ("overrides", "name", "found"),
    [
        ({"train.stepz": 5}, "train.stepz", "found 5"),
        ({"trian": {"steps": 5}}, "trian", "found {'steps': 5}"),
        ({"process.grid.stepz": 5}, "process.grid.stepz", "found 5"),
        ({"train.steps": "many"}, "train.steps", "found 'many'"),
        ({"train.steps": 2.5}, "train.steps", "found 2.5"),
        ({"data.name": "moons"}, "data.name", "found 'moons'"),
        ({"reference.covariance_type": "round"}, "reference.covariance_type", "found 'round'"),
        ({"train.steps": 0}, "train.steps", "found 0"),
        ({"train.lr": -1.0}, "train.lr", "found -1.0"),
        ({"train.ema": 1.0}, "train.ema", "found 1.0"),
        ({"process.grid.jitter": 1.0}, "process.grid.jitter", "found 1.0"),
        ({"process.last_dt": 0.0}, "process.last_dt", "found 0.0"),
        ({"process.horizon": 0.0}, "process.horizon", "found 0.0"),
        ({"data.validation_fraction": 1.0}, "data.validation_fraction", "found 1.0"),
        ({"process.horizon": math.inf}, "process.horizon", "finite number, found inf"),
        ({"data.dequantize": math.inf}, "data.dequantize", "finite number, found inf"),
        ({"objective.epsilon.value": math.nan}, "objective.epsilon.value", "finite number, found nan"),
        ({"train.seed": -1}, "train.seed", "found -1"),
        ({"train": None}, "train", "found None"),
    ],
)
def test_a_bad_field_is_named_with_what_was_found(overrides, name, found):
    with pytest.raises(InputError) as caught:
        load_config("toy-arcs", overrides)
    sentence = str(caught.value)
    assert sentence.startswith(f"toy-arcs: {name}:")
    assert found in sentence
    assert "\n" not in sentence
    assert "http" not in sentence


def test_what_may_be_without_limit_may_be_infinite():
    assert load_config("toy-arcs", {"train.grad_clip": math.inf}).train.grad_clip == math.inf
    assert (
        load_config("toy-arcs", {"train.checkpoint_seconds": math.inf}).train.checkpoint_seconds == math.inf
    )


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"data.path": "x.csv"}, ["data.path", "'arcs'"]),
        ({"data.columns": ["a"]}, ["data.columns", "'arcs'"]),
        ({"train.times_per_path": 200}, ["train.times_per_path 200", "process.grid.steps 40"]),
        ({"train.workers": 3}, ["train.batch_rows 250", "train.workers 3"]),
        (
            {"train.workers": 2, "train.accumulate": 4},
            ["train.batch_rows 250", "workers 2", "train.accumulate 4"],
        ),
        (
            {"data.name": "vectors", "data.columns": ["a"], "data.labels": "a"},
            ["data.labels 'a'", "data.columns"],
        ),
        ({"train.min_blocks": 20}, ["train.min_blocks 20", "train.ring_blocks 16"]),
        (
            {"data.symmetry": "c2"},
            ["data.symmetry 'c2'", "'digits', 'mnist', 'c2-mnist' or 'images', found 'arcs'"],
        ),
        ({"data.name": "vectors", "data.symmetry": "c2"}, ["data.symmetry 'c2'", "found 'vectors'"]),
        ({"data.name": "mnist-latent", "data.symmetry": "c2"}, ["data.symmetry", "found 'mnist-latent'"]),
        ({"data.dequantize": 1.0}, ["data.dequantize", "'arcs', found 1"]),
        (
            {"data.name": "mnist-latent", "data.dequantize": 0.1},
            ["data.dequantize", "'mnist-latent', found 0.1"],
        ),
        (
            {"data.name": "digits", "data.whiten": "within-mode", "network.kind": "unet"},
            ["network.kind 'unet'", "data.whiten 'none', found 'within-mode'"],
        ),
    ],
)
def test_fields_that_contradict_one_another_are_both_named(overrides, parts):
    with pytest.raises(InputError) as caught:
        load_config("toy-arcs", overrides)
    assert all(part in str(caught.value) for part in parts)


def test_several_bad_fields_of_one_section_have_their_dotted_names():
    with pytest.raises(InputError) as caught:
        load_config("toy-arcs", {"train.lr": 0, "train.steps": 0})
    assert "train.steps: " in str(caught.value)
    assert "train.lr: " in str(caught.value)


@pytest.mark.parametrize("name", ["toy-arcs", "digits"])
def test_a_tree_is_rebuilt_from_its_flat_form(name):
    config = load_config(name, {"train.lr": 0.25, "process.last_dt": None})
    assert build_config(merge({}, flatten(config)), "flat") == config
    assert flatten(config)["train.lr"] == 0.25
    assert flatten(config)["process.last_dt"] is None


def test_merging_leaves_the_original_alone():
    tree = {"a": {"b": 1, "c": {"d": 2}}}
    merged = merge(tree, {"a.c.d": 3, "a.e.f": 4})
    assert merged == {"a": {"b": 1, "c": {"d": 3}, "e": {"f": 4}}}
    assert tree == {"a": {"b": 1, "c": {"d": 2}}}


def test_a_yaml_file_is_read_like_a_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"data": {"name": "rings"}, "train": {"steps": 7}}))
    config = load_config(str(path), {"train.lr": 0.5})
    assert (config.data.name, config.train.steps, config.train.lr) == ("rings", 7, 0.5)


def test_a_written_configuration_is_read_back(tmp_path):
    config = load_config("digits", {"train.storage": "somewhere", "data.n": 100})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(str(path)) == config


def test_a_missing_preset_lists_the_names():
    with pytest.raises(InputError, match=r"no preset 'digit': expected one of c2-mnist, digits, mnist"):
        load_config("digit")


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1\n- 2\n", "", "just words"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        load_config(str(path))


def test_an_override_into_an_empty_section_is_a_sentence_or_works(tmp_path):
    path = tmp_path / "empty-section.yaml"
    path.write_text("data: {name: arcs}\ntrain:\n")
    with contextlib.suppress(InputError):
        assert load_config(str(path), {"train.steps": 5}).train.steps == 5


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.steps = 3


def test_every_field_says_what_it_decides():
    """A field that says nothing would belong to no hash and no identity."""
    by_role = [set(names_of(Config, role)) for role in get_args(Role)]
    assert all(by_role)
    assert set().union(*by_role) == set(leaf_fields(Config)) == set(flatten(Config()))
    assert sum(map(len, by_role)) == len(leaf_fields(Config))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", leaf_fields(Config))
def test_the_hash_of_a_training_follows_from_the_roles(name):
    """Those of the fields that make it what it is, and no others; whatever a field's type."""

    def changed(section, head, *rest):
        value = changed(getattr(section, head), *rest) if rest else "another"
        return section.model_copy(update={head: value})

    other = training_hash(changed(Config(), *name.split(".")))
    assert (other != training_hash(Config())) == (name in names_of(Config, *DEFINING))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("c2-mnist", "2492288523b26c61"),
        ("digits", "54119e8d5fca8df0"),
        ("mnist", "9b1216f54c47b1e6"),
        ("mnist-latent", "552fecdd39f341b0"),
        ("toy-arcs", "56f6b3636c809b51"),
    ],
)
def test_the_hash_of_a_training_stays_what_it_was(preset, expected):
    """Checkpoints hold it: another one would keep the runs of earlier versions from being resumed."""
    assert training_hash(load_config(preset)) == expected


def test_vectors_is_another_name_of_table():
    fields = {"data.path": "table.csv"}
    assert load_config("vectors", fields) == load_config("table", fields)
