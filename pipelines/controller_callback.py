"""How the driver learns which actor of Ray Train asks for its workers' room, and where workers start and end; apart from the
coordinator, which needs none of Ray Train.
"""

from contextlib import suppress
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

from pipelines.coordinator import sealed

REQUESTS = "AutoscalingCoordinator"
"""Name and namespace of Ray's actor that divides the cluster among trainings."""


def withdraw_request(run: str) -> None:
    """Take back the room that a driver of this run which was killed had asked for; its controller cannot any more.

    Ray Train keeps it for three minutes for workers that are never to come, and would tell the next driver that there is none.

    Args:
        run: where the run is, which no other driver trains.
    """
    # Without a request, or an actor that keeps requests, there is nothing to take back.
    with suppress(ValueError, ray.exceptions.RayError):
        if requester := _internal_kv_get(_key(run)):
            keeper = ray.get_actor(REQUESTS, namespace=REQUESTS)
            ray.get(keeper.cancel_request.remote(requester.decode()))


def _key(run: str) -> str:
    return f"ndsm:{run}"


class AnnounceController(ControllerCallback, WorkerGroupCallback):
    """Tells the coordinator of Ray Train's controller, the actor that asks for the workers' room, and of the workers that it starts.

    Args:
        coordinator: its handle.
        run: where the run is.
    """

    def __init__(self, coordinator: Any, run: str) -> None:
        self._coordinator, self._run = coordinator, run

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by the controller in its own process."""
        here = ray.get_runtime_context()
        _internal_kv_put(_key(self._run), f"train-{train_run_context.run_id}")
        self._coordinator.note_controller.remote(sealed(here.current_actor), here.get_actor_id())

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called by the controller once all workers have their process."""
        self._coordinator.note_workers.remote([w.metadata.node_id for w in worker_group.get_workers()])

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Called by the controller whenever it has asked the workers how they are."""
        errors = worker_group_status.errors
        # Where a process is lost, the others fail for want of its gradients: Ray's own errors tell which one it was.
        lost = [rank for rank, error in errors.items() if type(error).__module__.startswith("ray.")]
        if errors:
            self._coordinator.note_loss.remote(sorted(lost or errors))

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Called by the controller before it ends the workers, some of which may be dead."""
        self._coordinator.note_workers.remote([])

    def after_worker_group_abort(self, worker_group_context: Any) -> None:
        """Called by the controller when it has given workers up."""
        self._coordinator.note_workers.remote([])
