"""What a live or finished run is doing, from its files alone."""

import time
from typing import Any

from ndsm.core.uris import is_uri
from ndsm.errors import InputError
from ndsm.runs import Run

SHOWN = (
    "loss",
    "grad_norm",
    "stall_fraction",
    "samples_per_insert",
    "rollout_rows_per_s",
    "workers",
    "simulators",
)
"""Taken from the last line of metrics.jsonl as they are."""


def status(run: Run) -> dict[str, Any]:
    """Where the run stands; a run whose `train.storage` is a URI, by what came there last.

    Returns:
        `state`: running, finished, failed, or stopped (the same `ndsm train` goes on); `fitted_in_python`; `step`, `steps`, `percent`;
        `steps_per_s` and `eta_seconds` while running; `seconds` of training; `SHOWN` once there is a report;
        `restarts` from a checkpoint; `report_age_seconds`; `checkpoint`: {`step`, `age_seconds`} or None;
        `process`: {`pid`, `host`, `started`, `alive`} or None; `failure`: what ended it for good, or None;
        `storage_failure`: why the URI does not answer, or None.
    """
    config = run.config().train
    now, steps, owner, here = time.time(), config.steps, run.owner.read(), run.progress()
    last, checkpoint, failure, unanswered = here.last_metrics, here.checkpoint, here.failure, None
    if config.storage is not None and is_uri(config.storage):
        try:
            # Rank 0 may train on another machine.
            there = run.progress_at(config.storage)
            last = max(last, there.last_metrics, key=lambda line: line.get("time", 0.0))
            checkpoint = max(checkpoint, there.checkpoint, key=lambda found: found[1] if found else 0.0)
            failure = failure or there.failure
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
        "storage_failure": unanswered,
    }
