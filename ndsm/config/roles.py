"""What a field of the configuration decides, written on the field itself.

Whatever depends on a choice of fields (what has to be equal for a run to be resumed, hashes, what identifies generated rows,
what a search may vary, the sections of `--help` and the documentation's table) is derived from these roles.
"""

import json
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

Role = Literal["data", "scaling", "training", "protocol", "execution", "sampling", "evaluation", "storage"]
"""data: which rows are learned; scaling: how they are scaled; training: what is trained on them; protocol: seed and length, which
runs that are compared with one another have in common; execution: how the work is distributed, timed and saved; sampling:
how rows are generated; evaluation: what metrics are computed from; storage: where files are."""

DEFINING: tuple[Role, ...] = ("data", "scaling", "training", "protocol")
"""Roles of the fields that make a training what it is."""


def setting(
    role: Role,
    default: Any,
    *,
    adjustable: bool = False,
    continuable: bool = False,
    basic: bool = False,
    **limits: Any,
) -> Any:
    """A field of the configuration.

    Args:
        adjustable: whether a search may change the value while a model trains.
        continuable: whether `ndsm train --continue` may give a run another value than it had; every adjustable field is.
        basic: whether the field is among the few that most runs set, which help and documentation show first.
        limits: as `pydantic.Field`.
    """
    return Field(
        default,
        json_schema_extra={
            "role": role,
            "adjustable": adjustable,
            "continuable": adjustable or continuable,
            "basic": basic,
        },
        **limits,
    )


@cache
def leaf_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section and of the sections in it that are no sections themselves, by dotted name."""
    fields: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields |= {f"{name}.{inner}": field for inner, field in leaf_fields(kind).items()}
        else:
            fields[name] = info
    return fields


def names_of(model: type[BaseModel], *roles: Role) -> list[str]:
    """Dotted names of the fields that have one of these roles, in the order of the sections."""
    return [name for name, info in leaf_fields(model).items() if _mark(info, "role") in roles]


def adjustable_names(model: type[BaseModel]) -> list[str]:
    """Dotted names of the fields that a search may change while a model trains."""
    return [name for name, info in leaf_fields(model).items() if _mark(info, "adjustable")]


def continuable_names(model: type[BaseModel]) -> list[str]:
    """Dotted names of the fields that define a training and of which `ndsm train --continue` may take another value."""
    return [name for name, info in leaf_fields(model).items() if _mark(info, "continuable")]


def is_basic(info: FieldInfo) -> bool:
    """Whether a field is among those that help and documentation show first."""
    return bool(_mark(info, "basic"))


def field_tables(model: type[BaseModel]) -> str:
    """Markdown tables of the basic fields and of the others: name, default, role and meaning."""
    head = ["| Field | Default | Role | Meaning |", "|---|---|---|---|"]
    parts = []
    for title, basic in (("Basic fields", True), ("Advanced fields", False)):
        rows = [
            f"| `{name}` | `{_as_yaml(info.default)}` | {_mark(info, 'role')} | {_one_line(info.description or '')} |"
            for name, info in leaf_fields(model).items()
            if is_basic(info) is basic
        ]
        parts.append("\n".join([f"## {title}", "", *head, *rows]))
    return "\n\n".join(parts) + "\n"


def _as_yaml(value: Any) -> str:
    """A default as it is written in a preset."""
    return value if isinstance(value, str) else json.dumps(value, default=str).strip('"')


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")


def _mark(info: FieldInfo, key: str) -> Any:
    marks = info.json_schema_extra
    assert isinstance(marks, dict), "every field of the configuration is a `setting`"
    return marks[key]
