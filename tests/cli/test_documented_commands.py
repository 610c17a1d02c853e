"""The command blocks of the documentation, run line by line as a reader would type them, with few steps and rows."""

import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ndsm.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORT = {
    "train": ["--local", "--fresh", "--quiet", "--train.steps", "20", "--train.batch-rows", "32", "--evaluate.n", "60"],
    "sample": ["--n", "40", "--steps", "60"],
    "impute": ["--steps", "5"],
    "bench": ["--n", "100", "--steps", "10"],
}  # fmt: skip
"""Options added to a command; the last of an option's values counts."""
NOT_RUN = {
    r"ndsm train (mnist|mnist-latent|c2-mnist)$": "needs MNIST; tests/unit/test_mnist.py",
    r"ndsm tune ": "minutes even when short; tests/ray/test_tuning.py",
    r"ndsm train tune/": "needs a search's result; tests/ray/test_tuning.py",
    r"(export|ray) ": "needs a cluster; tests/unit/test_cluster_yaml.py",
    r"make ": "is what runs these tests",
    r"(python3 -m venv|\S*pip) ": "is how these tests were installed",
}


def lines_of(page):
    """The command lines of a page's blocks."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines() * (language in ("", "bash", "sh")):
            yield re.sub(r"\s+#.*", "", line).strip().removeprefix(".venv/bin/")


LINES = [(page.name, line) for page in PAGES for line in lines_of(page)]
RUN = [(page, line) for page, line in LINES if not any(re.match(pattern, line) for pattern in NOT_RUN)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the reader has: a table, one with gaps, one to score, images, a configuration, and the runs trained before."""
    from PIL import Image

    made = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 3)) + 4 * rng.integers(0, 2, (120, 1))
    tables = {
        "my": rows,
        "held-out": rows[:8],
        "incomplete": np.where(rng.random((6, 3)) < 0.3, np.nan, rows[:6]),
    }
    for name, x in tables.items():
        pq.write_table(
            pa.table({f"column {i}": column for i, column in enumerate(x.T)}), made / f"{name}.parquet"
        )
    for i, pixels in enumerate(rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)):
        place = made / "folder" / f"class {i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    (made / "my.yaml").write_text("network: {kind: unet, width: 8, depth: 2}\nreference: {n_components: 2}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for run in (
            ["digits"],
            ["digits", "--network.classes", "10", "--name", "labelled"],
            ["vectors", "--data.path", "my.parquet", "--name", "mine"],
        ):
            assert main(["train", *run, *SHORT["train"]]) == 0
    return made


def test_every_line_is_run_or_says_why_not(record_property):
    record_property("run", len(RUN))
    record_property("not run", len(LINES) - len(RUN))
    assert len(RUN) >= 12
    assert all(line.startswith("ndsm ") for _, line in RUN)
    for pattern, reason in NOT_RUN.items():
        assert any(re.match(pattern, line) for _, line in LINES), f"no line is {pattern}"
        assert all((ROOT / path).is_file() for path in re.findall(r"tests/\S+", reason))


@pytest.mark.parametrize("line", sorted({line for _, line in RUN}))
def test_line_runs(line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = shlex.split(line)[1:]
    assert main([*words, *SHORT.get(words[0], [])]) == 0
