"""Blocks that cannot be simulated: a drift of a user's own that fails, crashes or hangs at some of its states.

A block is tried three times. Then the run ends with its index, or, where `train.max_bad_blocks` allows it, another block takes its
place for good: that of an index which no run comes to. Which blocks are replaced is kept with the run, so that every worker and
every later sitting of the run has the same rows.
"""

import threading
from collections.abc import Callable, Iterable

from ndsm.errors import BadBlock, InputError

TRIES = 3
"""How often a block is tried."""
TRY_SHARE = 0.3
"""Share of `train.block_seconds` after which a try counts as failed: all of them end before the run does for want of an answer."""
SUBSTITUTES = 1 << 30
"""Added to the index of a block that is replaced; the index of its substitute. `torch_stream` tells 2^32 indices apart: as many
blocks and three substitutes of each."""


class BadBlocks:
    """Which blocks of a run are replaced, and how often others have failed; safe for several threads.

    Args:
        most: `train.max_bad_blocks`.
        known: indices of the blocks that are replaced already.
        record: given the index of a block to replace, and why; keeps it for later sittings and for other workers before it returns.
            False if `train.max_bad_blocks` are replaced already.
        warn: told of each block that is replaced.
    """

    def __init__(
        self,
        most: int = 0,
        known: Iterable[int] = (),
        record: Callable[[int, str], bool] | None = None,
        warn: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._most, self._replaced, self._warn = most, set(known), warn
        self._record = record or (lambda index, reason: len(self._replaced) < most)
        self._failures: dict[int, list[str]] = {}
        self._lock = threading.Lock()
        self.skipped = 0
        """Blocks that this process has replaced; `including` adds those from before."""

    def including(self, before: bool) -> "BadBlocks":
        """Count the blocks that were known to be replaced, too, if `before`; of several workers one does."""
        self.skipped = len(self._replaced) if before else 0
        return self

    def effective(self, index: int) -> int:
        """Index of the block that takes the place of block `index`: itself but for a replaced one."""
        while index in self._replaced:
            index += SUBSTITUTES
        return index

    def failed(self, index: int, reason: str, bad_input: bool = False) -> None:
        """Take note of a try that failed; returns if there is another one to make, of `effective` of the same index.

        Args:
            index: an effective one.
            reason: a sentence without its full stop.
            bad_input: whether an `InputError` failed it.

        Raises:
            BadBlock: it was the last one, and the block may not be replaced.
            InputError: the same, if an `InputError` failed it.
        """
        with self._lock:
            if index in self._replaced:
                return
            reasons = self._failures.setdefault(index, [])
            reasons.append(reason)
            if len(reasons) < TRIES:
                return
            del self._failures[index]
            what = f"block {index % SUBSTITUTES} could not be simulated in {TRIES} tries: {'; '.join(dict.fromkeys(reasons))}"
            if not (self._most and self._record(index, what)):
                allowed = (
                    f"more than train.max_bad_blocks ({self._most}) such blocks"
                    if self._most
                    else "the run ends"
                )
                raise (InputError if bad_input else BadBlock)(
                    f"{what}; {allowed}: mend the drift, or go on without this block by a larger train.max_bad_blocks"
                )
            self._replaced.add(index)
            self.skipped += 1
        self._warn(f"{what}; another one takes its place")

    def answered(self, index: int) -> None:
        """Take note that a block was made."""
        if self._failures:
            with self._lock:
                self._failures.pop(index, None)
