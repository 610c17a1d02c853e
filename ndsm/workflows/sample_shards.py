"""Generation of many rows, in several sittings if need be, to a folder of Parquet files.

Rows are made in chunks of 4096 with a random stream each, (seed, "sample", chunk). A file is a run of consecutive chunks, so
that whoever makes it, in whatever order, the folder holds the rows that one process would write to one file.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ndsm.config import Config, flatten
from ndsm.config.roles import names_of
from ndsm.core.folders import first_foreign
from ndsm.core.places import Place
from ndsm.data import TableWriter
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.identity import training_hash
from ndsm.samplers import CHUNK, requested_sample
from ndsm.workflows.trained_model import TrainedModel

DESCRIPTION = "_generation.json"
CHUNKS_PER_FILE = 64
FILE_ROWS = CHUNKS_PER_FILE * CHUNK
"""262,144 rows: tens of megabytes for tens of columns, and a few minutes of work, which is what a crash costs at most."""


@dataclass(frozen=True)
class SampleRequest:
    """Request of `ndsm sample`."""

    n: int
    seed: int = 0
    steps: int | None = None
    sampler: str | None = None
    """Both the run's if not given."""
    chunks_per_file: int = CHUNKS_PER_FILE
    noise: float | None = None
    """As `TrainedModel.rows`."""


@dataclass(frozen=True)
class Shard:
    """One of the folder's files."""

    file: str
    first_chunk: int
    rows: int


class ShardFolder:
    """A folder that is filled shard by shard, over several sittings.

    `_generation.json` in it (readers of Parquet folders pass over such a name) says what the rows are: the run, the hashes
    of its configuration and weights, the request, all of `sample` as it counts for it, and of each file its seed, first
    chunk and rows.

    Args:
        place: a new folder or one of the same request, a path or a URI.

    Raises:
        InputError: the folder holds something else.
    """

    def __init__(self, place: Path | str, run: Run, request: SampleRequest) -> None:
        self.place, self.run, self.request = Place(place), run, request
        self.path = self.place.path
        """The folder on this machine; None at a URI."""
        rows = request.chunks_per_file * CHUNK
        self.parts = [
            Shard(f"part-{k:05d}.parquet", k * request.chunks_per_file, min(rows, request.n - k * rows))
            for k in range(-(-request.n // rows))
        ]
        description = self._describe()
        names = self.place.names()
        if DESCRIPTION not in names:
            if first_foreign(names, (DESCRIPTION,)):
                raise InputError(
                    f"{self.place}: expected a new or empty folder, or one of `ndsm sample`, found another"
                )
            self.place.write(DESCRIPTION, json.dumps(description, indent=1).encode())
            return
        try:
            # What older versions did not write down, they left at its default.
            usual = {"training": description["training"], **_sampling(Config())}
            found = usual | json.loads(self.place.read(DESCRIPTION))
            differing = [
                f"{key} ({found[key]} before, {value} now)"
                for key, value in description.items()
                if found[key] != value and key != "parts"
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.place}/{DESCRIPTION}: expected what `ndsm sample` wrote, found {error!r}"
            ) from None
        if differing:
            raise InputError(f"{self.place} holds other rows: {', '.join(differing)}; give another --out")

    def _describe(self) -> dict[str, Any]:
        request, config = self.request, self.run.config()
        sample = requested_sample(config.sample, request.sampler, request.steps, request.noise)
        return {
            "run": self.run.path.name,
            "training": training_hash(config),
            "weights": self.run.weights_stamp(),
            **asdict(request),
            **_sampling(config.model_copy(update={"sample": sample})),
            "rows_per_chunk": CHUNK,
            "parts": [{**vars(part), "seed": request.seed} for part in self.parts],
        }

    def missing(self) -> list[Shard]:
        """Return the shards that have not been made."""
        there = set(self.place.names())
        return [part for part in self.parts if part.file not in there]

    def forget(self) -> None:
        """Delete the description of a folder without a shard, and the folder if it is then empty."""
        if len(self.missing()) == len(self.parts):
            self.place.delete(DESCRIPTION)

    def make(self, model: TrainedModel, part: Shard) -> None:
        """Generate the rows of a shard and write its file, holding one chunk in memory at a time."""
        request = self.request
        with self.place.new_file(part.file) as file, TableWriter(file, model.schema) as out:
            for rows, _ in model.sample(
                part.rows,
                request.seed,
                request.steps,
                sampler=request.sampler,
                first_chunk=part.first_chunk,
                noise=request.noise,
            ):
                out.write(rows)


def _sampling(config: Config) -> dict[str, Any]:
    """Return the configuration's fields of sampling, without `sample.` in their names."""
    values = flatten(config)
    return {name.removeprefix("sample."): values[name] for name in names_of(Config, "sampling")}
