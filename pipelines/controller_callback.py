"""How the driver learns which actor of Ray Train asks for its workers' room; apart from the coordinator, which needs none of Ray Train."""

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback

from pipelines.coordinator import sealed


class AnnounceController(ControllerCallback):
    """Tells the coordinator of Ray Train's controller, the actor that asks for the workers' room.

    Args:
        coordinator: its handle.
    """

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by the controller in its own process."""
        here = ray.get_runtime_context()
        self._coordinator.note_controller.remote(sealed(here.current_actor), here.get_actor_id())
