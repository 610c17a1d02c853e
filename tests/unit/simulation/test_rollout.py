"""The simulation: blocks are functions of their index, and follow the law of the Euler-Maruyama chain."""

import math
import queue
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ndsm.config import load_config
from ndsm.core.hashing import fingerprint
from ndsm.core.rng import numpy_stream, torch_stream
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes import Langevin, forward_grid
from ndsm.simulation import RolloutSpec, RowLayout, one_step_batches, paths_per_block, rollout
from ndsm.simulation.rollout import recorded_steps, shifted_grid
from ndsm.training import Resume, block_index, loop, make_problem

RECORDS = ("mean", "noise", "t", "std")


def mixture_of_two():
    means = torch.tensor([[-1.0, 0.0], [1.5, 0.5]])
    return GaussianMixture(torch.tensor([0.3, 0.7]), means, torch.tensor([0.2, 0.4]))


def make_spec(
    process, steps=20, last_dt=1e-3, per_path=4, paths=300, jitter=0.9, kind="uniform", dimension=2
):
    times = forward_grid(process, kind, steps, last_dt)
    return RolloutSpec(process, times, last_dt, per_path, paths, RowLayout(RECORDS, dimension), 5, jitter)


def split(spec, block):
    rows = spec.layout.split(torch.from_numpy(block).double())
    return {name: value.numpy() for name, value in rows.items()}


def data(n=500):
    return numpy_stream(9, "data").normal(size=(n, 2)).astype(np.float32)


def test_the_same_index_is_the_same_block_bit_by_bit():
    spec, x = make_spec(Langevin(mixture_of_two())), data()
    first = rollout(spec, x, 7)
    rollout(spec, x, 8)
    assert first.tobytes() == rollout(spec, x, 7).tobytes()


def test_another_device_has_a_stamp_of_its_own():
    """Its numbers differ, so its blocks must not be taken for a processor's; a processor's stay as they are."""
    mixture = mixture_of_two()
    # One that stays where it is: there may be no GPU to move it to.
    prior = SimpleNamespace(sample=mixture.sample)
    spec = make_spec(Langevin(drift=lambda y, t: -mixture.score(y), prior=prior))
    other = spec.on(torch.device("cuda"))
    assert (other.device.type, other.rows, other.stamp == spec.stamp) == ("cuda", spec.rows, False)
    assert other.stamp == spec.on(torch.device("cuda", 1)).stamp
    assert spec.on(torch.device("cpu")) is spec


def test_a_worker_without_simulators_simulates_on_its_own_device(monkeypatch):
    config = load_config("toy-arcs", {"objective.kind": "ndsm", "train.block_mb": 0.02})
    problem = make_problem(config, Langevin(mixture_of_two()), 2, "none")
    seen = queue.Queue()
    monkeypatch.setattr(loop, "rollout", lambda spec, rows, index: seen.put((spec.device, index)))
    # The one device beside the processor that every machine has; it holds no numbers.
    meta = torch.device("meta")
    source = loop.local_source(problem, data(), Resume(2), 1, device=meta)(3)
    try:
        assert seen.get() == (meta, block_index(Resume(2), 1, 3))
    finally:
        source.close()


def test_another_index_is_another_block():
    spec, x = make_spec(Langevin(mixture_of_two())), data()
    noises = [split(spec, rollout(spec, x, i))["noise"].ravel() for i in range(3)]
    assert not np.isin(noises[0], noises[1]).any()
    assert not np.isin(noises[0], noises[2]).any()


def test_the_data_are_read_and_never_written():
    spec, x = make_spec(Langevin(mixture_of_two())), data()
    before = x.copy()
    x.flags.writeable = False
    rollout(spec, x, 0)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(("steps", "per_path"), [(1, 1), (10, 3), (10, 10), (7, 5)])
def test_every_path_records_its_number_of_distinct_steps(steps, per_path):
    recording = recorded_steps(200, steps, per_path, torch_stream(0, "recorded"))
    assert len(recording) == steps
    assert all(len(set(paths.tolist())) == len(paths) for paths in recording)
    counts = torch.bincount(torch.cat(recording), minlength=200)
    assert (counts == per_path).all()


@pytest.mark.parametrize(("steps", "per_path"), [(10, 1), (10, 3), (7, 5)])
def test_recorded_steps_are_uniform(steps, per_path):
    """Each path records step n with probability k/steps: a share within 4 SE of n independent paths."""
    n, p = 40_000, per_path / steps
    recording = recorded_steps(n, steps, per_path, torch_stream(1, "uniform"))
    share = np.array([len(paths) for paths in recording]) / n
    assert (np.abs(share - p) <= 4 * math.sqrt(p * (1 - p) / n)).all()


def test_the_first_and_the_last_path_record_alike():
    """The choice does not depend on a path's place: mean recorded step of every path is (steps - 1)/2 within 4 SE."""
    steps, trials = 9, 3000
    mean = np.zeros(4)
    generator = torch_stream(2, "alike")
    for _ in range(trials):
        for n, paths in enumerate(recorded_steps(4, steps, 2, generator)):
            np.add.at(mean, paths.numpy(), n / (2 * trials))
    # Two stratified choices vary less than two independent ones.
    assert (np.abs(mean - 4) <= 4 * math.sqrt((steps**2 - 1) / 12 / trials)).all()


def test_a_row_is_one_step_of_its_own_size():
    spec = make_spec(Langevin(mixture_of_two()), last_dt=1e-3)
    rows = split(spec, rollout(spec, data(), 0))
    np.testing.assert_allclose(rows["std"], math.sqrt(2e-3), rtol=1e-6)
    grids = rows["t"] - 1e-3
    assert ((grids >= -1e-8) & (grids < 0.5)).all()


def test_without_jitter_rows_lie_on_the_grid():
    spec = make_spec(
        Langevin(mixture_of_two()), last_dt=None, jitter=0.0, per_path=20, kind="geometric", steps=40
    )
    rows = split(spec, rollout(spec, data(), 0))
    n = np.abs(spec.times[None] - rows["t"][:, None]).argmin(1)
    np.testing.assert_allclose(rows["t"], spec.times[n], rtol=1e-5)
    np.testing.assert_allclose(rows["std"], np.sqrt(2 * np.diff(spec.times)[n - 1]), rtol=1e-6)
    assert set(n) == set(range(1, 41))


def test_with_jitter_every_group_has_one_shifted_grid():
    """The times of one group of trajectories are the nodes of one shifted grid, with that grid's steps."""
    spec = make_spec(Langevin(mixture_of_two()), last_dt=None, per_path=20, paths=256)
    rows = split(spec, rollout(spec, data(), 0))
    times = np.unique(rows["t"])
    assert len(times) == 20
    shift = times[0] / spec.times[1]
    assert 0.1 < shift < 1.0
    np.testing.assert_allclose(times, shifted_grid(spec.times, shift)[1:], rtol=1e-5)
    steps = np.diff(np.concatenate([[0.0], times]))
    np.testing.assert_allclose(rows["std"], np.sqrt(2 * steps)[np.searchsorted(times, rows["t"])], rtol=1e-5)
    other = split(spec, rollout(spec, data(), 1))
    assert not np.isin(np.unique(other["t"]), times).any()


def test_the_noise_of_the_rows_is_standard_normal_and_independent_of_their_mean(mean_within):
    """Z has mean 0, variance 1, E Z μᵀ = 0, within 4 SE; one row per path, so that rows are independent."""
    for last_dt in (1e-3, None):
        spec = make_spec(Langevin(mixture_of_two()), last_dt=last_dt, per_path=1, paths=20_000)
        rows = split(spec, rollout(spec, data(), 3))
        z = rows["noise"]
        mean_within(z, 0.0)
        mean_within(z**2, 1.0)
        mean_within(z**4, 3.0)
        mean_within(z * rows["mean"], 0.0)
        mean_within(z * rows["t"][:, None], 0.0)


def plain_euler_maruyama(mixture, y, times, noise):
    """The chain as a textbook writes it: rows, float64, one density per component."""
    w, mu, v = (a.numpy() for a in (mixture.weights, mixture.means, mixture.covariances))
    path = [y]
    for h, z in zip(np.diff(times), noise, strict=True):
        e = y[:, None] - mu
        density = w * np.exp(-0.5 * (e**2).sum(2) / v) / (2 * np.pi * v) ** (y.shape[1] / 2)
        gradient = (density[:, :, None] * e / v[:, None]).sum(1) / density.sum(1)[:, None]
        y = y - h * gradient + math.sqrt(2 * h) * z
        path.append(y)
    return path


def test_recorded_states_have_the_law_of_a_plain_euler_maruyama_loop():
    """Mean, second moments and P(y_0 > 0) at three times agree within 4 SE of their difference."""
    mixture = mixture_of_two()
    spec = make_spec(Langevin(mixture), steps=12, last_dt=None, per_path=12, paths=20_000, jitter=0.0)
    x = data()
    rows = split(spec, rollout(spec, x, 1))
    rng = numpy_stream(4, "plain")
    start = x[rng.integers(0, len(x), 20_000)].astype(np.float64)
    path = plain_euler_maruyama(mixture, start, spec.times, rng.normal(size=(12, 20_000, 2)))

    def statistics(y):
        return np.column_stack([y, y**2, y[:, 0] * y[:, 1], y[:, 0] > 0])

    for n in (1, 5, 12):
        at = np.abs(rows["t"] - spec.times[n]) < 1e-6
        assert at.sum() == 20_000
        simulated = statistics(rows["mean"][at] + rows["std"][at, None] * rows["noise"][at])
        plain = statistics(path[n])
        error = np.sqrt((simulated.var(0) + plain.var(0)) / 20_000)
        assert (np.abs(simulated.mean(0) - plain.mean(0)) <= 4 * error).all()


def test_with_one_component_the_chain_is_the_exact_autoregression(mean_within):
    """For K = 1, Y_n | Y_0 = x is normal: mean μ + c_n(x - μ), c_n = Π(1 - h/v), variance Σ 2h_k (c_n/c_k)²."""
    v, mu, x0 = 0.3, 0.5, 2.0
    mixture = GaussianMixture(torch.ones(1), torch.tensor([[mu]]), torch.tensor([v]))
    process = Langevin(mixture)
    spec = make_spec(process, steps=15, last_dt=0.02, per_path=15, paths=8000, jitter=0.0, dimension=1)
    rows = split(spec, rollout(spec, np.full((10, 1), x0, dtype=np.float32), 2))
    mean, variance = x0, 0.0
    for t, h in zip(spec.times[:-1], np.diff(spec.times), strict=True):
        at = np.abs(rows["t"] - (t + 0.02)) < 1e-6
        assert at.sum() == 8000
        # The recorded example takes its own step of 0.02 beside the grid's.
        own = 1 - 0.02 / v
        expected = mu + own * (mean - mu), own**2 * variance + 2 * 0.02
        y = (rows["mean"] + rows["std"][:, None] * rows["noise"])[at, 0]
        mean_within(y, expected[0])
        mean_within((y - expected[0]) ** 2, expected[1])
        mean, variance = mu + (1 - h / v) * (mean - mu), (1 - h / v) ** 2 * variance + 2 * h


def test_a_drift_of_your_own_gives_the_same_block_as_the_mixture_it_copies():
    mixture, x = mixture_of_two(), data()
    own = Langevin(drift=lambda y, t: -mixture.score(y), prior=mixture)
    a, b = (rollout(make_spec(process), x, 0) for process in (Langevin(mixture), own))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("drift", "found"),
    [
        (lambda y, t: y.sum(1), r"found \(300,\) torch.float32"),
        (lambda y, t: y.double(), r"found \(300, 2\) torch.float64"),
        (lambda y, t: y.numpy(), "found ndarray"),
        (lambda y, t: None, "found NoneType"),
    ],
)
def test_a_drift_of_the_wrong_kind_is_refused_with_its_time(drift, found):
    process = Langevin(drift=drift, prior=mixture_of_two())
    with pytest.raises(InputError, match=rf"drift: expected \(300, 2\) torch.float32 at t = 0, {found}"):
        rollout(make_spec(process), data(), 0)


def test_a_drift_that_leaves_the_finite_numbers_is_refused_with_row_block_and_time():
    for bad in (math.nan, math.inf, -math.inf):
        process = Langevin(drift=lambda y, t, bad=bad: y * (bad if t > 0.2 else 1.0), prior=mixture_of_two())
        spec = make_spec(process, jitter=0.0)
        with pytest.raises(
            InputError, match=r"NaN or infinity in row (\d+) of block 6 at t = (\S+);"
        ) as caught:
            rollout(spec, data(), 6)
        t = float(str(caught.value).split("t = ")[1].split(";")[0])
        assert t > 0.2


def test_only_known_quantities_are_recorded():
    with pytest.raises(ValueError, match="hessian"):
        RowLayout(("mean", "hessian"), 2)


def test_one_dimensional_rows_keep_their_dimension():
    """A layout gives mean and noise as (B, d) for d = 1, too."""
    rows = RowLayout(RECORDS, 1).split(torch.arange(8.0).reshape(2, 4))
    assert rows["mean"].tolist() == [[0.0], [4.0]]
    assert rows["noise"].tolist() == [[1.0], [5.0]]
    assert rows["t"].tolist() == [2.0, 6.0]
    assert rows["std"].tolist() == [3.0, 7.0]


def test_blocks_have_about_the_size_asked_for():
    layout = RowLayout(RECORDS, 10)
    for mb in (0.5, 2.0):
        paths = paths_per_block(mb, layout, 5)
        assert mb * 2**20 - layout.width * 20 < paths * 5 * layout.width * 4 <= mb * 2**20
    assert paths_per_block(1e-6, layout, 5) == 16


def test_a_stamp_tells_every_part_apart():
    x = np.arange(6.0)
    stamps = [
        fingerprint(x, {"a": 1, "b": 2}),
        fingerprint(x + 1, {"a": 1, "b": 2}),
        fingerprint(x, {"a": 1, "b": 3}),
    ]
    assert len(set(stamps)) == 3
    assert stamps[0] == fingerprint(x.copy(), {"b": 2, "a": 1})


def test_a_thin_axis_that_asks_for_millions_of_steps_is_one_sentence():
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[1.0, 1e-6]]), "diag")
    batches = one_step_batches(Langevin(mixture, horizon=1.0), data(), 1e-3, 8, 0)
    with pytest.raises(InputError, match=r"at most 20000 steps .* found 500006\d of 2e-07"):
        next(batches)
