"""The configuration's fields in `--help`: basic ones first, with the command's own options, then the others."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from ndsm.config.roles import is_basic, leaf_fields
from ndsm.config.section import Section

_SUPPRESS: Any = tyro.conf.Suppress


def print_help(command: str, options: Any, config: Section) -> NoReturn:
    """Print the help of a command that takes a preset, then end the process.

    Args:
        command: its name.
        options: its options, with a preset's values as defaults.
        config: these values.
    """
    fields = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    with suppress(SystemExit), _showing(basic=True):
        tyro.cli(type(options), args=["--help"], prog=f"ndsm {command}", default=options, config=fields[:1])
    with _showing(basic=False):
        tyro.cli(
            type(config),
            args=["--help"],
            prog=f"ndsm {command}",
            description="Advanced fields of the configuration.",
            default=config,
            config=fields,
        )
    raise SystemExit(0)


@contextmanager
def _showing(basic: bool) -> Iterator[None]:
    """While active, tyro shows either the basic fields of the configuration or the others."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def section(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not (isinstance(info.type, type) and issubclass(info.type, Section)):
            return None
        leaves = leaf_fields(info.type)
        fields = []
        for name, field in info.type.model_fields.items():
            kind: Any = field.rebuild_annotation()
            if name in leaves and is_basic(field) is not basic:
                kind = _SUPPRESS[kind]
            fields.append(
                StructFieldSpec(
                    name=name,
                    type=kind,
                    default=getattr(info.default, name),
                    helptext=field.description,
                )
            )
        return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))

    with registry:
        yield
