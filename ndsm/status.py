"""What a live or finished run is doing, from its files alone."""

import time
from typing import Any

from ndsm.run import Run

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
    """Where the run stands.

    Returns:
        `state`: running, finished, failed, or stopped (the same `ndsm train` goes on); `step`, `steps`, `percent`;
        `steps_per_s` and `eta_seconds` while running; `seconds` of training; `SHOWN` once there is a report;
        `restarts` from a checkpoint; `report_age_seconds`; `checkpoint`: {`step`, `age_seconds`} or None;
        `process`: {`pid`, `host`, `started`, `alive`} or None; `failure`: what ended it for good, or None.
    """
    now, steps = time.time(), run.config().train.steps
    last = run.last_metrics()
    checkpoint, owner, failure = run.newest_checkpoint(), run.owner(), run.failure()
    step = max(int(last.get("step", 0)), checkpoint[0] if checkpoint else 0)
    alive = owner is not None and owner.alive
    if alive:
        state = "running"
    elif step >= steps:
        state = "finished"
    else:
        state = "failed" if failure else "stopped"
    rate = last.get("steps_per_s") if alive else None
    return {
        "run": run.path.name,
        "state": state,
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
    }
