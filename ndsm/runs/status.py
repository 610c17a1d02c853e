"""Status of a live or finished run, from its files alone."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndsm.core.uris import is_uri
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.contents import RunContents
from ndsm.runs.layout import step_of
from ndsm.runs.lock import Owner
from ndsm.runs.mirror import RemoteCopy

EVENTS = 5
"""How many of the last events are told."""
SHOWN = (
    "loss",
    "grad_norm",
    "stall_fraction",
    "samples_per_insert",
    "rollout_rows_per_s",
    "workers",
    "simulators",
    "goodput",
    "wall_seconds",
    "useful_seconds",
    "stall_seconds",
    "pause_seconds",
    "warm_up_seconds",
    "restart_seconds",
    "blocks_skipped",
)
"""Keys that are taken over from the last line of metrics.jsonl."""


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run."""

    last_metrics: dict[str, Any]
    """The last whole line of `metrics.jsonl`; empty without one."""
    checkpoint: tuple[int, float] | None
    """Step and Unix time of the newest checkpoint."""
    failure: tuple[str, str] | None
    """Type and message of the error that ended the training for good."""
    events: list[dict[str, Any]]
    """The last lines of `events.jsonl`."""
    owner: Owner | None
    """Who trains it, or did so last."""


def status(run: Run) -> dict[str, Any]:
    """Return the status of a run; with `train.storage` a URI, also by what was uploaded last.

    Returns:
        `state`: running, finished, failed, or stopped (the same `ndsm train` goes on); `fitted_in_python`; `step`, `steps`, `percent`;
        `steps_per_s` and `eta_seconds` while running; `seconds` of training; `SHOWN` once there is a report;
        `restarts` of the workers; `report_age_seconds`; `checkpoint`: {`step`, `age_seconds`} or None;
        `process`: {`pid`, `host`, `started`, `alive`} of who trains it, on this machine or with a URI on any, or None; `failure`: what ended it for good, or None;
        `events`: the last ones, {`time`, `event`}: nodes, workers and simulators that came or were lost, and what was waited for;
        `storage_failure`: why the URI does not answer, or None.
    """
    config = run.config().train
    now, steps = time.time(), config.steps
    last, checkpoint, failure = run.last_metrics(), run.newest_checkpoint(), run.failure()
    events, owner, unanswered = run.events(EVENTS), run.owner.read(), None
    if config.storage is not None and is_uri(config.storage):
        try:
            # Rank 0 may train on another machine.
            there = progress_at(run, config.storage)
            last = max(last, there.last_metrics, key=lambda line: line.get("time", 0.0))
            checkpoint = max(checkpoint, there.checkpoint, key=lambda found: found[1] if found else 0.0)
            failure = failure or there.failure
            events = max(events, there.events, key=lambda found: found[-1]["time"] if found else 0.0)
            if there.owner and there.owner.alive and not (owner and owner.alive):
                owner = there.owner
        except (InputError, OSError) as error:
            unanswered = " ".join(str(error).split())
    step = max(int(last.get("step", 0)), checkpoint[0] if checkpoint else 0)
    alive = owner is not None and owner.alive
    # Not by the last report, which comes before the weights; what was saved from Python has no checkpoint.
    complete = checkpoint[0] >= steps if checkpoint else run.has_weights
    if alive:
        state = "running"
    elif failure:
        state = "failed"
    else:
        state = "finished" if complete else "stopped"
    step = steps if complete else step
    rate = last.get("steps_per_s") if alive else None
    return {
        "run": run.path.name,
        "state": state,
        "fitted_in_python": run.fitted_in_python,
        "step": step,
        "steps": steps,
        "percent": 100 * step / steps,
        "seconds": last.get("seconds"),
        "steps_per_s": rate,
        "eta_seconds": (steps - step) / rate if rate else None,
        **{key: last[key] for key in SHOWN if key in last},
        "restarts": last.get("restarts", 0),
        "report_age_seconds": now - last["time"] if "time" in last else None,
        "checkpoint": checkpoint and {"step": checkpoint[0], "age_seconds": now - checkpoint[1]},
        "process": owner and vars(owner),
        "failure": failure and failure[1],
        "events": events,
        "storage_failure": unanswered,
    }


def progress_at(run: Run, storage: str) -> RunProgress:
    """Return how far the run's copy in the folder of runs at the URI `storage` has come; the local folder stays as it is.

    Raises:
        InputError: the URI is malformed.
        OSError: the storage does not answer.
    """
    mirror = RemoteCopy.under(storage, run.path.name)
    modified = mirror.modified()
    with tempfile.TemporaryDirectory() as folder:
        copy = RunContents(Path(folder))
        for name in {"metrics.jsonl", "events.jsonl", "checkpoints/failure.json"} & modified.keys():
            mirror.fetch(name, copy.path)
        last, failure, events = copy.last_metrics(), copy.failure(), copy.events(EVENTS)
    checkpoints = [
        (step_of(Path(name)), when)
        for name, when in modified.items()
        if Path(name).match("checkpoints/step-*.pt")
    ]
    holder = mirror.holder()
    owner = Owner(holder.pid, holder.host, holder.started, holder.alive) if holder else None
    return RunProgress(last, max(checkpoints, default=None), failure, events, owner)
