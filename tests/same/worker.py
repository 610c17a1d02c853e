"""Runs the cases with one tree, in one process and on one thread, and writes a line of hashes for each.

Usage: python worker.py TREE INPUTS FOLDER OUT PATTERN RAY, with PYTHONPATH=TREE.
"""

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from cases import CASES, FORGET, RAY, Case, chosen
from inputs import blobs
from safetensors.numpy import load_file

NAMES_OF_TIMES = re.compile(r"second|time|per_s|_at$|version|^versions")
"""Of numbers in JSON files that are no result."""


class Failed(Exception):
    """A command or a training did not do what it should; the message says what it said."""


def digest(*parts: Any) -> str:
    """SHA-256 of arrays, with their types and shapes, and of anything that JSON can write."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray) and part.dtype != object:
            found.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            found.update((repr(part.tolist()) if isinstance(part, np.ndarray) else json.dumps(part)).encode())
    return found.hexdigest()


def of_tensors(path: Path) -> str:
    """Hash of a safetensors file's tensors and their names."""
    tensors = load_file(path)
    return digest(*(part for name in sorted(tensors) for part in (name, tensors[name])))


def of_json(path: Path) -> dict[str, str]:
    """Hash of each entry of a JSON file but of times."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    return {
        f"{path.name} {key}": digest(_without_times(tree[key]))
        for key in tree
        if not NAMES_OF_TIMES.search(key)
    }


def _without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_times(value) for key, value in tree.items() if not NAMES_OF_TIMES.search(key)}
    return [_without_times(value) for value in tree] if isinstance(tree, list) else tree


def of_table(path: Path) -> str:
    """Hash of a Parquet file's columns, with their names and types."""
    table = pq.read_table(path)
    parts: list[Any] = []
    for field in table.schema:
        parts += [field.name, str(field.type)]
        column = table[field.name]
        exact = column.null_count == 0 and column.type in (pa.float32(), pa.float64(), pa.int64())
        parts.append(column.to_numpy() if exact else repr(column.to_pylist()))
    return digest(*parts)


def of_file(path: Path) -> dict[str, str]:
    """Hashes of what a command wrote."""
    if path.is_dir():
        return {f"{path.name}/{file.name}": of_table(file) for file in sorted(path.glob("*.parquet"))}
    if path.suffix == ".json":
        return of_json(path)
    return {
        path.name: of_table(path)
        if path.suffix == ".parquet"
        else hashlib.sha256(path.read_bytes()).hexdigest()
    }


def of_run(run: Path) -> dict[str, str]:
    """Hashes of a run's weights, mixture, data, metrics and last loss."""
    found = {}
    files = {
        "weights": "model", "raw weights": "model-raw", "mixture": "reference", "examples": "examples"
    }  # fmt: skip
    for part, name in files.items():
        if (run / f"{name}.safetensors").is_file():
            found[part] = of_tensors(run / f"{name}.safetensors")
    for name in ("data.json", "metrics.json"):
        if (run / name).is_file():
            found |= of_json(run / name)
    if (run / "metrics.jsonl").is_file():
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        found["loss"] = digest([last["step"], last["loss"], last["grad_norm"]])
    return found


def in_process(words: list[str]) -> None:
    """Run a command of `ndsm` in this process."""
    import ndsm.cli

    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = ndsm.cli.main(words)
    if code:
        raise Failed(f"exit code {code}: {' '.join(said.getvalue().split())[-300:]}")


def in_own_process(words: list[str]) -> None:
    """Run a command of `ndsm` in a process of its own, with which the cluster that it starts ends."""
    done = subprocess.run([sys.executable, "-m", "ndsm", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"exit code {done.returncode}: {' '.join(done.stderr.split())[-300:]}")


def options(case: Case, inputs: Path) -> list[str]:
    """The case's fields as options of the command line."""
    words = []
    for name, value in case.fields.items():
        values = value if isinstance(value, tuple) else (value,)
        shown = {None: "null", True: "true", False: "false"}
        words.append(f"--{name.replace('_', '-')}")
        words += [
            shown[v] if v is None or isinstance(v, bool) else str(v).format(inputs=inputs) for v in values
        ]
    return words


def run_case(case: Case, inputs: Path) -> dict[str, str]:
    """Hashes of all that a case computes, in the current folder."""
    if case.door == "python":
        import python_cases

        function = getattr(python_cases, re.sub(r"[^a-z]+", "_", case.name.lower()).strip("_"))
        return {name: digest(value) for name, value in function().items()}
    command: Callable[[list[str]], None] = in_own_process if case.door == "ray" else in_process
    if case.door == "fit":
        found = fit(case)
    else:
        local = [] if case.door == "ray" else ["--local"]
        command(
            [
                "train",
                preset_of(case),
                *local,
                "--quiet",
                "--out",
                ".",
                "--name",
                "run",
                *options(case, inputs),
            ]
        )
        found = of_run(Path("run"))
    fields = shlex.join(options(case, inputs))
    for line in case.then:
        if line == FORGET:
            max(Path("run/checkpoints").glob("step-*.pt")).unlink()
            continue
        words = shlex.split(line.format(inputs=inputs, fields=fields))
        command([*words, "--quiet"] if "--quiet" not in words else words)
        if "--out" in words and words[0] != "train":
            found |= of_file(Path(words[words.index("--out") + 1]))
        else:
            found |= {f"{words[0]}: {name}": value for name, value in of_run(Path("run")).items()}
    return found


def fit(case: Case) -> dict[str, str]:
    """Train `ndsm.NDSM` and save it as the folder `run`."""
    import ndsm

    rows, cluster = blobs()
    config = ndsm.load_config(preset_of(case), {**case.fields, "data.path": "X"})
    model = ndsm.NDSM(
        config.reference.n_components,
        covariance_type=config.reference.covariance_type,
        objective=config.objective.kind,
        config=config,
        random_state=config.train.seed,
        device="cpu",
    )
    model.fit(rows, np.array(["a", "b", "c"])[cluster] if case.labelled else None)
    model.save("run")
    return {**of_run(Path("run")), "loss": digest(model.history_[-1]["loss"])}


# ---- what a tree has ----


def preset_of(case: Case) -> str:
    """The preset of a case by its name in this tree: up to version 0.1 `vectors` was what is `table-langevin` now."""
    from ndsm.config import preset_names

    earlier = case.preset == "table-langevin" and case.preset not in preset_names()
    return "vectors" if earlier else case.preset


def choices(section: Any, prefix: str = "") -> Iterator[tuple[str, set[Any] | None]]:
    """Dotted names of all fields of a configuration, each with the values of its `Literal` or None."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if hasattr(kind, "model_fields"):
            yield from choices(kind, f"{prefix}{name}.")
        else:
            values = set(literals(kind))
            yield f"{prefix}{name}", values or None


def literals(kind: Any) -> Iterator[Any]:
    """The values of the `Literal`s in a type."""
    if typing.get_origin(kind) is Literal:
        yield from typing.get_args(kind)
    else:
        for part in typing.get_args(kind):
            yield from literals(part)


def samplers_of(case: Case) -> set[str]:
    """The samplers that a case's commands name."""
    return {name for line in case.then for name in re.findall(r"--sampler (\S+)", line)}


def has_parts_of(case: Case, known: dict[str, set[Any] | None]) -> bool:
    """Whether a tree knows the preset, the fields, the kinds and the samplers that a case names."""
    import ndsm

    if case.door != "python":
        try:
            ndsm.load_config(preset_of(case), {"data.path": "X"} if case.preset.startswith("table") else {})
        except ndsm.InputError:
            return False
    for name, value in case.fields.items():
        if name not in known:
            return False
        values = known[name]
        # A field may take numbers beside its names.
        if values is not None and isinstance(value, str) and value not in values:
            return False
    return samplers_of(case) <= (known["sample.sampler"] or set())


# ---- the worker ----


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in a new folder, which is deleted afterwards."""
    before = Path.cwd()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def check_tree(tree: Path) -> None:
    """Raise RuntimeError if a module of the project was imported from elsewhere: an editable installation is on the path, too."""
    for name, module in list(sys.modules.items()):
        own = name.split(".")[0] in ("ndsm", "pipelines", "tuning")
        file = getattr(module, "__file__", None)
        if own and file and not Path(file).resolve().is_relative_to(tree.resolve()):
            raise RuntimeError(f"{name}: expected a module of {tree}, found {file}")


def result(case: Case, inputs: Path, folder: Path, known: dict[str, set[Any] | None]) -> dict[str, Any]:
    """The line of a case: its hashes, or `absent`, or what it failed with."""
    if not has_parts_of(case, known):
        return {"absent": True}
    try:
        with working_in(folder):
            # What draws from a library's own stream draws the same whichever cases ran before.
            torch.manual_seed(0)
            np.random.seed(0)
            return {"parts": run_case(case, inputs)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:400].replace(str(folder), "FOLDER")}


def main(tree: Path, inputs: Path, folder: Path, out: Path, pattern: str, ray: bool) -> None:
    import warnings

    import ndsm

    warnings.simplefilter("ignore")
    # Training takes all cores but one.
    os.cpu_count = lambda: 1
    torch.set_num_threads(1)
    known = dict(choices(ndsm.Config))
    with out.open("w", encoding="utf-8") as f:
        for case in chosen([*CASES, *(RAY if ray else ())], pattern):
            line = result(case, inputs, folder / "case", known)
            f.write(json.dumps({"name": case.name, **line}) + "\n")
            f.flush()
            check_tree(tree)


if __name__ == "__main__":
    tree, inputs, folder, out = map(Path, sys.argv[1:5])
    main(tree, inputs, folder, out, sys.argv[5], sys.argv[6] == "ray")
