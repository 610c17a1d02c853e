"""Sampling on all nodes: a pool of actors of Ray Data that hold the model write the parts of a folder."""

import pickle
from collections.abc import Callable
from typing import Any

import ray.data
import torch

from ndsm.core.progress import say
from ndsm.errors import InputError
from ndsm.workflows.sample_shards import Shard, ShardFolder
from ndsm.workflows.trained_model import TrainedModel
from pipelines.cluster import cluster
from pipelines.growth import grown, let_go
from pipelines.resources import Cluster
from pipelines.room import wait_for_room
from pipelines.sent_run import SentRun
from pipelines.shared_paths import check_seen
from pipelines.versions import check_software, software


class PartMaker:
    """An actor that generates; rows go from its memory to the folder and never through Ray.

    Args:
        folder: what to generate, and where: a path that all nodes see, or a URI.
        run: whose rows.
        driver: the driver's `software()`.
    """

    def __init__(self, folder: ShardFolder, run: SentRun, driver: dict[str, str]) -> None:
        torch.set_num_threads(1)
        self._folder, self._run, self._driver = folder, run, driver
        self._model: TrainedModel | None = None

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """Write one part, given by the fields of `Shard`, and return it; a repeated call writes the same file.

        What it raises is returned as well, pickled: Ray Data would pass on only its text.
        """
        try:
            if self._model is None:
                # Here and not in the constructor, whose errors Ray would answer by starting the actor again.
                check_software(self._driver)
                self._model = TrainedModel.of(self._run.here())
            self._folder.make(self._model, Shard(**part))
        except Exception as error:
            return {**part, "error": pickle.dumps(error)}
        return {**part, "error": b""}


def generate_on_ray(folder: ShardFolder, on_part: Callable[[Shard], None]) -> None:
    """Make the folder's missing parts with as many actors as the cluster has GPUs, or else CPUs.

    A part whose actor dies is made again, elsewhere if need be.

    Args:
        on_part: called here with each part that was made.

    Raises:
        InputError: the cluster has no CPU, as a head alone; or a node does not see the folder.
        Exception: what the first failing part raised; parts that were made stay.
    """
    missing = folder.missing()
    with cluster() as found:
        seconds = folder.run.config().train.start_seconds
        before = found
        found = grown(found, [{"CPU": 1}], _check, seconds, say)
        try:
            check_seen(written=[folder.path] if folder.path else [])
        except InputError:
            folder.forget()
            raise
        gpus = int(found.gpus)
        wait_for_room({"CPU": 1.0, "GPU": float(bool(gpus))}, 1, seconds, say)
        if found is not before:
            let_go()
        count = min(len(missing), gpus or int(found.cpus))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # A part may take hours.
        context.execution_no_progress_timeout_s = -1
        # A task each: what a crash costs is one part.
        parts = ray.data.from_items([vars(part) for part in missing], override_num_blocks=len(missing))
        made = parts.map(
            PartMaker,
            fn_constructor_args=(folder, SentRun(folder.run), software()),
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        for row in made.iter_rows():
            if error := row.pop("error"):
                raise pickle.loads(error)
            on_part(Shard(**row))


def _check(found: Cluster) -> None:
    if found.cpus < 1:
        raise InputError(
            f"the cluster has {found.cpus:g} CPUs, but sampling needs at least 1; add nodes, or use --local"
        )
