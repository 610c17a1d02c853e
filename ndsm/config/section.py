"""The base of the configuration's sections, and the sentences on their wrong fields."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

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
