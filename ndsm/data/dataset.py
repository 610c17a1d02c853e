"""A data set in memory: training and validation rows in model units, with the way back to the source."""

from dataclasses import dataclass

import numpy as np

from ndsm.data.images import ImageView
from ndsm.data.labels import Labels
from ndsm.data.scaling import Scaling
from ndsm.data.table_schema import TableSchema
from ndsm.data.toys import Toy


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and validation rows in model units, and the way back to the source's units and columns."""

    train: np.ndarray
    """(N, d) float32, C-contiguous."""
    validation: np.ndarray
    """(M, d) float32, C-contiguous; M may be 0."""
    scaling: Scaling
    """Converts between original and model units."""
    schema: TableSchema
    """Columns of the source."""
    stamp: str
    """Hash of all rows in standardised units: a whitened row's last bit may depend on the machine."""
    train_labels: np.ndarray | None
    """(N,) int64: the digit or the toy's mode."""
    validation_labels: np.ndarray | None
    """(M,) int64, as train_labels."""
    toy: Toy | None
    """The true law of a toy, in original units."""
    view: ImageView | None = None
    """How MNIST's rows are seen as images."""
    class_names: tuple[str, ...] | None = None
    """Names of the labels: a folder's sub-folders."""
    labels: Labels | None = None
    """Labels of a table, which the numbers index."""
    left_out: tuple[str, ...] = ()
    """Columns of the table that are the index of a data frame, and not learned."""

    @property
    def label_count(self) -> int:
        """Number of different labels, 0 without labels."""
        if self.labels is not None or self.class_names is not None:
            return len(self.labels.values if self.labels is not None else self.class_names or ())
        parts = [
            part for part in (self.train_labels, self.validation_labels) if part is not None and len(part)
        ]
        return max((int(part.max()) + 1 for part in parts), default=0)

    @property
    def notice(self) -> str | None:
        """Notice about columns that are left out without being asked for, None if there are none."""
        if not self.left_out:
            return None
        names = ", ".join(map(repr, self.left_out))
        return (
            f"not learned, since it is the index of a pandas data frame: {names}; data.columns can take it in"
        )
