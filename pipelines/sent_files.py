"""Files of this machine, sent through Ray to nodes that do not have them."""

import socket
from collections.abc import Sequence
from pathlib import Path

import ray

from ndsm.core.atomic_file import write_whole
from ndsm.errors import InputError


class SentFiles:
    """Files for a node to have under the same paths; what is pickled are these and references to the contents.

    Args:
        paths: absolute, of files of this machine.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = {path: [ray.put(path.read_bytes())] for path in paths}

    def place(self) -> None:
        """Write those that this node does not have.

        Raises:
            InputError: they cannot be written.
        """
        for path, (content,) in self._files.items():
            if path.is_file():
                continue
            try:
                write_whole(path, ray.get(content))
            except OSError as error:
                raise InputError(
                    f"node {socket.gethostname()}: expected {path} or a folder that it can be written to, found {error}"
                ) from None
