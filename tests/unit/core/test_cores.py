"""How many cores a process may use, by what it is bound to, its control group and OMP_NUM_THREADS."""

import subprocess
import sys

import pytest
import torch

from ndsm.cli import main
from ndsm.core import cores, global_state


@pytest.fixture
def group(tmp_path):
    """Writes a process's groups and their files; the limit that is found."""

    def found(membership, **files):
        (tmp_path / "cgroup").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "fs" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cores.group_limit(tmp_path / "cgroup", tmp_path / "fs")

    return found


def test_limits_of_control_groups_of_version_2(group):
    assert group("0::/slurm/job_1\n") is None
    assert group("0::/slurm/job_1\n", slurm__job_1__cpu_DOT_max="max 100000\n") is None
    assert group("0::/slurm/job_1\n", slurm__job_1__cpu_DOT_max="250000 100000\n") == 2.5
    # A group above that allows less.
    assert group("0::/slurm/job_1\n", slurm__cpu_DOT_max="150000 100000\n") == 1.5
    # A container, which sees its own group as the root and may know it by the host's path.
    assert group("0::/docker/unseen\n", cpu_DOT_max="50000 100000\n") == 0.5


def test_limits_of_control_groups_of_version_1(group):
    membership = "5:memory:/other\n3:cpu,cpuacct:/kubepods/pod\n0::/init.scope\n"
    assert group(membership) is None
    period = "cpu,cpuacct__kubepods__pod__cpu_DOT_cfs_period_us"
    quota = "cpu,cpuacct__kubepods__pod__cpu_DOT_cfs_quota_us"
    assert group(membership, **{period: "100000\n", quota: "-1\n"}) is None
    assert group(membership, **{period: "100000\n", quota: "300000\n"}) == 3.0
    assert group("3:cpu:/\n", cpu__cpu_DOT_cfs_period_us="10", cpu__cpu_DOT_cfs_quota_us="20") == 2.0


@pytest.mark.parametrize(("limit", "usable"), [(None, 8), (64.0, 8), (2.9, 2), (0.5, 1)])
def test_the_smaller_one_of_binding_and_limit_counts(monkeypatch, limit, usable):
    monkeypatch.setattr(cores, "bound_cores", lambda: 8)
    monkeypatch.setattr(cores, "group_limit", lambda *_: limit)
    assert cores.usable_cores() == usable


def test_a_process_that_is_bound_to_one_core_knows_it():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ndsm.core.cores import usable_cores; print(usable_cores())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "1\n"


@pytest.fixture
def four_threads():
    with global_state.threads(4):
        yield


@pytest.mark.parametrize(
    ("given", "usable", "spare", "threads"), [("", 2, 0, 2), ("", 8, 0, 4), ("", 2, 1, 1), ("", 1, 1, 1), ("4", 2, 1, 4)]
)  # fmt: skip
def test_threads_are_lowered_to_the_usable_cores_unless_omp_num_threads_is_set(
    four_threads, monkeypatch, given, usable, spare, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(global_state, "usable_cores", lambda: usable)
    with global_state.usable_threads(spare):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4


def test_commands_and_the_estimator_heed_a_containers_limit(four_threads, monkeypatch, tmp_path):
    """Sixty-four threads on two cores are ten times slower than two."""
    import ndsm

    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setattr(cores, "group_limit", lambda *_: 2.0)
    monkeypatch.setattr("ndsm.cli.app.bound_cores", lambda: 64)
    monkeypatch.setattr(cores, "bound_cores", lambda: 64)

    def watched(*args, **kwargs):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr("ndsm.workflows.train.train_locally", watched)
    monkeypatch.setattr("ndsm.estimator.training_in_memory", watched)
    monkeypatch.setattr("ndsm.report.page.write_report", watched)
    options = ["--data.n", "300", "--reference.n-init", "1", "--out", str(tmp_path)]
    assert main(["train", "toy-arcs", "--local", *options]) == 130
    assert main(["report", str(tmp_path / "toy-arcs")]) == 130
    with pytest.raises(KeyboardInterrupt):
        ndsm.NDSM(n_components=1).fit(torch.randn(30, 2).numpy())
    # One core is left to the thread that simulates.
    assert seen == [1, 2, 2]
    assert torch.get_num_threads() == 4
