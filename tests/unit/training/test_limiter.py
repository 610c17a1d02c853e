"""The limiter: rows drawn per row inserted never exceed the stated ratio."""

import random

import pytest

from ndsm.errors import InputError
from ndsm.training import SamplesPerInsert


def settings(n):
    rng = random.Random(0)
    for _ in range(n):
        ring = rng.randint(1, 20)
        spi = rng.choice([1.0, 10.0, 0.3, 1 / 3, rng.uniform(0.2, 30)])
        rows = rng.choice([1, 16, 100, rng.randint(1, 5000)])
        # A step of more rows than a full ring provides is refused; see below.
        batch = min(rng.randint(1, 500), max(1, int(ring * rows * spi)))
        if batch <= ring * rows * spi:
            yield SamplesPerInsert(spi, rows, batch, rng.randint(1, ring), ring)


def test_limiter_never_exceeds_its_ratio():
    """After any number of steps: drawn <= (blocks - min_blocks + 1)·R·S, and one block fewer would be too few."""
    for limiter in settings(500):
        room = limiter.block_rows * limiter.samples_per_insert
        for steps in (1, 2, 3, 7, 50, 1000, 12_345):
            blocks, drawn = limiter.blocks_for(steps), steps * limiter.batch_rows
            assert drawn <= (blocks - limiter.min_blocks + 1) * room * (1 + 1e-8)
            assert drawn <= blocks * room * (1 + 1e-8)
            assert blocks == limiter.min_blocks or drawn > (blocks - limiter.min_blocks) * room


def test_blocks_never_decrease_with_steps():
    for limiter in settings(100):
        blocks = [limiter.blocks_for(s) for s in range(1, 200)]
        assert blocks == sorted(blocks)
        assert blocks[0] >= limiter.min_blocks


def test_the_first_step_waits_for_min_blocks_and_no_more():
    assert SamplesPerInsert(10.0, 100, 50, 4, 8).blocks_for(1) == 4
    assert SamplesPerInsert(10.0, 100, 50, 4, 8).blocks_for(20) == 4
    assert SamplesPerInsert(10.0, 100, 50, 4, 8).blocks_for(21) == 5


def test_a_whole_number_of_uses_is_not_rounded_up():
    # 3 · 100 / (100 · 0.3) is 10.000000000000002 in floating point.
    for spi in (0.1, 0.3, 0.7, 1.1):
        limiter = SamplesPerInsert(spi, 1000, 100, 1, 4)
        for k in range(1, 200):
            assert limiter.blocks_for(round(k * spi * 10)) == k


@pytest.mark.parametrize(("least", "ring"), [(5, 4), (0, 4)])
def test_min_blocks_that_would_wait_for_ever_are_refused(least, ring):
    with pytest.raises(
        InputError, match=rf"train.min_blocks: expected 1 to train.ring_blocks \({ring}\), found {least}"
    ):
        SamplesPerInsert(1.0, 10, 10, least, ring)


@pytest.mark.parametrize("bad", [(0.0, 10, 10), (-1.0, 10, 10), (1.0, 0, 10), (1.0, 10, 0)])
def test_counts_that_are_not_positive_are_refused(bad):
    with pytest.raises(InputError, match="expected positive"):
        SamplesPerInsert(*bad, 1, 1)


def test_a_ratio_that_overwrites_blocks_before_any_use_is_refused():
    with pytest.raises(InputError):
        SamplesPerInsert(0.1, 10, 100, 1, 2)
