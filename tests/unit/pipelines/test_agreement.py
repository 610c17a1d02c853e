"""Workers whose views of the run's folder differ go on from rank 0's checkpoint, or not at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FIELDS = {
    "data.n": 300,
    "network.width": 8,
    "network.depth": 1,
    "train.steps": 30,
    "train.batch_rows": 50,
    "train.block_mb": 0.02,
    "train.device": "cpu",
    "train.checkpoint_seconds": 1e-9,
}

WORKER = """
import json, shutil, sys
from pathlib import Path
import torch, torch.distributed as dist
from ndsm.config import load_config
from ndsm.errors import InputError
from ndsm.workflows import prepare
from ndsm.runs import Run
from ndsm.workflows.resuming import training_identity
from pipelines.agreement import agreed_checkpoint

folder, rank, fields = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
identity = training_identity(prepare(load_config("toy-arcs", fields), Run(folder / "whole")).problem)
for case in sys.argv[4:]:
    run = Run(folder / case / str(rank))
    def warn(text):
        if case == "late":
            # By now the file system shows what rank 0 sees.
            shutil.copytree(folder / case / "0", run.path, dirs_exist_ok=True)
        print(json.dumps([case, "waits"]), flush=True)
    try:
        found = agreed_checkpoint(run, identity, rank, 2, "cpu", warn, patience=60.0 if case == "late" else 0.0)
        answer = found and [found.state["steps"], found.digest]
    except InputError as error:
        answer = str(error)
    print(json.dumps([case, answer]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory, train_arcs):
    """What both of two real workers answered in each case of what they see."""
    from ndsm.runs import Run

    folder = tmp_path_factory.mktemp("views")
    whole = folder / "whole"
    train_arcs(Run(whole), FIELDS)
    older, newest = (f"checkpoints/step-{step:09d}.pt" for step in (20, 30))

    def view(case, rank, *removed):
        shutil.copytree(whole, folder / case / str(rank))
        for name in removed:
            (folder / case / str(rank) / name).unlink()

    for case, (first, second) in {
        "same": ((), ()),
        "older": ((), (newest,)),
        "newer": ((newest,), ()),
        "none": ((older, newest), ()),
        "other": ((), ()),
        "late": ((), (newest,)),
    }.items():
        view(case, 0, *first), view(case, 1, *second)
    # A whole checkpoint of the same step, of other weights.
    shutil.copy(whole / older, folder / "other" / "1" / newest)
    cases = ["same", "older", "newer", "none", "other", "late"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, folder, str(rank), json.dumps(FIELDS), *cases],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in (0, 1)
    ]
    said = [
        [json.loads(line) for line in worker.communicate(timeout=300)[0].splitlines()] for worker in workers
    ]
    assert [worker.returncode for worker in workers] == [0, 0]
    return [dict(lines) for lines in said], said


@pytest.mark.parametrize(("case", "step"), [("same", 30), ("newer", 20), ("late", 30)])
def test_all_workers_go_on_from_the_checkpoint_that_rank_0_sees(answers, case, step):
    """Also one that sees a newer one, or sees it only after a while, of which it tells."""
    (first, second), said = answers
    assert first[case] == second[case]
    assert first[case][0] == step
    assert ([case, "waits"] in said[1]) == (case == "late")


def test_no_checkpoint_is_a_decision_too(answers):
    (first, second), _ = answers
    assert first["none"] is None
    assert second["none"] is None


@pytest.mark.parametrize("case", ["older", "other"])
def test_a_worker_that_does_not_see_rank_0s_checkpoint_stops_with_a_sentence(answers, case):
    (first, second), _ = answers
    assert first[case][0] == 30
    assert second[case].startswith("worker 1 on ")
    assert "does not see rank 0's checkpoint of step 30 in" in second[case]
    assert "expected a folder that all nodes share" in second[case]
