"""The section `data`: which rows are learned, and how they are scaled."""

import codecs
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from ndsm.config.column_types import ColumnType
from ndsm.config.roles import names_of, setting
from ndsm.config.section import Section
from ndsm.core.uris import is_uri

IMAGES = ("digits", "mnist", "c2-mnist", "images")
"""Data sets whose rows are square images, pixel row by pixel row."""

CONTINUOUS = ("mnist-latent", "arcs", "rings", "checkerboard", "gaussians")
"""Data sets whose numbers are known to come in no steps."""


class Csv(Section):
    """How tables as text are written."""

    delimiter: str | None = setting("data", None)
    """What separates fields: one character, or \\t; null: a comma, in .tsv files a tab."""
    decimal_point: Literal[".", ","] = setting("data", ".")
    """What separates the fraction of a number."""
    encoding: str = setting("data", "utf-8")
    """Encoding of the text, as Python calls it, such as utf-16 or cp1252."""
    skip_rows: int = setting("data", 0, ge=0)
    """Lines before the one with the column names."""

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_one_character(cls, value: str | None) -> str | None:
        value = "\t" if value == "\\t" else value
        if value is not None and (len(value) != 1 or not value.isascii() or value in '\n\r"'):
            raise ValueError(f"expected one ASCII character, or \\t, found {value!r}")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError(
                f"expected an encoding that Python knows, such as utf-8, utf-16 or cp1252, found {value!r}"
            ) from None


class Data(Section):
    """Where the rows come from and how they are prepared."""

    name: Literal[
        "digits",
        "mnist",
        "mnist-latent",
        "c2-mnist",
        "arcs",
        "rings",
        "checkerboard",
        "gaussians",
        "vectors",
        "images",
    ] = setting("data", "digits", basic=True)
    """Data set: scikit-learn's digits; MNIST, its latent space (an autoencoder's four numbers), MNIST with every other
    image turned and halved; a 2-D toy; `vectors` (the table at data.path); or `images` (the folder or .parquet file at
    data.path)."""
    root: Path = setting("storage", Path("data"))
    """Folder with MNIST/raw; its files are downloaded there if they are missing."""
    path: str | None = setting("data", None, basic=True)
    """Table for `vectors`: .npy, .csv/.tsv (compressed as .csv.gz or not), .parquet, .arrow/.feather, or a folder of Parquet
    files; a path or a URI (s3://bucket/table.parquet, gs://..., file:///...). Square grey `images`: a folder of files, in
    sub-folders if they have classes, or a .parquet file with a column of encoded ones."""
    csv: Csv = Csv()
    columns: tuple[str, ...] | None = setting("data", None, basic=True)
    """Columns of the table to learn; all of them if not given. The column of images."""
    labels: str | None = setting("data", None, basic=True)
    """Column of the table that holds labels: text, true/false, whole numbers or dates; it is not learned."""
    standardize: bool = setting("scaling", True)
    """Shift and scale each dimension to mean 0 and variance 1; undone on output."""
    transform: Literal["standard", "auto"] = setting("scaling", "standard")
    """How a table's columns become numbers to learn: `standard` shifts and scales; `auto` finds what each column needs: steps of
    whole numbers and decimals, bounds, point masses, heavy tails (normal quantiles or a logarithm), and passes constants through;
    undone exactly on output. A list column, and a table with data.dequantize or without data.standardize, are treated as by `standard`."""
    column_types: dict[str, str] = setting("scaling", {})
    """Types of single columns by name: `int` or `float`, bounds, and `standard`, `log` or `quantile`, such as `int[18,90]`,
    `float[0,] log` or `quantile`; what is left out is found in the data. As an option: --data.column-types.NAME TYPE."""
    whiten: Literal["none", "within-mode"] = setting("scaling", "none")
    """After standardising, mix the dimensions so that the modes become nearly round; undone on output."""
    whiten_components: int = setting("scaling", 10, ge=1)
    """Modes that the whitening tells apart; about reference.n_components."""
    whiten_samples: int = setting("scaling", 10_000, ge=2)
    """Rows the whitening is fitted on (at most; drawn at random)."""
    symmetry: Literal["none", "c2"] = setting("scaling", "none")
    """What is known to leave the law of images as it is: c2, turning them by 180° (reversing the row of pixels). Scaling,
    mixture and score, and with them the law of what is generated, are then made exactly symmetric."""
    dequantize: float | None = setting("data", None, gt=0.0)
    """Width of a grey level or of an integer's step in the data's own units: uniform noise of that width is added to every
    number, so that the rows have a density (digits: 1; mnist: 0.0039215686; integers: 1); undone on output."""
    n: int | None = setting("data", None, ge=2, basic=True)
    """Use the first n rows after the seeded shuffle (toys: how many to draw, 10,000 if not given)."""
    validation_fraction: float = setting("data", 0.1, ge=0.0, lt=1.0)
    """Share of the rows held out for evaluation; MNIST has a test split of its own."""

    @property
    def transforms_columns(self) -> bool:
        """Whether columns of a table have transforms of their own."""
        chosen = self.transform == "auto" or bool(self.column_types)
        return chosen and self.standardize and self.dequantize is None

    def unscaled(self) -> "Data":
        """The same rows in their own units."""
        usual = {name: type(self).model_fields[name].default for name in names_of(Data, "scaling")}
        return self.model_copy(update=usual | {"standardize": False})

    @field_validator("column_types")
    @classmethod
    def _column_types_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            try:
                ColumnType.parse(text)
            except ValueError as error:
                raise ValueError(f"column {name!r}: {error}") from None
        return value

    @field_validator("path", mode="before")
    @classmethod
    def _paths_are_text(cls, value: Any) -> Any:
        """The same text for the same path, and a URI as it is: Python's `Path` would make one slash of its two."""
        if value == "":
            # A shell's variable that is not set: as a path it would be the folder where the command runs.
            raise ValueError("expected a path or a URI, found ''")
        if isinstance(value, str | Path) and not is_uri(value):
            return str(Path(value))
        return value
