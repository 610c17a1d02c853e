"""A run's numbers as TensorBoard event files: `tensorboard --logdir runs`."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from ndsm.run import Run


class EventFiles:
    """Context manager that writes lines of `metrics.jsonl` as scalars.

    Args:
        run: whose folder they go to.
        step: where the run stands; what an earlier process wrote of later steps is hidden.
    """

    def __init__(self, run: Run, step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        # By itself it names files by the second, and a run that resumes within one would write over the file before.
        self._writer = SummaryWriter(
            str(run.tensorboard),
            purge_step=step + 1 if step else None,
            filename_suffix=f".{time.time_ns()}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def scalars(self, metrics: dict[str, Any]) -> None:
        """Add the numbers of one line."""
        for name, value in metrics.items():
            if name not in ("step", "time"):
                self._writer.add_scalar(f"train/{name}", value, metrics["step"])
        self._writer.flush()

    def evaluation(self, metrics: dict[str, Any], picture: Path, step: int) -> None:
        """Add the numbers and the picture of an evaluation."""
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"evaluation/{name}", value, step)
        with Image.open(picture) as image:
            self._writer.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")
