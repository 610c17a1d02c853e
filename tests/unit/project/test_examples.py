"""The examples run, and each has a page that shows its figures."""

import json
import math
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = {
    "free_energy": ["free-energy"],
    "nearly_symmetric": ["nearly-symmetric"],
    "posterior": ["posterior"],
    "rare_classes": ["rare-classes-cancer", "rare-classes-wine"],
    "thin_support": ["thin-support"],
}
"""What each script writes: the names of its tables and figures."""


def test_every_example_is_listed():
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert scripts == {*EXAMPLES, "compare"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path, monkeypatch):
    """A thousandth of it: every method gets finite numbers, and the figure is written."""
    out = tmp_path / "new"
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(sys, "argv", [name, "--seeds", "1", "--scale", "0.001", "--out", str(out)])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    for written in EXAMPLES[name]:
        summary = json.loads((out / f"example-{written}.json").read_text())["summary"]
        for method in ("ndsm", "VP + DSM", "mixture alone"):
            numbers = [
                v for row, measures in summary.items() if row.startswith(method) for v in measures.values()
            ]
            assert numbers
            assert all(math.isfinite(value) for measure in numbers for value in measure)
        assert (out / f"example-{written}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_page_shows_its_figures(name):
    page = (ROOT / "docs" / "examples" / f"{name.replace('_', '-')}.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(\.\./images/example-([\w-]+)\.png\)", page)
    assert shown == EXAMPLES[name]
