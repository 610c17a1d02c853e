"""A trained run's files, sent through Ray to machines that do not see its folder."""

import tempfile
from pathlib import Path
from typing import Any

import ray

from ndsm.runs import Run
from ndsm.runs.layout import MODEL_FILES

_downloads: list[tempfile.TemporaryDirectory[str]] = []
"""Folders of this process, which end with it."""


class SentRun:
    """What a trained model is made from; what is pickled is a reference to it.

    Args:
        run: of this machine.
    """

    def __init__(self, run: Run) -> None:
        files = {name: run.path / name for name in MODEL_FILES}
        content = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
        self._name, self._files = run.path.name, [ray.put(content)]

    def here(self) -> Run:
        """Return the run in a folder of this process."""
        folder = tempfile.TemporaryDirectory(prefix="ndsm-")
        _downloads.append(folder)
        path = Path(folder.name) / self._name
        path.mkdir()
        content: dict[str, Any] = ray.get(self._files[0])
        for name, data in content.items():
            (path / name).write_bytes(data)
        return Run(path)
