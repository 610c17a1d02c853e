"""Whether a change leaves all results as they are, bit for bit, on this machine.

Runs the same trainings, generations, densities and imputations with the commit BASE and with the working tree, on one thread and
with fixed seeds, and compares SHA-256 of weights, rows and numbers. No hash is kept: other processors round differently.

Usage: python tests/same BASE [--only PATTERN] [--jobs 1|2] [--ray]
Exit code 0: all equal. 1: something differs or fails. 2: there is no commit BASE.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ("ndsm", "pipelines", "tuning")


def copy_base(commit: str, target: Path) -> None:
    """The packages of a commit, without a work tree that git would remember."""
    done = subprocess.run(["git", "-C", ROOT, "archive", commit, *PACKAGES], capture_output=True, check=False)
    if done.returncode:
        print(f"same: expected a commit as BASE: {done.stderr.decode().strip()}", file=sys.stderr)
        raise SystemExit(2)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")


def copy_working_tree(target: Path) -> None:
    """The packages as they are now, committed or not: they may be edited while the cases run."""
    listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PACKAGES]
    for name in subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())


def start(tree: Path, inputs: Path, folder: Path, only: str, ray: bool) -> subprocess.Popen[bytes]:
    """Start the worker of a tree; its lines go to `folder`.jsonl."""
    folder.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "NDSM_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder),
        "CUDA_VISIBLE_DEVICES": "",
        "MPLBACKEND": "agg",
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }
    environment.pop("RAY_ADDRESS", None)
    arguments = [tree, inputs, folder, folder.with_suffix(".jsonl"), only, "ray" if ray else "-"]
    # The inputs' folder comes first on its path: the script's own.
    return subprocess.Popen([sys.executable, HERE / "worker.py", *arguments], env=environment, cwd=folder)


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a worker by their cases' names."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {line["name"]: line for line in map(json.loads, lines)}


def compare(base: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Whether a case is as it should be, and what is said of it.

    A part that only the new tree has is none that has changed; one that only the base has is gone.
    """
    if base is None or new is None:
        lacking = " and ".join(name for name, line in (("base", base), ("new", new)) if line is None)
        return False, f"FAILS      the process of {lacking} ended before it"
    if base.get("absent") and new.get("absent"):
        return False, "FAILS      neither tree knows what it names"
    if base.get("absent") or new.get("absent"):
        there, name = (new, "new") if base.get("absent") else (base, "base")
        failed = there.get("failed")
        return not failed, f"only in {name}" + (f", where it fails: {failed}" if failed else "")
    failed = {name: line["failed"] for name, line in (("base", base), ("new", new)) if "failed" in line}
    if failed:
        same = len(failed) == 2 and failed["base"] == failed["new"]
        told = failed["base"] if same else "; ".join(f"{name}: {what}" for name, what in failed.items())
        return False, f"FAILS      {'in both: ' if same else 'in '}{told}"
    changed = [
        part for part, found in base["parts"].items() if part in new["parts"] and new["parts"][part] != found
    ]
    gone = [part for part in base["parts"] if part not in new["parts"]]
    if changed or gone or not base["parts"]:
        told = [*changed, *(f"{part} (gone)" for part in gone)] or ["nothing was compared"]
        return False, f"DIFFERENT  {', '.join(told)}"
    return True, f"equal      {len(base['parts'])} parts"


def report(base: Mapping[str, Any], new: Mapping[str, Any], names: list[str]) -> int:
    """Print a line for each case and a summary; the exit code."""
    wrong = 0
    for name in names:
        right, told = compare(base.get(name), new.get(name))
        wrong += not right
        print(f"{name:44} {told}")
    print(
        f"{len(names)} cases, {wrong} of them different or failed"
        if wrong
        else f"{len(names)} cases, all equal"
    )
    return int(wrong > 0 or not names)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", help="commit to compare the working tree with")
    parser.add_argument(
        "--only", default="", help="cases whose names contain this or fit it as a pattern of the shell"
    )
    parser.add_argument("--jobs", type=int, default=2, help="2 runs both trees at once")
    parser.add_argument("--ray", action="store_true", help="train and generate on Ray, too")
    options = parser.parse_args()
    from cases import CASES, RAY, chosen
    from inputs import write_inputs

    names = [case.name for case in chosen([*CASES, *(RAY if options.ray else ())], options.only)]
    with tempfile.TemporaryDirectory(prefix="same-") as name:
        folder = Path(name)
        trees = {"base": folder / "trees" / "base", "new": folder / "trees" / "new"}
        copy_base(options.base, trees["base"])
        copy_working_tree(trees["new"])
        (folder / "inputs").mkdir()
        write_inputs(folder / "inputs")
        workers: list[subprocess.Popen[bytes]] = []
        try:
            for which, tree in trees.items():
                worker = start(tree, folder / "inputs", folder / which, options.only, options.ray)
                workers.append(worker)
                # Two clusters beside each other would take the same ports.
                if options.jobs < 2 or options.ray:
                    worker.wait()
            for worker in workers:
                worker.wait()
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        found = {which: read_lines(folder / f"{which}.jsonl") for which in trees}
    return report(found["base"], found["new"], names)


if __name__ == "__main__":
    sys.exit(main())
