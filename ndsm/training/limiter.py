"""How often a simulated row may be used: a policy on counts, without storage, threads or clocks.

Let a block hold R rows, a step use n rows and S be samples_per_insert. After `blocks` inserts the trainer may
have drawn at most

    (blocks - min_blocks + 1) · R · S

rows; the step that would draw more waits for one more block. A block is inserted only then, so that simulators
that are ahead wait in turn (they keep a bounded window of finished blocks). This is Reverb's limiter with its
error buffer pinned at one block: rows drawn per row inserted never exceed S, and which blocks are in the ring at
a given step depends on nothing but that step. Runs are therefore reproducible whatever the simulators' speed,
number or failures.
"""

import math
from dataclasses import dataclass

from ndsm.errors import InputError


@dataclass(frozen=True)
class SamplesPerInsert:
    """The limiter.

    Args:
        samples_per_insert: S, uses of each row on average.
        block_rows: R.
        batch_rows: n, rows of this worker's step.
        min_blocks: blocks in the ring before the first step.
        ring_blocks: blocks the ring holds.

    Raises:
        InputError: the numbers would block training for ever or overwrite rows before use.
    """

    samples_per_insert: float
    block_rows: int
    batch_rows: int
    min_blocks: int
    ring_blocks: int

    def __post_init__(self) -> None:
        if not 1 <= self.min_blocks <= self.ring_blocks:
            raise InputError(
                f"train.min_blocks: expected 1 to train.ring_blocks ({self.ring_blocks}), found {self.min_blocks}: "
                "the first step would wait for ever"
            )
        if min(self.samples_per_insert, self.block_rows, self.batch_rows) <= 0:
            raise InputError(
                "limiter: expected positive samples_per_insert, block rows and batch rows, found "
                f"{self.samples_per_insert}, {self.block_rows}, {self.batch_rows}"
            )

        if self.batch_rows > self.ring_blocks * self.block_rows * self.samples_per_insert:
            raise InputError(
                f"train.samples_per_insert: a step of {self.batch_rows} rows that are used {self.samples_per_insert:g} times "
                f"each needs more new rows than the ring's {self.ring_blocks} blocks of {self.block_rows}; they would be "
                "overwritten before use; enlarge train.block_mb or train.ring_blocks"
            )

    def blocks_for(self, steps: int) -> int:
        """Blocks that must have been inserted before `steps` steps may have been taken."""
        uses = steps * self.batch_rows / (self.block_rows * self.samples_per_insert)
        # 1e-9: rounding errors must not turn a whole quotient into the next number.
        return self.min_blocks - 1 + max(1, math.ceil(uses - 1e-9))
