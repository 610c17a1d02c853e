"""The command line: commands and their options, and what they print.

Not here: what a command does (`ndsm.workflows`, `ndsm.reproduce`, `ndsm.report`; `pipelines` and `tuning` with Ray).
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. See `ndsm.cli.app`.

    Args:
        arguments: those of the process if not given, which a terminating signal then ends here: taking the interpreter down in
            order takes seconds after Ray and PyTorch, and what is saved is saved.
    """
    # Whoever needs only the console has not to import every command.
    from ndsm.cli import app

    code = app.main(arguments)
    if arguments is None and code == app.TERMINATED:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code
