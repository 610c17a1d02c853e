"""The run directory: its files, checkpoints, lock, remote copy, status and event files.

Not here: training. It takes dictionaries, arrays and tensors, and knows nothing of what they are for.
"""

from ndsm.runs.directory import Run

__all__ = ["Run"]
