"""The pool of simulated blocks: made once, read by many, bounded."""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from tuning.pool import BlockPool, pool_bytes

ROWS = 64
BLOCK = ROWS * 4 * 4
"""Bytes of a test's block."""


def block(index):
    return np.full((ROWS, 4), index, dtype=np.float32)


def slow_block(index):
    time.sleep(0.1)
    return block(index)


def read_all(path, count):
    pool = BlockPool(Path(path), "shared", slow_block, 10**6)
    for i in range(count):
        np.testing.assert_array_equal(pool.block(i), block(i))
    return pool.made


def test_two_processes_make_each_block_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        made = workers.starmap(read_all, [(str(tmp_path), 6)] * 2)
    assert sum(made) == 6


def test_a_block_that_is_read_is_the_one_that_was_made(tmp_path):
    first = BlockPool(tmp_path, "a", block, 10**6)
    first.block(3)
    second = BlockPool(tmp_path, "a", lambda i: pytest.fail("simulated again"), 10**6)
    np.testing.assert_array_equal(second.block(3), block(3))
    assert (first.made, first.read, second.made, second.read) == (1, 0, 0, 1)


def test_the_pool_keeps_its_size_and_drops_the_least_used_stamp(tmp_path):
    size = 6 * (BLOCK + 200)
    for _ in range(2):
        BlockPool(tmp_path, "often", block, size)
    often = BlockPool(tmp_path, "often", block, size)
    once = BlockPool(tmp_path, "once", block, size)
    for i in range(3):
        often.block(i), once.block(i)
    new = BlockPool(tmp_path, "new", block, size)
    BlockPool(tmp_path, "new", block, size)
    new.block(0)
    assert pool_bytes(tmp_path) <= size
    assert not list((tmp_path / "once").glob("*.npy"))
    assert len(list((tmp_path / "often").glob("*.npy"))) == 3
    # Nothing left that is used less: blocks are made, and not kept.
    for i in range(1, 9):
        np.testing.assert_array_equal(new.block(i), block(i))
    assert pool_bytes(tmp_path) <= size
    assert len(list((tmp_path / "often").glob("*.npy"))) == 3
    assert new.made == 9


def test_an_evicted_stamp_goes_on(tmp_path):
    size = 2 * (BLOCK + 200)
    old = BlockPool(tmp_path, "old", block, size)
    old.block(0), old.block(1)
    new = BlockPool(tmp_path, "new", block, size)
    new.block(0)
    np.testing.assert_array_equal(old.block(0), block(0))
    assert old.made == 3


def test_room_is_never_made_by_deleting_somebody_elses_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    np.save(tmp_path / "mine" / "rows.npy", np.zeros(10 * BLOCK, dtype=np.uint8))
    pool = BlockPool(tmp_path, "a", block, 2 * (BLOCK + 200))
    np.testing.assert_array_equal(pool.block(0), block(0))
    assert (tmp_path / "mine" / "rows.npy").exists()
