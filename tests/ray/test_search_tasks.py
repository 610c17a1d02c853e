"""Tasks of a search that take a GPU, or a share of one, on a node that says it has one."""

import time
from functools import partial

import pytest

from ndsm.runs import Run
from ndsm.workflows.setup import prepare
from tuning import nested
from tuning.tasks import run_tasks

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def gpu_node(joined):
    with joined("--num-cpus=2 --num-gpus=1") as node:
        yield node


def test_two_finalists_share_a_gpu_at_the_same_time(gpu_node, tmp_path):
    def meet(folder, name):
        """Write which GPUs this process has, and wait for the other one."""
        import ray

        (folder / name).write_text(str(ray.get_gpu_ids()))
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.05)

    run_tasks(meet, tmp_path, [("a",), ("b",)], 2, {"CPU": 1, "GPU": 0.5})
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["[0]", "[0]"]


def test_a_step_is_timed_on_what_its_workers_will_have(gpu_node, search, tmp_path, monkeypatch):
    """On a GPU, or on a CPU alone though the cluster has one."""

    def devices(own, preset, data, expected):
        import ray

        found = [own.config.train.device, preset.config.train.device, str(ray.get_gpu_ids())]
        return float(found == expected and len(data) > 0)

    made = prepare(search[0].space.base, Run(tmp_path / "run"))
    for device, expected in (("auto", ["cuda", "cuda", "[0]"]), ("cpu", ["cpu", "cpu", "[]"])):
        problem = made.problem.with_device(device)
        monkeypatch.setattr(nested, "relative_cost", partial(devices, expected=expected))
        assert nested.relative_cost_on_worker(problem, problem, made.dataset.train) == 1.0
