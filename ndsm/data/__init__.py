"""Data sets: tables from files, scikit-learn's digits and 2-D toys, as one float32 array in model units.

Model units are those that everything learns in, standardised and perhaps whitened; original units are the source's.
`Scaling` goes between the two, `TableSchema` keeps the source's columns so that generated rows get the same ones.
Not here: networks, and anything that is trained.
"""

from ndsm.data.dataset import Dataset
from ndsm.data.images import ImageView
from ndsm.data.labels import Labels
from ndsm.data.scaling import Scaling
from ndsm.data.sources import load
from ndsm.data.table_reader import open_table
from ndsm.data.table_schema import TableSchema
from ndsm.data.table_writer import TableWriter
from ndsm.data.toys import Toy, make_toy

__all__ = [
    "Dataset",
    "ImageView",
    "Labels",
    "Scaling",
    "TableSchema",
    "TableWriter",
    "Toy",
    "load",
    "make_toy",
    "open_table",
]
