"""What is made of the configuration's fields: the documentation's tables and the sections of --help.

Run as a script this file writes the tables: python tests/unit/config/test_field_docs.py
"""

import re
from pathlib import Path

import pytest

from ndsm.cli.app import COMMANDS
from ndsm.config import Config, flatten, load_config
from ndsm.config.roles import field_tables, is_basic, leaf_fields

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
MARK = "<!-- Made of the fields by `python tests/unit/config/test_field_docs.py`. -->\n\n"


def test_the_page_has_the_tables_of_the_fields():
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(MARK)[1] == field_tables(Config)


@pytest.mark.parametrize("command", ["train", "tune"])
def test_help_shows_basic_fields_first_and_each_field_once(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    with pytest.raises(SystemExit) as end:
        COMMANDS[command][0](["digits", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    named = [
        name.replace("-", "_") for name in re.findall(r"^[│ ] --([a-z]+\.[a-z.-]+) ", shown, re.MULTILINE)
    ]
    fields = leaf_fields(Config)
    assert sorted(named) == sorted(fields)
    first, second = shown.split("Advanced fields")
    for name in fields:
        assert f"--{name.replace('_', '-')} " in (first if is_basic(fields[name]) else second), name
    # With the preset's values.
    assert f"(default: {load_config('digits').reference.n_components})" in first
    assert load_config("digits").reference.n_components != flatten(Config())["reference.n_components"]


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(before + MARK + field_tables(Config), encoding="utf-8")
