"""The replay buffer: a step's rows depend on nothing but the step."""

import threading
import time

import numpy as np
import pytest
import torch

from ndsm.training import Replay, Ring, SamplesPerInsert, ThreadSource
from ndsm.training.ring_buffer import Staging

R = 6


def block(number, rows=R):
    """Rows that say where they come from: (block number, place)."""
    return np.column_stack([np.full(rows, number), np.arange(rows)]).astype(np.float32)


class FakeSource:
    """Blocks made on demand."""

    def __init__(self, first):
        self.first, self.taken = first, []

    def take(self, number):
        assert number == (self.taken[-1] + 1 if self.taken else self.first)
        self.taken.append(number)
        return block(number)

    def counters(self):
        return {"blocks_received": len(self.taken)}

    def close(self):
        pass


def test_a_ring_holds_the_newest_blocks():
    ring = Ring(3, R, 2)
    everything = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    for n in range(8):
        ring.insert(block(n))
        held = set(range(max(0, n - 2), n + 1))
        drawn = {tuple(row) for row in ring.draw(everything).int().tolist()}
        assert drawn == {(b, r) for b in held for r in range(R)}
        assert len(ring) == len(held) * R


def test_fractions_address_every_row_equally():
    ring = Ring(4, R, 2)
    ring.insert(block(0))
    ring.insert(block(1))
    u = (torch.arange(120, dtype=torch.float64) + 0.5) / 120
    _, counts = torch.unique(ring.draw(u), dim=0, return_counts=True)
    assert counts.tolist() == [10] * (2 * R)


def test_the_largest_fraction_draws_the_last_row():
    ring = Ring(1, R, 2)
    ring.insert(block(0))
    u = torch.tensor([0.0, np.nextafter(1.0, 0.0), 1.0], dtype=torch.float64)
    assert ring.draw(u)[:, 1].tolist() == [0, R - 1, R - 1]


@pytest.mark.parametrize("wrong", [block(0)[:-1], block(0)[:, :1], block(0).astype(np.float64)])
def test_a_ring_refuses_blocks_of_another_shape_or_dtype(wrong):
    with pytest.raises(ValueError, match=r"expected \(6, 2\) float32"):
        Ring(3, R, 2).insert(wrong)


def test_a_ring_copies_its_blocks():
    ring, b = Ring(1, R, 2), block(3)
    b.flags.writeable = False
    ring.insert(b)
    ring.insert(block(4))
    np.testing.assert_array_equal(b, block(3))


@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("spi", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("ring", [2, 3, 7])
def test_a_rebuilt_buffer_gives_each_step_the_same_rows(ring, spi, least):
    limiter = SamplesPerInsert(spi, R, 4, least, ring)
    steps = 150
    whole = Replay(FakeSource, limiter, 2, seed=3)
    batches = [whole.batch(s).clone() for s in range(steps)]
    for start in (1, 2, 9, 63, 64, 65, 130, 149):
        again = Replay(FakeSource, limiter, 2, seed=3, start_step=start)
        for s in range(start, steps):
            assert torch.equal(again.batch(s), batches[s])
        assert again.blocks_inserted == whole.blocks_inserted
        # It was refilled with what the ring had held, not from the beginning.
        assert again.source.first == max(0, limiter.blocks_for(start) - ring)


def test_rows_drawn_per_row_inserted_never_exceed_the_ratio_step_by_step():
    limiter = SamplesPerInsert(2.5, R, 4, 2, 5)
    replay = Replay(FakeSource, limiter, 2, seed=0)
    for s in range(300):
        replay.batch(s)
        assert replay.blocks_inserted == limiter.blocks_for(s + 1)
        assert replay.progress(s + 1)["samples_per_insert"] <= 2.5 + 1e-9


def test_another_rank_or_seed_draws_other_rows():
    limiter = SamplesPerInsert(100.0, R, 50, 4, 4)
    first, second, third = (
        Replay(FakeSource, limiter, 2, seed=s, rank=r).batch(0) for s, r in ((0, 0), (0, 1), (1, 0))
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_draws_are_uniform_over_the_ring():
    """Counts of R·3 equally likely rows: χ² below the quantile that 4 standard errors mean for a Gaussian."""
    limiter = SamplesPerInsert(1e6, R, 100, 3, 3)
    replay = Replay(FakeSource, limiter, 2, seed=0)
    rows = torch.cat([replay.batch(s).clone() for s in range(200)])
    _, counts = torch.unique(rows, dim=0, return_counts=True)
    expected, cells = len(rows) / (3 * R), 3 * R
    assert len(counts) == cells
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    # Wilson and Hilferty: (χ²/k)^(1/3) is nearly Gaussian, mean 1 - 2/(9k), variance 2/(9k).
    k = cells - 1
    assert chi2 <= k * (1 - 2 / (9 * k) + 4 * (2 / (9 * k)) ** 0.5) ** 3


def test_a_thread_raises_in_take_what_it_met():
    def make(number):
        if number == 7:
            raise KeyError("broken drift")
        return block(number)

    source = ThreadSource(make, 5, 2)
    assert [source.take(n)[0, 0] for n in (5, 6)] == [5, 6]
    with pytest.raises(KeyError, match="broken drift"):
        source.take(7)
    source.close()


@pytest.mark.parametrize("window", [1, 3])
def test_a_thread_is_never_more_than_its_window_and_one_ahead(window):
    started = []
    reached = threading.Semaphore(0)

    def make(number):
        started.append(number)
        reached.release()
        return block(number)

    source = ThreadSource(make, 0, window)
    for taken in range(5):
        # One more block than was taken and than may wait is begun, and then nothing.
        while len(started) < taken + window + 1:
            reached.acquire()
        assert not reached.acquire(timeout=0.05) or len(started) <= taken + window + 1
        assert len(started) == taken + window + 1
        assert source.take(taken)[0, 0] == taken
    source.close()


def test_closing_stops_the_thread():
    source = ThreadSource(block, 0, 1)
    source.take(0)
    source.close()
    made = source.counters()["blocks_received"]
    time.sleep(0.05)
    assert source.counters()["blocks_received"] == made
    assert "rollouts" not in {t.name for t in threading.enumerate() if t.is_alive() and t is source._thread}


def test_blocks_on_their_way_to_a_gpu_are_not_written_over():
    """With stand-ins for CUDA's events, and a target whose copies are late: as the hardware does when it is behind."""
    log, late = [], []

    class Event:
        def record(self):
            log.append(("record", len(late)))
            self.copy = len(late) - 1

        def synchronize(self):
            log.append(("wait", self.copy))
            late[self.copy]()

    class Target:
        """Reads its source only when the copy runs."""

        def __init__(self):
            self.rows = None

        def copy_(self, source, non_blocking):
            assert non_blocking
            late.append(lambda: setattr(self, "rows", source.clone()))

    staging = Staging(2, 3, pinned=False, make_event=Event)
    targets, blocks = [Target() for _ in range(4)], [np.full((2, 3), i, dtype=np.float32) for i in range(4)]
    for target, block in zip(targets, blocks, strict=True):
        staging.copy(block, target)
        # As a view of shared memory that is freed.
        block[:] = -1
    for copy in late[2:]:
        copy()
    assert [target.rows.unique().tolist() for target in targets] == [[0], [1], [2], [3]]
    assert log == [("record", 1), ("record", 2), ("wait", 0), ("record", 3), ("wait", 1), ("record", 4)]
