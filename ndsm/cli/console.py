"""Tables and lines that commands print, and the progress of a training."""

import json
import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ndsm.core.progress import PLAIN_SECONDS, is_quiet, say
from ndsm.report.evaluation import evaluation_rows, verdict

if TYPE_CHECKING:
    from ndsm.reproduce import Group

WARM_UP = "waiting for rollouts"


def print_result(found: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Print what a command found: as one JSON object for other programs, or as `show` does."""
    if as_json:
        print(json.dumps(found, default=str))
    else:
        show()


class TrainingProgress:
    """Shows the lines of `metrics.jsonl` as they come.

    Args:
        steps: of the whole run.
        done: already taken, when the run is resumed.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        self._steps = steps
        self._printed = 0.0
        self._bar: Progress | None = None
        if sys.stderr.isatty() and not is_quiet():
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[numbers]}"),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=steps, completed=done, numbers=WARM_UP)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def warm_up(self) -> None:
        """Say that no step is taken before there are enough rollouts; the bar says it from its start."""
        if self._bar is None:
            say(WARM_UP, sys.stderr)

    def show(self, metrics: dict[str, Any]) -> None:
        """Show one line of metrics."""
        step, rate = metrics["step"], metrics["steps_per_s"]
        numbers = (
            f"step {step}/{self._steps}  loss {metrics['loss']:.4g}  {rate:.0f} step/s  "
            f"rollouts {metrics['rollout_rows_per_s']:.0f} rows/s  stall {100 * metrics['stall_fraction']:.1f} %"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
            return
        now = time.monotonic()
        if now - self._printed < PLAIN_SECONDS and step < self._steps:
            return
        self._printed = now
        say(f"{numbers}  ETA {(self._steps - step) / max(rate, 1e-9):.0f} s", sys.stderr)


def print_evaluation(metrics: dict[str, Any]) -> None:
    """Print the metrics beside their floor and those of the mixture alone."""
    table = Table(
        title=f"{metrics['n']} generated rows against {metrics['reference']} ({metrics['n_reference']} rows)"
    )
    for name in ("", "model", "mixture alone", "true data (floor)"):
        table.add_column(name, justify="left" if not name else "right")
    for label, *values in evaluation_rows(metrics):
        table.add_row(label, *("" if v is None else f"{v:.4g}" for v in values))
    if metrics.get("nonfinite"):
        table.add_row(
            "rows with NaN or infinity", str(metrics["nonfinite"]), str(metrics["prior"]["nonfinite"]), ""
        )
    from ndsm.workflows.prior_match import prior_warning

    if (match := metrics.get("prior_match")) is not None:
        table.add_row(
            "noised data (Y_T) to the prior", f"{match:.4g}", "", f"{metrics['prior_match_floor']:.4g}"
        )
    _print(table)
    if "verdict" in metrics:
        print(f"verdict: {verdict(metrics)}")
    if warning := prior_warning(metrics):
        print(f"ndsm: warning: {warning}", file=sys.stderr)


def print_status(status: dict[str, Any]) -> None:
    """Print what `ndsm status` found."""
    how = ", fitted in Python" if status["fitted_in_python"] else ""
    if status["state"] == "running" and status["process"]["host"] != socket.gethostname():
        how = f" on {status['process']['host']}"
    print(
        f"{status['run']}: {status['state']}{how}, step {status['step']} of {status['steps']} ({status['percent']:.1f} %)"
    )
    if status["failure"]:
        print(f"ended by: {status['failure']}")
    if status["storage_failure"]:
        print(
            f"train.storage does not answer, this is what the folder here tells: {status['storage_failure']}"
        )
    if status["steps_per_s"]:
        print(f"{status['steps_per_s']:.1f} step/s, {status['eta_seconds']:.0f} s left")
    if "loss" in status:
        print(
            f"loss {status['loss']:.4g}, gradient norm {status['grad_norm']:.3g}, stall "
            f"{100 * status['stall_fraction']:.1f} %, each row used {status['samples_per_insert']:.2f} times"
        )
        print(
            f"{status['workers']} workers, {status['simulators']} simulators, rollouts "
            f"{status['rollout_rows_per_s']:.0f} rows/s, {status['restarts']} restarts"
        )
    if "goodput" in status:
        print(
            f"goodput {100 * status['goodput']:.1f} % of {status['wall_seconds']:.0f} s: steps {status['useful_seconds']:.0f} s, stalls "
            f"{status['stall_seconds']:.0f} s, saving and evaluating {status['pause_seconds']:.0f} s, warm-up "
            f"{status['warm_up_seconds']:.0f} s, starts and lost work {status['restart_seconds']:.0f} s"
        )
    if status.get("blocks_skipped"):
        print(f"{status['blocks_skipped']:.0f} blocks could not be simulated and are replaced by others")
    if checkpoint := status["checkpoint"]:
        print(f"last checkpoint: step {checkpoint['step']}, {checkpoint['age_seconds']:.0f} s ago")
    for event in status["events"]:
        print(f"{time.strftime('%H:%M:%S', time.localtime(event['time']))} {event['event']}")
    if process := status["process"]:
        life = "alive" if process["alive"] else "ended"
        print(f"process {process['pid']} on {process['host']}: {life}")


def print_study(title: str, metrics: tuple[str, ...], groups: "list[Group]", floor: dict[str, float]) -> None:
    """Print the table of `ndsm reproduce`: the medians of the metrics, of the first one also its range."""
    first, *others = metrics
    timed = any("equal_time" in group.median for group in groups)
    table = Table(title=f"{title}; medians over runs")
    further = ("core s", f"{first} at equal core s") if timed else ()
    for name in ("row", "runs", first, "from - to", *others, "training s", *further):
        table.add_column(name, justify="left" if name == "row" else "right")
    for group in groups:
        m = group.median
        row = [group.label, str(group.runs), f"{m[first]:.4g}", " - ".join(f"{x:.4g}" for x in group.spread)]
        row += [f"{m[key]:.4g}" for key in others] + [f"{m['train_seconds']:.0f}"]
        if timed:
            row += [f"{m[key]:.4g}" if key in m else "" for key in ("cpu_seconds", "equal_time")]
        table.add_row(*row)
    table.add_row(
        "true data (floor)",
        "",
        f"{floor[first]:.4g}" if first in floor else "",
        "",
        *(f"{floor[key]:.4g}" if key in floor else "" for key in others),
    )
    _print(table, 120)


def print_variance(result: dict[str, Any]) -> None:
    """Print the table of `ndsm bench variance`."""
    table = Table(
        title=f"{result['preset']}: per-sample gradient variance, {result['n']} rows, {result['weighting']}-weighted"
    )
    fifths = [f"fifth {i}" for i in range(1, 6)]
    for name in ("objective", "total", *fifths, "mean gap / se"):
        table.add_column(name, justify="left" if name == "objective" else "right")
    for name, row in result["objectives"].items():
        numbers = [row["total"], *row["fifths"], row["mean_gap_se"]]
        table.add_row(name, *(f"{x:.3g}" for x in numbers))
    _print(table, 110)


def _print(table: Table, width: int = 100) -> None:
    """Print a table in the terminal's width, or in this one where there is no terminal."""
    Console(width=width if not sys.stdout.isatty() else None).print(table)
