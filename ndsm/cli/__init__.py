"""The command line: commands and their options, and what they print.

Not here: what a command does (`ndsm.workflows`, `ndsm.reproduce`, `ndsm.report`; `pipelines` and `tuning` with Ray).
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. See `ndsm.cli.app`."""
    # Whoever needs only the console has not to import every command.
    from ndsm.cli import app

    return app.main(arguments)
