"""Log-densities of the rows of a Parquet file or folder, shared among workers by Ray Data."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import ray.data
import torch
from ray.data.datasource.partitioning import Partitioning, PartitionStyle

from ndsm.core.places import Place
from ndsm.core.progress import say
from ndsm.data.cells import in_unit, to_floats
from ndsm.data.parquet_folders import FolderReader
from ndsm.data.table_formats import ParquetReader, Reader, kind_of
from ndsm.data.table_reader import Table
from ndsm.errors import InputError
from ndsm.inference.likelihood import COLUMNS
from ndsm.runs import Run
from ndsm.workflows.score_table import RowScorer, open_rows
from pipelines.cluster import cluster
from pipelines.growth import grown, let_go
from pipelines.resources import Cluster, gpu_of_each
from pipelines.room import wait_for_room
from pipelines.sent_run import SentRun
from pipelines.shared_paths import check_seen, seen

BATCH_ROWS = 4096
"""Rows that a worker is handed at a time."""
SENT_ROWS = 1 << 16
"""Rows of a block that is sent."""


class _Worker:
    """One actor with the model."""

    def __init__(
        self, run: SentRun, columns: list[str], units: list[pa.DataType | None], settings: dict[str, Any]
    ) -> None:
        # Ray grants one CPU.
        torch.set_num_threads(1)
        self._scorer, self._columns, self._units = RowScorer(run.here(), **settings), columns, units

    def __call__(self, batch: pa.Table) -> pa.Table:
        columns = [batch[name].combine_chunks() for name in self._columns]
        rows = np.stack([to_floats(in_unit(*pair)) for pair in zip(columns, self._units, strict=True)], 1)
        for name, values in zip(COLUMNS, self._scorer(rows).T, strict=True):
            batch = batch.append_column(name, pa.array(values))
        return batch


def score_on_ray(
    run: Run, data: str | Path, out: str | Path, workers: int, settings: dict[str, Any]
) -> float:
    """Write the rows of a Parquet file or folder with their log-densities to the new folder `out`; the mean in nats.

    Rows keep their columns and come in no particular order.

    Args:
        out: a path that all nodes see, or a URI.
        data: a path or a URI; rows of a path that a node does not see are read here and sent.
        workers: actors with one CPU each, and one GPU each if the cluster has as many; otherwise they compute on their CPUs.
        settings: as `RowScorer`.

    Raises:
        InputError: the data are no Parquet files with finite numbers in the run's columns, the folder exists, the workers do
            not fit, or a node does not see `out`.
    """
    if kind_of(data) != "Parquet" or run.schema().list_column:
        raise InputError(
            f"{data}: expected a .parquet file or a folder of them with a column per dimension for --workers"
        )
    place = Place(out)
    if place.exists() or Path(str(place)).suffix:
        raise InputError(f"--out: expected the name of a new folder for --workers, found {place}")
    # Workers see rows in no order: here the sentence on a number that is not finite can say where it is.
    table = open_rows(run, data)
    for _ in table.batches():
        pass
    with cluster() as found:
        seconds = run.config().train.start_seconds
        before, bundles = found, [{"CPU": 1}] * (workers + 1)
        found = grown(found, bundles, lambda there: check_workers(there, workers), seconds, say)
        check_seen(written=[place.path.parent] if place.path else [])
        sent = not seen(read=local_paths(table.reader))
        if sent:
            say(f"not all nodes see {data}: its rows are read on this one and sent")
        device = run.config().train.device
        gpus = gpu_of_each(found, device, workers)
        if found.gpus and not gpus and device != "cpu":
            say(
                f"{workers} workers on CPUs: the cluster has {found.gpus:g} GPUs, and each worker would need one of its own"
            )
        # Said, not left to what they see: Ray hides no GPU from an actor that reserved none.
        settings = {**settings, "device": "auto" if gpus else "cpu"}
        # One of them and the reader.
        wait_for_room({"CPU": 1.0, "GPU": float(gpus)}, 2, seconds, say)
        if found is not before:
            let_go()
        rows = send_files(table) if sent else read_files(table)
        scored = rows.map_batches(
            _Worker,
            fn_constructor_args=(
                SentRun(run),
                run.schema().dimension_names,
                list(table.units),
                settings,
            ),
            batch_size=BATCH_ROWS,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=gpus,
        )
        scored.write_parquet(place.root, filesystem=place.filesystem)
    column = pa.dataset.dataset(place.root, filesystem=place.filesystem).to_table(columns=[COLUMNS[0]])[
        COLUMNS[0]
    ]
    return float(pa.compute.mean(column).as_py())


def local_paths(reader: Reader) -> list[Path]:
    """Return the path of the data, if they are files of this machine."""
    return [Path(reader.location.path)] if reader.location.is_local else []


def read_files(table: Table) -> ray.data.Dataset:
    """The columns of a table of Parquet files, those of the folders' names with the types that the table gives them."""
    reader = table.reader
    assert isinstance(reader, ParquetReader | FolderReader)
    root, paths = reader.location.path, reader.paths
    if reader.location.is_local:
        # The reading tasks may have another working directory.
        root, paths = os.path.abspath(root), [os.path.abspath(path) for path in paths]
    kinds = {
        name: int if pa.types.is_integer(reader.schema.field(name).type) else float
        for name in table.names
        if isinstance(reader, FolderReader) and name in reader.keys
    }
    return ray.data.read_parquet(
        paths,
        filesystem=reader.location.filesystem,
        partitioning=Partitioning(PartitionStyle.HIVE, root, field_types=kinds),
    )


def send_files(table: Table) -> ray.data.Dataset:
    """As `read_files`, read by this process: for files that other nodes do not see."""
    reader = table.reader
    assert isinstance(reader, ParquetReader | FolderReader)
    keys = [reader.schema.field(name) for name in reader.keys] if isinstance(reader, FolderReader) else []
    found = pa.dataset.dataset(
        reader.paths,
        filesystem=reader.location.filesystem,
        format="parquet",
        partitioning=pa.dataset.partitioning(pa.schema(keys), flavor="hive") if keys else None,
        partition_base_dir=reader.location.path if keys else None,
    )
    batches = found.to_batches(batch_size=SENT_ROWS)
    # Each is put into the object store, which spills to the disk, before the next one is read.
    return ray.data.from_arrow_refs(
        [ray.put(pa.Table.from_batches([batch])) for batch in batches if len(batch)]
    )


def check_workers(found: Cluster, workers: int) -> None:
    """Raise an error if the workers do not fit the cluster beside the task that reads.

    Raises:
        InputError: they do not; Ray itself would wait for ever.
    """
    if workers + 1 > found.cpus:
        raise InputError(
            f"the cluster has {found.cpus:g} CPUs, but {workers} workers and the reader need {workers + 1}; lower --workers"
        )
