"""A run's numbers as TensorBoard event files: `tensorboard --logdir runs`.

Lines of metrics and evaluations have a folder each: TensorBoard reads a folder's newest file only, and the two are written
by different processes.
"""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from PIL import Image


class EventFiles:
    """Context manager that writes lines of `metrics.jsonl` as scalars, or evaluations with their pictures.

    Args:
        folder: of the event files, `Run.tensorboard` or `Run.tensorboard_evaluations`.
        step: step that the run is at; what an earlier process wrote of later steps is hidden.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        # By itself it names files by the second, and a run that resumes within one would write over the file before.
        self._writer = SummaryWriter(
            str(folder),
            purge_step=step + 1 if step else None,
            filename_suffix=f".{time.time_ns()}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def scalars(self, metrics: dict[str, Any]) -> None:
        """Add the numbers of one line."""
        for name, value in metrics.items():
            if name not in ("step", "time", "events"):
                self._writer.add_scalar(f"train/{name}", value, metrics["step"])
        self._writer.flush()

    def evaluation(self, metrics: dict[str, Any], picture: Path | BinaryIO, step: int) -> None:
        """Add the numbers and the picture of an evaluation, a PNG."""
        for name, value in metrics.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(f"evaluation/{name}", value, step)
        with Image.open(picture) as image:
            self._writer.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()
