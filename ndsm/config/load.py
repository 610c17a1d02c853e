"""Configurations from presets, files and overrides, and what differs between two of them."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ndsm.config.roles import Role, leaf_fields, names_of
from ndsm.config.schema import Config
from ndsm.errors import InputError

OTHER_NAMES = {"vectors": "table"}
"""Presets by their other names."""
_PRESETS = resources.files("ndsm.config") / "presets"


def preset_names() -> list[str]:
    """Names of the packaged presets, sorted."""
    files = [f.name.removesuffix(".yaml") for f in _PRESETS.iterdir() if f.name.endswith(".yaml")]
    return sorted([*files, *OTHER_NAMES])


def _packaged(preset: str) -> Any:
    return _PRESETS / f"{OTHER_NAMES.get(preset, preset)}.yaml"


def about_preset(preset: str) -> str:
    """The sentence on a packaged preset with which its file begins."""
    if other := OTHER_NAMES.get(preset):
        return f"Another name of {other}."
    first: str = _packaged(preset).read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("# ")


def read_preset(preset: str) -> dict[str, Any]:
    """The fields that a packaged preset or a YAML file sets, not yet checked against the tree.

    Raises:
        InputError: there is no such preset or file, or the file does not hold a mapping.
    """
    packaged = preset in preset_names()
    path = _packaged(preset) if packaged else Path(preset)
    if not path.is_file():
        raise InputError(
            f"no preset {preset!r}: expected one of {', '.join(preset_names())}, or the path of a YAML file"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{preset} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{preset} should hold a mapping of sections, found {type(tree).__name__}")
    return {name: section for name, section in tree.items() if section is not None}


def build_config(tree: dict[str, Any], source: str) -> Config:
    """The checked configuration of a nested mapping; `source` names it in the error message.

    Raises:
        InputError: a field is unknown, has the wrong type or range, or fields contradict one another.
    """
    try:
        return Config(**tree)
    except (InputError, TypeError) as error:
        raise InputError(f"{source}: {error}") from None


def load_config(preset: str, overrides: dict[str, Any] | None = None) -> Config:
    """Configuration of a packaged preset's name or YAML file, with dotted overrides.

    Args:
        preset: a packaged preset's name or a YAML file's path.
        overrides: such as `{"train.lr": 1e-3}`.

    Raises:
        InputError: as `read_preset` and `build_config`.
    """
    return build_config(merge(read_preset(preset), overrides or {}), preset)


def merge(tree: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of a nested mapping with dotted keys replaced."""
    merged = {k: merge(v, {}) if isinstance(v, dict) else v for k, v in tree.items()}
    for key, value in overrides.items():
        *head, last = key.split(".")
        node = merged
        for h in head:
            # An empty section of a YAML file is None.
            node[h] = node.get(h) or {}
            node = node[h]
        node[last] = value
    return merged


def flatten(config: Config) -> dict[str, Any]:
    """{"train.lr": 1e-3, ...}: every field by its dotted name, with JSON values."""
    tree = config.model_dump(mode="json")
    return {name: _at(tree, name) for name in leaf_fields(Config)}


def chosen_values(config: Config) -> dict[str, Any]:
    """The fields that differ from their defaults, by their dotted names, with JSON values."""
    usual = flatten(Config())
    return {name: value for name, value in flatten(config).items() if value != usual[name]}


def differences(a: Config, b: Config, *roles: Role) -> dict[str, tuple[Any, Any]]:
    """Both values of each field of these roles in which a and b differ, by its dotted name."""
    left, right = flatten(a), flatten(b)
    names = names_of(Config, *roles)
    return {name: (left[name], right[name]) for name in names if left[name] != right[name]}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping's values by their dotted names."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        out |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return out


def _at(tree: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        tree = tree[part]
    return tree
