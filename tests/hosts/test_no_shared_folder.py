"""Every command on hosts that share no folder, with an S3 server on one of them; as a person types them."""

import json
import re

import pytest
from host_bed import hosts
from settle import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(1800)]

ARCS = "--data.n 300 --evaluate.n 50"
SMALL = "--network.width 8 --network.depth 1 --sample.steps 80"


class Cluster:
    """Hosts of a cluster, and where what they make is kept."""

    def __init__(self, head, others):
        self.head, self.others = head, others
        head.do("ray get-auth-token --generate")
        head.send_token(*others)
        self.env = {"RAY_ADDRESS": head.start_head(cpus=1), "RAY_AUTH_MODE": "token"}
        for host in others:
            host.join(head, RAY_AUTH_MODE="token")
        base, _, options = head.serve_s3().partition("?")
        self.uri = lambda name: f"{base}/{name}?{options}"

    def do(self, command, seconds=600, host=None):
        return (host or self.head).do(command, seconds, **self.env)


@pytest.fixture(scope="module")
def made():
    with hosts(2) as (head, a):
        cluster = Cluster(head, [a])
        cluster.do(
            f"ndsm train toy-arcs --train.steps 200 --train.simulators 1 --train.storage '{cluster.uri('runs')}' {ARCS} {SMALL}"
        )
        yield cluster


def test_a_run_is_evaluated_reported_and_told_of_on_a_machine_that_never_saw_it(made):
    run, (a,) = made.uri("runs/toy-arcs"), made.others
    said = made.do(f"ndsm status '{run}' --json", host=a)
    assert json.loads(said)["step"] == 200
    assert json.loads(made.do(f"ndsm evaluate '{run}' --n 60 --json", host=a))["n"] == 60
    assert made.do(f"ndsm report '{run}'", host=a).strip() == "s3://runs/runs/toy-arcs/report.html"
    # The other machine finds what this one wrote.
    made.do(
        f"ndsm train toy-arcs --out again --train.steps 200 --train.storage '{made.uri('runs')}' {ARCS} {SMALL}",
        host=a,
    )
    assert json.loads((a.home / "again" / "toy-arcs" / "metrics.json").read_text())["n"] == 60


def test_rows_are_sampled_and_scored_at_uris(made):
    (a,), run, rows = made.others, made.uri("runs/toy-arcs"), made.uri("rows")
    first = made.do(f"ndsm sample runs/toy-arcs --n 1000 --steps 80 --out '{rows}'")
    assert "1000 rows in s3://runs/rows: 1 files and _generation.json" in first
    # There already, as another machine sees.
    assert "1 of 1 files are there already" in made.do(
        f"ndsm sample '{run}' --n 1000 --steps 80 --out '{rows}'", host=a
    )
    made.do("ndsm sample runs/toy-arcs --n 500 --steps 80 --out rows.parquet")
    scored = made.do(f"ndsm score runs/toy-arcs rows.parquet --workers 1 --out '{made.uri('scored')}'")
    assert "500 rows in s3://runs/scored, mean log-density" in scored
    here = made.do("ndsm score runs/toy-arcs rows.parquet --out scored.parquet")
    mean = r"mean log-density (-?\d+\.\d{2})"
    assert re.search(mean, here)[1] == re.search(mean, scored)[1]


def test_a_study_is_run_and_gone_on_with_at_a_uri(made):
    command = f"ndsm reproduce fig2 --scale 0.001 --rows ndsm-eps0 --out '{made.uri('studies')}'"
    assert "s3://runs/studies/fig2: results.json, figure.png" in made.do(command)
    again = made.do(command, host=made.others[0])
    total = re.search(r"(\d+) of (\d+) runs done", again)
    assert total[1] == total[2]


def test_a_search_is_run_and_gone_on_with_at_a_uri(made):
    command = f"ndsm tune toy-arcs --train.steps 300 {ARCS} {SMALL} --rows 50 --finalists 1 --seeds 1 --out '{made.uri('tune')}'"
    said = made.do(f"{command} --trials 2")
    assert "s3://runs/tune/toy-arcs: " in said
    assert "summary.json, tune-report.html" in said
    again = made.do(f"{command} --trials 3", host=made.others[0])
    assert "resuming toy-arcs: 2 of 3 trials have ended" in again


def test_a_path_that_one_host_does_not_see_is_told_with_the_host(made):
    for command in (
        "ndsm sample runs/toy-arcs --n 1000 --out rows",
        "ndsm score runs/toy-arcs rows.parquet --workers 1 --out scored",
        "ndsm reproduce fig2 --scale 0.001",
        f"ndsm tune toy-arcs {ARCS}",
    ):
        found = made.head.run(command, **made.env)
        assert found.rc == 2, found
        assert re.search(r"ndsm: node a \(10\.77\.0\.2\) does not see /home/user", found.err)


def test_a_job_refuses_what_would_lie_in_its_temporary_folder_and_says_where_results_are(made):
    made.head.do("mkdir -p project")
    submit = "ray job submit --working-dir project -- ndsm train toy-arcs --train.steps 20"
    found = made.head.run(
        f"{submit} {ARCS} {SMALL}", **made.env, RAY_API_SERVER_ADDRESS="http://127.0.0.1:8265"
    )
    assert found.rc == 1
    assert (
        "--out: expected an absolute path or a URI in a Ray job, found 'runs', which would lie in /tmp/ray/"
        in found.out
    )
    submit += f" --name job --train.storage '{made.uri('runs')}' {ARCS} {SMALL}"
    for expected in ("results in s3://runs/runs/job and runs/job", "job is complete at step 20"):
        assert expected in made.do(submit)


def test_a_run_goes_on_after_a_host_is_lost():
    with hosts(2) as (head, a):
        cluster = Cluster(head, [a])
        running = head.start(
            f"ndsm train toy-arcs --train.steps 3000 --train.workers 1,2 --train.simulators 0 --train.checkpoint-seconds 5 "
            f"--train.storage '{cluster.uri('runs')}' {ARCS} {SMALL}",
            **cluster.env,
        )
        wait_for(lambda: running.rc is not None or saved(cluster))
        assert running.rc is None, running.err
        a.kill()
        result = running.wait(900)
        assert result.rc == 0, result
        lines = [
            json.loads(line) for line in (head.home / "runs/toy-arcs/metrics.jsonl").read_text().splitlines()
        ]
        assert lines[-1]["step"] == 3000
        assert lines[-1]["workers"] == 1
        assert {line["workers"] for line in lines} == {1, 2}


def saved(cluster):
    """Whether there is a checkpoint at the URI."""
    found = cluster.head.run(f"ndsm status '{cluster.uri('runs/toy-arcs')}' --json")
    return found.rc == 0 and bool(json.loads(found.out)["checkpoint"])
