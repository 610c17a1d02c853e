"""Sampling on all nodes: actors that hold the generator write the parts of a folder."""

from collections.abc import Callable

import ray
import torch
from ray.util import ActorPool

from ndsm.experiment import Generator
from ndsm.generation import Part, PartFolder
from pipelines.train import cluster
from pipelines.versions import check_software, software


class PartMaker:
    """An actor that generates; rows go from its memory to the folder and never through Ray.

    Args:
        folder: what to generate, and where; a path that all nodes see.
        driver: the driver's `software()`.
    """

    def __init__(self, folder: PartFolder, driver: dict[str, str]) -> None:
        torch.set_num_threads(1)
        self._folder, self._driver = folder, driver
        self._generator: Generator | None = None

    def make(self, part: Part) -> Part:
        """Write one part; a repeated call writes the same file."""
        if self._generator is None:
            check_software(self._driver)
            self._generator = Generator.of(self._folder.run)
        self._folder.make(self._generator, part)
        return part


def generate_on_ray(folder: PartFolder, on_part: Callable[[Part], None]) -> None:
    """Make the folder's missing parts with as many actors as the cluster has GPUs, or else CPUs.

    Args:
        on_part: called here with each part that was made.

    Raises:
        Exception: what the first failing part raised; parts that were made stay.
    """
    missing = folder.missing()
    with cluster() as found:
        gpus = int(found.gpus)
        count = min(len(missing), gpus or int(found.cpus))
        # A part whose actor dies is made again, elsewhere if need be.
        actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=3)(
            PartMaker
        )
        makers = [actor.remote(folder, software()) for _ in range(count)]
        try:
            made = ActorPool(makers).map_unordered(lambda maker, part: maker.make.remote(part), missing)
            for part in made:
                on_part(part)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            for maker in makers:
                ray.kill(maker)
