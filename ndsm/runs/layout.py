"""Layout of a run directory: its files, how they are told from others, and the order to delete them in.

    config.yaml                               the whole resolved configuration
    data.json                                 column names and types, scaling, fingerprint of the rows
    versions.json                             of Python and packages, when the run was begun
    reference.safetensors, reference.json     the mixture
    model.safetensors, model-raw.safetensors  EMA weights; raw weights
    metrics.jsonl                             one line per report
    continuations.jsonl                       one line per continuation by --continue: what changed, at which step
    sittings.jsonl                            when the run was started, and stopped in order
    skipped_blocks.jsonl                      one line per block that could not be simulated: its index, and why
    events.jsonl                              what came and went while it was trained on Ray, and what was waited for
    metrics.json                              the last evaluation
    evaluations.jsonl                         one line per evaluation during the training
    samples.png                               generated rows beside data
    examples.safetensors                      some rows of the evaluation
    report.html                               all of this on a page
    tensorboard/                              the same numbers as scalars
    tensorboard/evaluation/                   evaluations, and pictures of their samples
    checkpoints/step-000000123.pt             what resuming needs; the newest two are kept
    checkpoints/owner.json                    the process that trains, or trained last; locked while it lives

Every file appears whole or not at all: it is written under another name, flushed and renamed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ndsm.core.folders import first_foreign
from ndsm.errors import InputError
from ndsm.runs.lock import LOCK_FILES

FORMAT: dict[str, Any] = {"format": "ndsm-run", "format_version": 1}
"""First entries of `data.json`, by which a run is told from another folder with files of the same names."""
NEWEST_VERSION = 2
"""Newest format that is read: 2, which `data.json` says itself, has transforms of columns, without which rows would be misread."""
DATA_KEYS = {"schema", "scaling", "fingerprint"}
"""Keys of a run's `data.json` that was written before there was a format entry."""
LOCKS = tuple(f"checkpoints/{name}" for name in LOCK_FILES)
"""Lock files; whoever holds the lock keeps them."""
FILES = (
    "config.yaml",
    "versions.json",
    "reference.safetensors",
    "reference.json",
    "model.safetensors",
    "model-raw.safetensors",
    "metrics.jsonl",
    "continuations.jsonl",
    "skipped_blocks.jsonl",
    "events.jsonl",
    "sittings.jsonl",
    "metrics.json",
    "evaluations.jsonl",
    "samples.png",
    "examples.safetensors",
    "report.html",
    "curve.jsonl",
    "clock.json",
    "tensorboard/events.out.tfevents.*",
    "tensorboard/evaluation/events.out.tfevents.*",
    "checkpoints/step-*.pt",
    "checkpoints/stop",
    "checkpoints/failure.json",
    "checkpoints/ray/**",
    *LOCKS,
    "data.json",
)
"""Every file that a run makes, as `first_foreign` takes them; nothing else in its folder is ever deleted."""

MODEL_FILES = ("config.yaml", "data.json", "reference.safetensors", "reference.json", "model.safetensors")
"""Files that the trained model is made from."""
STATUS_FILES = ("config.yaml", "data.json", "metrics.jsonl", "checkpoints/failure.json")
"""Files that tell where a training stands."""


def check_place(place: str, names: Iterable[str], marked: bool) -> None:
    """Raise an error if a place holds files that no run makes.

    Args:
        place: path or URI, for the error.
        names: the files there.
        marked: whether a run's `data.json` is among them; without it no file but a lock is taken for a run's.

    Raises:
        InputError: it does.
    """
    if foreign := first_foreign(names, FILES if marked else LOCKS):
        expected = "only files of the run that --fresh starts over" if marked else "a new or a run's folder"
        raise InputError(
            f"{place}: expected {expected}, found one with other files in it: {foreign}; move them away, or choose another "
            "--name or --out"
        )


def removable(names: Iterable[str]) -> list[str]:
    """Return the files of a run among these, in the order to delete them: `config.yaml` first, `data.json` last."""
    own = [name for name in names if first_foreign([name], FILES) is None]
    return sorted(own, key=lambda name: (name == "data.json", name != "config.yaml", name))


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint of a step."""
    return f"step-{step:09d}.pt"


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint file by its name."""
    return int(checkpoint.stem.removeprefix("step-"))
