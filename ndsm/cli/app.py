"""The command line: `ndsm COMMAND ...`.

Exit codes: 0 done; 1 a failure while working, the run can be resumed; 2 bad input, nothing was written; 130
stopped by Ctrl-C and 143 by SIGTERM or SIGHUP, a checkpoint was saved. `pipelines` and `tuning` are imported only by the commands that need Ray.
"""

import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from ndsm.cli.about import completion_command, doctor_command, presets_command
from ndsm.cli.rows import impute_command, sample_command, score_command
from ndsm.cli.runs import evaluate_command, report_command, status_command, train_command
from ndsm.cli.studies import bench_command, reproduce_command, tune_command
from ndsm.core.cores import bound_cores, given_threads, usable_cores
from ndsm.core.interrupt import Interrupted, is_terminated, terminable
from ndsm.errors import InputError, Unfinished

TERMINATED = 143
"""Exit code after a terminating signal, as shells give it for SIGTERM."""
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "train": (train_command, "train a preset or a configuration file, and evaluate it"),
    "sample": (sample_command, "generate rows with a trained run"),
    "impute": (impute_command, "complete a table with missing numbers"),
    "evaluate": (evaluate_command, "compare generated rows with the data"),
    "report": (report_command, "write a run's page: quality, curves, mixture, configuration"),
    "status": (status_command, "tell what a live or finished run is doing"),
    "score": (score_command, "log-density of each row of a table under a trained run"),
    "bench": (bench_command, "measure gradient variances: ndsm bench variance PRESET"),
    "reproduce": (
        reproduce_command,
        "run an experiment of the paper: fig2, fig3, fig6, fig7, fig8, table1 to 3, ablation-mixture",
    ),
    "tune": (tune_command, "search for a better configuration than a preset's"),
    "completion": (completion_command, "print a completion script: ndsm completion bash|zsh"),
    "presets": (presets_command, "list the packaged presets"),
    "doctor": (doctor_command, "check the installation, cores, GPUs and Ray"),
}


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: ndsm COMMAND [options]", "", *lines, "", "ndsm COMMAND --help tells each one's options"]
    )


def check_packages() -> None:
    """Raise if Python finds others than this installation's `pipelines` and `tuning`, as in the working directory of a Ray job.

    Raises:
        InputError: it does; says where.
    """
    here = Path(__file__).resolve().parents[2]
    for name in ("pipelines", "tuning"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found and not found.is_relative_to(here):
            what = found.parent if found.name == "__init__.py" else found
            raise InputError(
                f"expected the package {name!r} in {here}, beside ndsm, found {what}, which comes first on Python's path; rename it, "
                "or start the command, or submit the job, with another working directory"
            )


def nobody_reads() -> bool:
    """Return whether the standard output is a pipe whose reader, such as `head`, has closed it."""
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line, without the place in the program that it comes from."""
    print(f"ndsm: warning: {message}", file=sys.stderr, flush=True)


@contextmanager
def limited_threads() -> Iterator[None]:
    """Let a command use the cores that its container allows; PyTorch itself heeds what its process is bound to, and OMP_NUM_THREADS."""
    if given_threads() or usable_cores() >= bound_cores():
        yield
        return
    # Only here, since not every command needs PyTorch.
    from ndsm.core.global_state import usable_threads

    with usable_threads():
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"ndsm {version('ndsm')}")
        return 0
    try:
        if args[0] not in COMMANDS:
            raise InputError(f"no command {args[0]!r}: expected one of {', '.join(COMMANDS)}")
        check_packages()
        with terminable(), limited_threads(), warnings.catch_warnings():
            warnings.showwarning = show_warning
            # torch's own, on the first directional derivative.
            warnings.filterwarnings("ignore", message=r".*jit\.script.*", category=FutureWarning)
            # Settings of one command, such as --quiet, end with it.
            copy_context().run(COMMANDS[args[0]][0], args[1:])
        sys.stdout.flush()
    except InputError as error:
        print(f"ndsm: {error}", file=sys.stderr)
        return 2
    except Unfinished as error:
        print(f"ndsm: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt):
        return TERMINATED if is_terminated() else 130
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except Exception as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            # The interpreter flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        if os.environ.get("NDSM_TRACEBACK"):
            raise
        print(f"ndsm: {type(error).__name__}: {error}", file=sys.stderr)
        print(
            "the run can be resumed by the same command; NDSM_TRACEBACK=1 shows where it failed",
            file=sys.stderr,
        )
        return 1
    return 0
