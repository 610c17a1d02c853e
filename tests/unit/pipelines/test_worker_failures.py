"""What a Ray Train worker does about what goes wrong: ends the run for good, or asks to be started again.

Without a cluster: the coordinator is called directly, and what fails is raised in place of training.
"""

from types import SimpleNamespace

import pytest

from ndsm.config import Config
from ndsm.errors import InputError
from ndsm.runs import Run
from pipelines import worker
from pipelines.coordinator import Coordinator
from pipelines.versions import software


class Direct:
    """An actor's handle whose calls are made at once, in this process."""

    def __init__(self, actor):
        self._actor = actor

    def __getattr__(self, name):
        method = getattr(self._actor, name)
        return type("Method", (), {"remote": staticmethod(method)})


@pytest.fixture
def coordinator(monkeypatch):
    monkeypatch.setattr(worker.ray, "get", lambda answer: answer)
    alone = SimpleNamespace(get_world_size=lambda: 1, get_world_rank=lambda: 0)
    monkeypatch.setattr(worker.ray.train, "get_context", lambda: alone)
    return Coordinator([])


def settings(coordinator, run):
    return {
        "coordinator": Direct(coordinator),
        "run": run,
        "software": software(),
        "problem": SimpleNamespace(config=Config()),
        "data": [],
    }


def here(tmp_path):
    return Run(tmp_path / "mine")


def far(tmp_path):
    return Run.at(tmp_path, (tmp_path / "far away").as_uri(), "mine")


@pytest.mark.parametrize(
    ("place", "error", "final"),
    [
        (here, InputError("the drift ran away"), True),
        (far, FloatingPointError("loss nan"), True),
        (here, OSError("no room"), True),
        (far, OSError("no answer"), False),
        (here, ConnectionResetError("no answer"), False),
        (here, RuntimeError("a collective was aborted"), False),
    ],
)
def test_only_what_a_restart_may_mend_is_raised(coordinator, tmp_path, monkeypatch, place, error, final):
    def fail(given):
        raise error

    monkeypatch.setattr(worker, "train_as_worker", fail)
    given = settings(coordinator, place(tmp_path))
    if final:
        worker.worker(given)
        assert coordinator.failure() is error
        # Those that are started again because this one went find that it is over.
        monkeypatch.setattr(worker, "train_as_worker", lambda given: pytest.fail("trained on"))
        worker.worker(given)
    else:
        with pytest.raises(type(error), match=str(error)):
            worker.worker(given)
        assert coordinator.failure() is None
    _, said = coordinator.take_news()
    assert [words.split(";")[0] for words in said] == (["no answer"] if str(error) == "no answer" else [])


def test_a_worker_on_a_node_with_other_software_ends_the_run(coordinator, tmp_path):
    worker.worker({**settings(coordinator, here(tmp_path)), "software": {"ndsm": "0.0.1"}})
    assert isinstance(coordinator.failure(), InputError)
    assert "expected the driver's 0.0.1" in str(coordinator.failure())


def test_a_node_that_does_not_share_the_folder_is_named(coordinator, tmp_path):
    run = here(tmp_path)
    worker.worker(settings(coordinator, run))
    assert isinstance(coordinator.failure(), InputError)
    assert f"does not see the run in {run.path}: expected a folder that all nodes share" in str(
        coordinator.failure()
    )
