"""What several tests share."""

import math
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ndsm.config import load_config
from ndsm.data import load
from ndsm.mixture import GaussianMixture
from ndsm.runs import Run
from ndsm.training import fit_mixture
from ndsm.workflows.setup import RunContext, begin, build_problem, prepare
from ndsm.workflows.train import train_locally

# Test machines are shared, and every tensor here is small.
torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes (`-n`) a file stays in one process, and so do all tests of the one cluster."""
    from xdist.scheduler import LoadFileScheduling

    class OneCluster(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope: str = super()._split_scope(nodeid)
            return "one cluster" if on_ray(nodeid) and scope != "tests/ray/test_tuning.py" else scope

    return OneCluster(config, log)


def pytest_collection_modifyitems(items):
    """Ray's tests come first: they take longest, and the others fill up the other process meanwhile."""
    items.sort(key=lambda item: not on_ray(item.nodeid))


def on_ray(nodeid: str) -> bool:
    """Whether a test is one of those that start or share a cluster."""
    return nodeid.startswith("tests/ray/")


def pytest_terminal_summary(terminalreporter):
    """What tests counted, and how many were skipped for what reason."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
    skipped = Counter(report.longrepr[2] for report in terminalreporter.getreports("skipped"))
    for reason, count in skipped.items():
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


def random_mixture(
    covariance_type: str,
    components: int,
    dimension: int,
    dtype: torch.dtype = torch.float64,
    offset: float = 0.0,
) -> GaussianMixture:
    """A mixture with uneven weights and overlapping components of unequal, tilted covariances."""
    rng = np.random.default_rng([components, dimension])
    k, d = components, dimension
    root = rng.normal(size=(k, d, d)) / math.sqrt(d)
    full = root @ root.transpose(0, 2, 1) + 0.3 * np.eye(d)
    covariances = {
        "spherical": 0.3 + rng.uniform(size=k),
        "diag": 0.3 + rng.uniform(size=(k, d)),
        "tied": full[0],
        "full": full,
    }[covariance_type]
    weights, means = rng.dirichlet(np.full(k, 5.0)), 1.5 * rng.normal(size=(k, d)) + offset
    tensors = (torch.from_numpy(np.asarray(a)) for a in (weights, means, covariances))
    return GaussianMixture(*tensors, covariance_type, dtype=dtype)  # type: ignore[arg-type]


def mean_within(
    values: np.ndarray | torch.Tensor, expected: float | np.ndarray, allowance: float = 0.0
) -> None:
    """Check that the mean over independent rows is `expected`, within 4 standard errors and an allowance."""
    v = np.asarray(values, dtype=np.float64)
    error = v.std(0, ddof=1) / math.sqrt(len(v))
    assert (error > 0).all()
    difference = np.abs(v.mean(0) - np.asarray(expected))
    assert (difference <= 4 * error + allowance).all(), f"off by {difference}, standard error {error}"


def train_arcs(run: Run, fields: dict[str, Any], stop_at: int | None = None) -> RunContext:
    """Begin or resume a run on toy-arcs in this process; it is asked to stop at a report's step, if one is given."""
    experiment = prepare(load_config("toy-arcs", fields), run)
    begin(experiment)
    for record in train_locally(experiment):
        if record.step == stop_at:
            run.stop_file.touch()
    return experiment


def mnist_image(digit, number):
    """A picture that tells its digit and number apart from all others, bright in the upper left corner."""
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[2, 2:4], pixels[3, 2], pixels[20, 5] = 255, number, 10 * digit + 1
    return pixels


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory):
    """Folder of MNIST's four files with 60 and 20 pictures, in the format of the originals."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, n in {"train": 60, "t10k": 20}.items():
        digits = (np.arange(n) % 10).astype(np.uint8)
        pictures = np.stack([mnist_image(d, i) for i, d in enumerate(digits)])
        for name, array in (("images-idx3", pictures), ("labels-idx1", digits)):
            header = b"".join(int(x).to_bytes(4, "big") for x in (0x800 + array.ndim, *array.shape))
            (raw / f"{split}-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder


@pytest.fixture
def search(tmp_path):
    """A search around toy-arcs of which nothing has run yet: its plan, its setting and the data."""
    from tuning.proposals import Plan
    from tuning.scoring import Scorer, search_split
    from tuning.space import make_space
    from tuning.trial import Setting

    base = load_config("toy-arcs", {"data.n": 400, "reference.n_init": 1, "train.steps": 1000})
    dataset = load(base.data, 0)
    split = search_split(dataset, 0.2, "swd2")
    free = {"train.lr": "1e-4..1e-2", "network.width": "32,64"}
    usual = make_space(base, split.train.shape, {}).describe()
    frozen = {f for f in usual if f not in free and not f.startswith("objective.epsilon.values")}
    space = make_space(base, split.train.shape, free, (*sorted(frozen), "objective.epsilon.values"))
    preset = build_problem(base, fit_mixture(base, split.train), split.stamp)
    setting = Setting(tmp_path / "search", preset, Scorer(split, "swd2", 100, 0), 0.5, 0)
    return Plan(space, 8), setting, dataset


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Networks that tests train are not kept beside the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDSM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _fixed_seeds():
    """What draws from a library's own stream draws the same in every order of the tests."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def s3():
    """A server that speaks S3 on loopback, with a bucket; the URI of a folder in it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="runs")
        yield f"s3://runs/all?scheme=http&endpoint_override={host}%3A{port}&region=us-east-1"
    server.stop()


@pytest.fixture(name="mnist_image", scope="session")
def _mnist_image():
    return mnist_image


@pytest.fixture(name="random_mixture", scope="session")
def _random_mixture():
    return random_mixture


@pytest.fixture(name="mean_within", scope="session")
def _mean_within():
    return mean_within


@pytest.fixture(name="train_arcs", scope="session")
def _train_arcs():
    return train_arcs


HOLD = """
import sys, time
from importlib import import_module
from pathlib import Path
module, kind, path = sys.argv[1:]
with getattr(import_module(module), kind)(Path(path)).owner.hold():
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def held_elsewhere():
    """A context in which another process holds a run or a search; it gives that process's number."""

    @contextmanager
    def hold(folder):
        kind = type(folder)
        args = [sys.executable, "-c", HOLD, kind.__module__, kind.__name__, folder.path]
        holder = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder.pid
        finally:
            # Nothing that ends a process can leave the folder locked.
            holder.kill()
            holder.wait()

    return hold
