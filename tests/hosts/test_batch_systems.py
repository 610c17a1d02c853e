"""The recipe for SLURM, run by stand-ins for SLURM's own commands on hosts that share no file."""

import shlex
import signal
import threading
import time
from pathlib import Path

import pytest
from host_bed import HOME, hosts
from settle import wait_for

ROOT = Path(__file__).parents[2]

SRUN = """#!/usr/bin/env bash
# Leaves its command for whoever plays SLURM, and waits for its end.
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && node=${1#*=}; shift; done
step=$(mktemp -d "$HOME/steps/XXXXXX")
export -p | grep -v -e HOSTNAME -e PWD >"$step/environment"
printf '%q ' "$@" >"$step/command"
echo "$node" >"$step/node"
until [ -e "$step/ended" ]; do sleep 0.2; done
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) tr , '\\n' <<<"$3" ;;
    requeue) echo "$2" >>"$HOME/requeued" ;;
esac
"""


def serve_steps(batch, nodes, over):
    """Run the steps that `srun` on the batch host asks for, until the job is over."""
    seen = {}
    while not over.is_set():
        for step in (batch.home / "steps").glob("*"):
            ended = (step / "ended").exists()
            if (step / "node").exists() and step.name not in seen and not ended:
                node = nodes[(step / "node").read_text().strip()]
                (node.home / step.name).write_text((step / "environment").read_text())
                command = (step / "command").read_text()
                seen[step.name] = node.start(f"source {HOME}/{step.name}; exec {command}")
        time.sleep(0.2)
    for name, command in seen.items():
        command.kill()
        # The next job of the test has steps of its own.
        (batch.home / "steps" / name / "ended").touch()


def submitted(batch, nodes, arguments, disturb):
    """The result of the script as SLURM starts it; its steps end with it.

    Args:
        disturb: called with the running script.
    """
    over = threading.Event()
    server = threading.Thread(target=serve_steps, args=(batch, nodes, over))
    server.start()
    try:
        job = {
            "SLURM_JOB_NODELIST": ",".join(nodes),
            "SLURM_JOB_ID": "4711",
            "SLURM_CPUS_ON_NODE": "2",
            "PATH": f"{HOME}/bin:{batch.do('printf %s $PATH')}",
        }
        script = batch.start(f"exec bash {ROOT}/deploy/slurm.sbatch {shlex.join(arguments)}", **job)
        disturb(script)
        return script.wait(300)
    finally:
        over.set()
        server.join()
        for node in nodes.values():
            node.run("ray stop --force")


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_slurm_job_saves_before_its_end_queues_again_and_goes_on():
    with hosts(2) as (head, a):
        nodes = {"head": head, "a": a}
        storage = head.serve_s3()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            path = head.home / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (head.home / "steps").mkdir()
        arguments = [
            "toy-arcs",
            "--train.storage",
            storage,
            "--train.workers",
            "1,2",
            "--train.simulators",
            "1",
        ]
        arguments += [
            "--data.n",
            "400",
            "--reference.n-init",
            "1",
            "--evaluate.n",
            "100",
            "--train.checkpoint-seconds",
            "1000",
        ]
        metrics = head.home / "runs" / "toy-arcs" / "metrics.jsonl"

        def end_of_time(script):
            wait_for(lambda: "step " in script.err or script.rc is not None)
            script.send(signal.SIGTERM)

        first = submitted(head, nodes, [*arguments, "--train.steps", "1000000"], end_of_time)
        assert first.rc == 143, first.err
        assert "SIGTERM came: saving a checkpoint" in first.err
        assert "a checkpoint is saved; the same command goes on from there" in first.out
        assert (head.home / "requeued").read_text() == "4711\n"
        assert metrics.exists()
        second = submitted(head, nodes, [*arguments, "--train.steps", "1000000"], end_of_time)
        assert second.rc == 143, second.err
        assert "resuming toy-arcs at step" in second.out
        # What would fail again is not queued again.
        wrong = submitted(head, nodes, [*arguments, "--train.lr", "-1"], lambda script: None)
        assert wrong.rc == 2, wrong.err
        assert (head.home / "requeued").read_text() == "4711\n4711\n"
