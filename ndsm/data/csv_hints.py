"""Suggests `data.csv` options from the look of a text file that cannot be read with the given ones."""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ndsm.config import Csv
from ndsm.core.uris import Location
from ndsm.errors import InputError

SAMPLE_BYTES = 1 << 16
SAMPLE_LINES = 50
DELIMITERS = (",", ";", "\t", "|", " ")
MOST_SKIPPED = 20
"""Most lines before the header that are considered."""

NUMBER = re.compile(r"\s*[+-]?[\d.,]*\d[\d.,]*(e[+-]?\d+)?\s*", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+\s*")
THOUSANDS = {
    ".": re.compile(r"\s*[+-]?\d{1,3}(,\d{3})+(\.\d*)?\s*"),
    ",": re.compile(r"\s*[+-]?\d{1,3}(\.\d{3})+(,\d*)?\s*"),
}
"""Numbers with separators of thousands, by the decimal point beside them."""


@contextmanager
def advised(location: Location, asked: Csv, delimiter: str) -> Iterator[None]:
    """Append suggested options to an InputError that is raised within the context.

    Args:
        asked: how it is read.
        delimiter: between fields, as it is read.
    """
    try:
        yield
    except InputError as error:
        if advice := _advice(location, asked, delimiter):
            raise InputError(f"{error}; {advice}") from None
        raise


def _advice(location: Location, asked: Csv, delimiter: str) -> str | None:
    """Suggested options from the beginning of the file, None if it looks as the given ones say."""
    try:
        with location.stream() as source:
            sample = source.read(SAMPLE_BYTES)
    except OSError:
        return None
    encoding = _encoding(sample, asked.encoding)
    lines = sample.decode(encoding or asked.encoding, errors="replace").removeprefix("\ufeff").splitlines()
    # The last line of a longer file is cut off.
    lines = lines[:SAMPLE_LINES] if len(sample) < SAMPLE_BYTES else lines[:-1][:SAMPLE_LINES]
    layout = _layout(lines, delimiter, asked.skip_rows)
    looks, options = [], []
    if encoding:
        looks.append(f"text in {encoding}")
        options.append(f"--data.csv.encoding {encoding}")
    if layout:
        skip, separator, rows = layout
        if separator != delimiter:
            tabs = separator == "\t"
            looks.append("fields separated by tabs" if tabs else f"fields separated by {separator!r}")
            options.append("--data.csv.delimiter " + (r"'\t'" if tabs else repr(separator)))
        cells = [cell for row in rows for cell in row]
        point = asked.decimal_point
        if separator != "," and any(map(DECIMAL_COMMA.fullmatch, cells)) and point == ".":
            looks.append("decimal commas")
            options.append("--data.csv.decimal-point ,")
            point = ","
        if skip != asked.skip_rows:
            before = lines[0].strip()[:40]
            looks.append(f"column names in line {skip + 1} (line 1 is {before!r})")
            options.append(f"--data.csv.skip-rows {skip}")
        if not options and any(map(THOUSANDS[point].fullmatch, cells)):
            return "expected numbers without separators of thousands"
    if not options:
        return None
    return f"the file looks to have {', '.join(looks)}: try {' '.join(options)}"


def _encoding(sample: bytes, asked: str) -> str | None:
    """Likely encoding of a sample, None if the given one is possible."""
    head = sample[:1000]
    wide = "utf-16" if sample.startswith((b"\xff\xfe", b"\xfe\xff")) else None
    if wide is None and b"\0" in head:
        # Mostly ASCII: every other byte is 0.
        wide = "utf-16-be" if head[::2].count(0) > head[1::2].count(0) else "utf-16-le"
    if wide is not None:
        return None if asked.startswith("utf-16") else wide
    if asked.startswith("utf-16"):
        return "utf-8"
    try:
        # The sample may end within a character.
        sample.decode("utf-8") if len(sample) < SAMPLE_BYTES else sample[: sample.rfind(b"\n")].decode(
            "utf-8"
        )
    except UnicodeDecodeError:
        return "cp1252" if asked == "utf-8" else None
    return None


def _layout(lines: list[str], delimiter: str, skip: int) -> tuple[int, str, list[list[str]]] | None:
    """Lines before the header, delimiter and rows for which the lines look like a table, as asked for if they can; or None.

    A table has a line of names without numbers, below it rows of as many fields with numbers among them.
    """
    skips = (skip, *(n for n in range(min(MOST_SKIPPED, len(lines))) if n != skip))
    for begin in skips:
        for separator in (delimiter, *(d for d in DELIMITERS if d != delimiter)):
            try:
                rows = [row for row in csv.reader(lines[begin:], delimiter=separator) if row]
            except csv.Error:
                continue
            if len(rows) < 2 or len({len(row) for row in rows}) > 1:
                continue
            # Without the separator in it, any text is one field.
            if len(rows[0]) == 1 and separator != delimiter:
                continue
            if not any(map(NUMBER.fullmatch, rows[0])) and any(map(NUMBER.fullmatch, rows[1])):
                return begin, separator, rows[1:]
    return None
