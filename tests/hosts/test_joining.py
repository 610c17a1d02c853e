"""Joining a cluster, as a person types it, on hosts of their own."""

import re
import time
from pathlib import Path

import pytest
import yaml
from host_bed import hosts
from settle import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
DOCTOR = "ndsm doctor"
TRAIN = "ndsm train toy-arcs --data.n 300 --train.steps 10"


def started_by(file, head, *workers):
    """Start a cluster by the commands and the environment of a cluster file, without a cloud to start machines."""
    config = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    env = dict(re.findall(r"--env (\w+)=(\w+)", " ".join(config["docker"]["run_options"])))
    head.do("ray get-auth-token --generate")
    head.send_token(*workers)
    for host in (head, *workers):
        commands = config["head_start_ray_commands" if host is head else "worker_start_ray_commands"]
        for command in commands:
            # The autoscaler's file has the instance types, which say how many CPUs there are.
            line = re.sub(r"--autoscaling-config=\S+|--num-cpus=0", "", command)
            line = line.replace("ray start", "ray start --num-cpus 1 --object-store-memory 200000000")
            host.do(line, RAY_HEAD_IP=head.address, **env)
    return f"{head.address}:6379"


@pytest.fixture(scope="module")
def three():
    """A cluster of `cluster.yaml` of a head and a worker, and a host outside it; the cluster's address."""
    with hosts(3) as (head, a, b):
        yield head, a, b, started_by("cluster.yaml", head, a)


def refused(host, command, seconds=120, **env):
    """The sentence by which a command is refused, without a word before it but what it was doing."""
    found = host.run(command, seconds, **env)
    assert found.rc == 2, found
    (line,) = (line for line in found.err.splitlines() if line.startswith("ndsm: "))
    assert "Traceback" not in found.err
    return line


def test_a_worker_of_the_cluster_file_joins_its_head(three):
    head, a, _, _ = three
    # What the head's monitor says is some seconds old.
    wait_for(lambda: "0.0/2.0 CPU" in a.do("ray status", RAY_AUTH_MODE="token"))
    assert "succeeded" in head.do("ray job submit --working-dir . -- hostname", RAY_AUTH_MODE="token")


def test_nodes_of_the_file_for_own_machines_join(three):
    with hosts(2) as (head, a):
        started_by("deploy/cluster-on-premise.yaml", head, a)
        assert "2 CPUs" in a.do(DOCTOR, RAY_ADDRESS=f"{head.address}:6379")


@pytest.mark.parametrize("name", ["head", "a"])
def test_ndsm_uses_the_token_that_is_there(name, three):
    host = {host.name: host for host in three[:2]}[name]
    assert "Ray answers: 2 CPUs" in host.do(DOCTOR, RAY_ADDRESS=three[3])
    assert "Ray answers: 2 CPUs" in host.do(DOCTOR, RAY_ADDRESS="auto")


def test_another_token_or_none_is_one_sentence(three):
    _, a, b, address = three
    wrong = refused(a, TRAIN, RAY_ADDRESS=address, RAY_AUTH_TOKEN="0123456789abcdef")
    assert f"expected the token of the Ray cluster at {address}, found another one; copy" in wrong
    assert "found none; copy ~/.ray/auth_token from its head" in refused(b, TRAIN, RAY_ADDRESS=address)


def test_a_machine_outside_the_cluster_is_told_so(three):
    head, _, b, address = three
    token = head.do("ray get-auth-token")
    told = refused(b, TRAIN, RAY_ADDRESS=address, RAY_AUTH_TOKEN=token)
    assert f"expected a cluster that this machine is part of, found the one at {address}" in told
    assert refused(b, TRAIN, RAY_ADDRESS="auto").endswith("found none; unset it to start one")


def test_an_address_that_is_cut_off_or_not_there_is_told_within_seconds(three):
    _, a, b, _ = three
    # What the command takes anyway, with a port at which nobody listens.
    began = time.monotonic()
    assert "connection refused" in refused(b, TRAIN, RAY_ADDRESS=f"{a.address}:6380")
    usual = time.monotonic() - began
    with hosts(1) as (lone,):
        # The bridge takes packets to everywhere else and answers none.
        told = refused(lone, TRAIN, seconds=usual + 120, RAY_ADDRESS="192.0.2.1:6379")
    assert "192.0.2.1:6379, found no answer within 4 s" in told
    assert "ray job submit --address http://head:8265" in refused(b, TRAIN, RAY_ADDRESS="ray://head:10001")


def test_of_two_clusters_auto_says_which_it_took():
    with hosts(1) as (host,):
        host.start_head()
        host.do("ray start --head --port 6380 --num-cpus 1 --dashboard-port 8266")
        told = host.do(DOCTOR, RAY_ADDRESS="auto")
        joined = f"joining {host.address}:6380, not {host.address}:6379"
        assert f"RAY_ADDRESS is auto, and this machine has several Ray clusters: {joined}" in told


def test_a_local_cluster_needs_no_home_and_no_short_temporary_folder():
    with hosts(1) as (host,):
        assert "HOME cannot be written to" in host.do(DOCTOR, HOME="/proc")
        assert "Ray answers" in host.do(DOCTOR)
        long = "/tmp/" + 90 * "x"
        host.do(f"mkdir {long}")
        told = host.do(DOCTOR, TMPDIR=long)
        assert "TMPDIR is too long for Ray's sockets: Ray's files are in /tmp/ray" in told
        assert "Ray answers" in told
        host.do("mkdir /dev/shm/" + 90 * "x")
        host.do("mount -o remount,ro /tmp")
        told = refused(host, DOCTOR, TMPDIR="/dev/shm/" + 90 * "x")
        assert "TMPDIR: expected a folder of at most" in told
        assert "set RAY_TMPDIR to a shorter one" in told


def test_a_working_directory_with_a_package_of_the_same_name_is_told_at_start(three):
    head = three[0]
    head.do("mkdir -p project/pipelines && touch project/pipelines/__init__.py")
    found = head.run(f"ray job submit --working-dir project -- {TRAIN}", RAY_AUTH_MODE="token")
    assert found.rc == 1
    assert "ndsm: expected the package 'pipelines' in" in found.out
    assert "which comes first on Python's path; rename it" in found.out
