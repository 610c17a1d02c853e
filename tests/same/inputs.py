"""Data that the cases read, made anew each time: nothing is downloaded."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def blobs(n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 4) float64 of three clusters, and the cluster of each, (n,)."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 3, n)
    centers = np.array([[0, 0, 3, 1], [4, 0, -2, 1], [0, 5, 0, -3.0]])
    return centers[cluster] + rng.normal(size=(n, 4)) * [0.3, 0.8, 0.5, 1.0], cluster


def with_holes(table: pa.Table, names: list[str]) -> pa.Table:
    """The first twelve rows; each of these columns lacks every third number."""
    table = table.slice(0, 12)
    for k, name in enumerate(names):
        values = table[name].to_pylist()
        kept = [None if i % 3 == k % 3 else value for i, value in enumerate(values)]
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(kept, table[name].type))
    return table


def write_inputs(folder: Path) -> None:
    """Write tables, images and small files in MNIST's format."""
    rows, cluster = blobs()
    np.save(folder / "rows.npy", rows)
    table = pa.table({f"x{j}": rows[:, j] for j in range(4)})
    pq.write_table(table.slice(0, 16), folder / "rows.parquet")
    pq.write_table(with_holes(table, ["x0", "x1", "x3"]), folder / "holes.parquet")
    _write_tables(folder, rows, cluster)
    rng = np.random.default_rng(1)
    np.save(folder / "digits.npy", rng.integers(0, 17, (3, 64)).astype(np.float64))
    for k, name in enumerate(("dark", "light")):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(100 * k, 100 * k + 120, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels, "L").save(folder / "images" / name / f"{i:03d}.png")
    raw = folder / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, n in {"train": 256, "t10k": 64}.items():
        digits = (np.arange(n) % 10).astype(np.uint8)
        pictures = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        for i, digit in enumerate(digits):
            pictures[i, 2 * digit : 2 * digit + 8, 4:20] += 150
        for name, array in (("images-idx3", pictures), ("labels-idx1", digits)):
            header = b"".join(int(x).to_bytes(4, "big") for x in (0x800 + array.ndim, *array.shape))
            (raw / f"{split}-{name}-ubyte").write_bytes(header + array.tobytes())


def _write_tables(folder: Path, rows: np.ndarray, cluster: np.ndarray) -> None:
    """A table with columns of every kind, as Parquet, as text and with holes."""
    columns = {
        "height": rows[:, 0],
        "count": np.abs(rows[:, 1] * 10).astype(np.int64),
        "flag": rows[:, 2] > 0,
        "day": [date(2020, 1, 1) + timedelta(days=int(5 * abs(x))) for x in rows[:, 3]],
        "kind": ["abc"[k] for k in cluster],
    }
    table = pa.table(columns)
    pq.write_table(table, folder / "table.parquet")
    pq.write_table(with_holes(table, ["height", "count"]), folder / "table-holes.parquet")
    lines = [
        f"{h:.6f}".replace(".", ",") + f";{n}"
        for h, n in zip(columns["height"], columns["count"], strict=True)
    ]
    (folder / "table.csv").write_text("\n".join(["measured in 2020", "height;count", *lines]) + "\n")
