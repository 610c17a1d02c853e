"""The documentation does what it says: Python blocks and command blocks run, other command lines parse, links lead somewhere."""

import argparse
import importlib
import json
import re
import runpy
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import tyro
import yaml

from ndsm import cli
from ndsm.cli import app
from ndsm.config import build_config, load_config, merge
from tuning.summary import preset_text

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:ndsm|python|make) [^`]+)`")
STEPS = 30
"""Training steps of a block: enough to run all of its code, not to make its numbers good."""
SKIPPED = {
    "# Two simulators, on this machine or on the cluster at RAY_ADDRESS.": (
        "starts Ray; tests/ray/test_training.py trains an own drift there"
    ),
}
"""Python blocks that are not run, by their first line, and why."""


def blocks(page, *languages):
    return [
        text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages
    ]


def bare(line):
    """A command line without its comment and the environment's folder."""
    return re.sub(r"\s+#.*", "", line.strip()).removeprefix(".venv/bin/")


def commands(page):
    """Command lines of a page: of blocks, and inline ones that are whole."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page, "", "bash", "sh") for line in block.splitlines()]
    for line in [*lines, *INLINE.findall(text)]:
        line = bare(line)
        line = re.sub(r"^(\w+=\S+ )+", "", line)
        # Not command lines but patterns of them.
        if line.startswith("ndsm ") and not re.search(
            r"[|\[<…]|\.\.\.|\b(NAME|COMMAND)\b", line.split(" > ")[0]
        ):
            yield line.split(" > ")[0].rstrip("\\ ")


PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """A page's blocks run one after the other in one namespace, as a reader would type them."""
    import numpy as np

    from ndsm.estimator import NDSM

    monkeypatch.chdir(tmp_path)
    fit = NDSM.fit

    def short(self, X, y=None):
        if page.name != "first-run.md":
            self.max_steps = min(self.max_steps or STEPS, STEPS)
        return fit(self, X, y)

    monkeypatch.setattr(NDSM, "fit", short)
    rng = np.random.default_rng(0)
    # The only name that a page may use without making it: rows of the reader's own.
    namespace = {"X": rng.normal(size=(200, 3)) + 4 * rng.integers(0, 2, (200, 1))}
    wanted = [block for block in blocks(page, "python") if block.splitlines()[0] not in SKIPPED]
    for block in wanted:
        exec(compile(block, str(page), "exec"), namespace)


def test_no_python_block_is_skipped_without_a_reason(record_property):
    """How many blocks there are, and that each skipped one still exists and says why."""
    first_lines = [block.splitlines()[0] for page in PAGES for block in blocks(page, "python")]
    run = sum(line not in SKIPPED for line in first_lines)
    record_property("documentation: Python blocks run", f"{run} of {len(first_lines)}")
    assert len(first_lines) >= 5
    assert all(line in first_lines and reason for line, reason in SKIPPED.items())


class Parsed(Exception):
    """The options are read; the command itself is too long to run."""


COMMAND_LINES = sorted({(page.name, line) for page in PAGES for line in commands(page)})


def test_there_are_command_lines_of_every_kind():
    used = {line.split()[1] for _, line in COMMAND_LINES}
    assert {"train", "sample", "report", "reproduce", "bench"} <= used
    assert len(COMMAND_LINES) >= 20


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES)
def test_command_lines_parse(page, line, tmp_path, monkeypatch, capsys):
    """Every option exists and takes its value; files that a line reads are stood in for."""
    read = tyro.cli

    def stop(*args, **kwargs):
        # A preset's command is read twice: once for the preset, which is the second time's default.
        options = read(*args, **kwargs)
        if not hasattr(options, "preset") or options.preset == getattr(kwargs.get("default"), "preset", None):
            raise Parsed
        return options

    monkeypatch.setattr(tyro, "cli", stop)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    for word in words:
        if word.endswith((".yaml", ".yml")):
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            Path(word).write_text("data: {name: digits}\n")
    words = ["PRESET.yaml" if word == "PRESET" else word for word in words]
    Path("PRESET.yaml").write_text("data: {name: digits}\n")
    name, *rest = words
    assert name in app.COMMANDS, f"{page}: {line}"
    if name in ("presets", "doctor", "completion"):
        assert not [word for word in rest if word.startswith("-")]
        return
    if "--help" in rest or all(word.startswith("-") for word in rest):
        # A command or an option that the text mentions, without what it works on.
        with pytest.raises(SystemExit, match="0"):
            app.COMMANDS[name][0](["--help"])
        page_of_help = capsys.readouterr().out
        assert all(word in page_of_help for word in rest if word.startswith("-"))
    else:
        with pytest.raises(Parsed):
            app.COMMANDS[name][0](rest)


WRITTEN = {bare(line) for page in PAGES for line in INLINE.findall(page.read_text(encoding="utf-8"))}
SCRIPT_LINES = sorted(line for line in WRITTEN if re.match(r"python [^-]", line))


@pytest.mark.parametrize("line", SCRIPT_LINES)
def test_script_lines_parse(line, monkeypatch):
    """The script is there, and takes these options."""
    name, *options = shlex.split(line)[1:]
    script = ROOT / name
    # Others would do what they are for.
    if not re.search(r"parse_args|parse_known_args|arguments\(", script.read_text(encoding="utf-8")):
        return
    known = argparse.ArgumentParser.parse_known_args

    def whole(self, *args):
        if rest := known(self, *args)[1]:
            self.error(f"unknown {rest}")
        raise Parsed

    def part(self, *args):
        # What is left over are fields of the configuration.
        build_config(options_of(known(self, *args)[1]), line)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", whole)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", part)
    monkeypatch.setattr(sys, "argv", [name, *options])
    # A script finds its neighbours.
    monkeypatch.syspath_prepend(script.parent)
    with pytest.raises(Parsed):
        runpy.run_path(str(script), run_name="__main__")


def options_of(words):
    """The configuration's fields that words set, --section.field value ..."""
    fields = {
        name.removeprefix("--").replace("-", "_"): value
        for name, value in pairwise(words)
        if name[:2] == "--"
    }
    return merge({}, {name: yaml.safe_load(value) for name, value in fields.items()})


def test_targets_are_makes():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {line.split()[1] for line in WRITTEN | LINES if line.startswith("make ")}
    assert len(named) >= 5
    assert named <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_names_of_the_reference_exist():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in re.findall(r"^::: (\S+)", text, re.MULTILINE):
        module, attribute = name.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), attribute), name


def test_tests_that_pages_name_exist():
    named = {
        match
        for page in PAGES
        for match in re.findall(r"`(tests/[\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8"))
    }
    assert len(named) >= 50
    for file, name in sorted(named):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_files_that_pages_name_exist():
    named = {
        match
        for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
        for match in re.findall(
            r"`((?:ndsm|pipelines|tuning|tests)/[\w/.-]+)`", page.read_text(encoding="utf-8")
        )
    }
    assert len(named) >= 40
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_architecture_page_names_every_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("| packages |")[1].split("`make lint`")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    parts = {p.stem for p in (ROOT / "ndsm").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert set(re.findall("`([^`]+)`", "".join(rows))) == parts - {"__init__", "__main__"}


def test_the_usage_page_lists_every_sampler():
    from ndsm.samplers import SAMPLERS

    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    table = text.split("## Samplers")[1].split("## Log-densities")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall("`([^`]+)`", "".join(rows))) == sorted(SAMPLERS)


def test_the_usage_page_lists_what_may_differ_on_resuming():
    from ndsm.config import Config
    from ndsm.config.roles import DEFINING, leaf_fields, names_of

    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"how a run is executed or evaluated may differ: ([^)]*)\)", text)
    named = [name.removesuffix("*") for name in re.findall("`([^`]+)`", listed)]
    found = {
        name
        for name in leaf_fields(Config)
        if any(name == n or (n[-1] == "." and name.startswith(n)) for n in named)
    }
    assert found == set(leaf_fields(Config)) - set(names_of(Config, *DEFINING))


def test_options_that_pages_name_are_fields():
    """`section.field` in the text is a field of the configuration, as the reader would type it."""
    from ndsm.config import Config, flatten

    fields = flatten(Config())
    sections = {name.split(".")[0] for name in fields}
    prefixes = {name.rsplit(".", 1)[0] for name in fields} | set(fields)
    for page in PAGES:
        for name in re.findall(
            r"`(?:--)?([a-z]+(?:\.[a-z_-]+)+)(?: [^`]*)?`", page.read_text(encoding="utf-8")
        ):
            if name.split(".")[0] in sections and not name.endswith(
                (".safetensors", ".json", ".jsonl", ".yaml", ".png")
            ):
                assert name.replace("-", "_") in prefixes, f"{page.name}: {name}"


SHORT = {
    "train": ["--local", "--fresh", "--json", "--train.steps", "20", "--train.batch-rows", "32", "--evaluate.n", "60",
              "--network.width", "16", "--train.block-mb", "0.05"],
    "sample": ["--n", "40", "--steps", "60"],
    "impute": ["--steps", "5"],
    "bench": ["--n", "100", "--steps", "5", "--data.n", "300", "--reference.n-init", "1", "--train.block-mb", "0.02"],
}  # fmt: skip
"""Options added to a command; the last of an option's values counts."""
IMAGES = ["--network.width", "8", "--network.depth", "2", "--sample.steps", "20", "--sample.sampler", "exponential",
          "--reference.n-components", "2"]  # fmt: skip
"""Added for MNIST, of which there are a few images only."""
NOT_RUN = {
    r"ndsm tune ": "minutes even when short; tests/ray/test_tuning.py",
    r"(export|(RAY_AUTH_MODE=token )?ray) ": "needs a cluster; tests/unit/pipelines/test_cluster_yaml.py",
    r"(sbatch|docker|sed|kubectl) ": "needs SLURM or Kubernetes; tests/unit/pipelines/test_cluster_yaml.py",
    r"make ": "is what runs these tests; test_targets_are_makes",
    r"(python3 -m venv|\S*pip) ": "is how these tests were installed",
}


def lines_of(page):
    """The command lines of a page's blocks."""
    for block in blocks(page, "", "bash", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            yield bare(line)


LINES = {line for page in PAGES for line in lines_of(page)}
RUN = sorted(line for line in LINES if not any(re.match(pattern, line) for pattern in NOT_RUN))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mnist_root):
    """What the reader has: a table, one with gaps, one to score, images, MNIST, configurations, and the runs trained before."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
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
    comma = "\n".join(";".join(f"{x:.3f}".replace(".", ",") for x in row) for row in rows)
    (made / "excel.csv").write_text(f"a;b;c\n{comma}\n")
    for i, pixels in enumerate(rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)):
        place = made / "folder" / f"class {i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    (made / "my.yaml").write_text("network: {kind: unet, width: 8, depth: 2}\nreference: {n_components: 2}\n")
    (made / "data").symlink_to(mnist_root)
    best = made / "tune" / "digits" / "best.yaml"
    best.parent.mkdir(parents=True)
    best.write_text(preset_text(load_config("digits", {"train.lr": 2e-3}), "the best of a search"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for run in (
            ["digits"],
            ["digits", "--network.classes", "10", "--name", "labelled"],
            ["table", "--data.path", "my.parquet", "--name", "mine"],
        ):
            assert cli.main(["train", *run, *SHORT["train"]]) == 0
    return made


def test_every_line_is_run_or_says_why_not(record_property):
    record_property("documentation: command lines of blocks run", f"{len(RUN)} of {len(LINES)}")
    record_property(
        "documentation: further lines whose options are checked", len(set(COMMAND_LINES)) + len(SCRIPT_LINES)
    )
    assert len(RUN) >= 16
    assert all(line.startswith("ndsm ") for line in RUN)
    for pattern, reason in NOT_RUN.items():
        assert any(re.match(pattern, line) for line in LINES), f"no line is {pattern}"
        assert all((ROOT / path).is_file() for path in re.findall(r"tests/\S+", reason))


@pytest.mark.parametrize("line", RUN)
def test_line_runs(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = shlex.split(line)[1:]
    short = [*SHORT.get(words[0], []), *(IMAGES if "mnist" in words[1] else [])]
    assert cli.main([*words, *short]) == 0
    if "--json" in short:
        # Also where a network had to be trained first.
        printed = capsys.readouterr()
        assert json.loads(printed.out)["n"] == 60
        assert printed.err == ""
