"""What a run says of hosts that it loses and gets back."""

import re
import signal

import pytest
from host_bed import hosts
from settle import wait_for

RUN = "ndsm train toy-arcs --train.workers 1,2 --train.simulators 2 --data.n 400 --train.steps 10000000 --train.batch-rows 32 "
RUN += "--train.checkpoint-seconds 2 --reference.n-init 1 --train.block-mb 0.02"


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lost", ["a", "b"])
def test_on_two_plain_nodes_of_which_one_is_lost_training_goes_on_and_says_so(lost):
    """With a worker and a simulator on each, or two of a kind: the node that stays has room for one worker in any case."""
    with hosts(3) as (head, *others):
        storage = head.serve_s3()
        head.start_head(0)
        for other in others:
            other.join(head, 2)
        run = head.start(f"{RUN} --train.storage '{storage}'", RAY_ADDRESS=f"{head.address}:6379")
        metrics = head.home / "runs" / "toy-arcs" / "metrics.jsonl"
        wait_for(lambda: "step " in run.err or run.rc is not None)
        assert run.rc is None, run.out + run.err
        (gone,) = (other for other in others if other.name == lost)
        gone.kill()
        named = rf"lost node {lost} \({gone.address}\)"
        wait_for(lambda: re.search(named, run.out) or run.rc is not None)
        # Workers come first: two where simulators left them both CPUs.
        went_on = (
            rf"{named}; going on with [12] workers? from step \d+"
            rf"|{named} with \d simulators?; training goes on"
        )
        wait_for(lambda: re.search(went_on, run.out) or run.rc is not None)
        assert run.rc is None, run.out + run.err
        assert re.search(rf"\d\d:\d\d:\d\d {named}", head.do("ndsm status runs/toy-arcs"))
        before = run.err.count("step ")
        wait_for(lambda: run.err.count("step ") > before + 1 or run.rc is not None)
        run.send(signal.SIGTERM)
        assert run.wait(60).rc == 143
        assert f"lost node {lost}" in metrics.read_text()
