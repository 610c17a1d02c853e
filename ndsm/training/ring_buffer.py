"""The replay buffer: whole blocks in, random rows out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Staging:
    """Pinned memory through which blocks go to a GPU, without waiting: the copy runs while the next block is taken.

    Two buffers take turns; one is written to again once its copy is over.

    Args:
        rows, width: shape of a block.
        pinned: whether the memory is page-locked, which a copy has to be from to run beside the processor.
        make_event: makes what is recorded behind a copy, and can be waited for.
    """

    def __init__(
        self, rows: int, width: int, pinned: bool = True, make_event: Callable[[], Any] = torch.cuda.Event
    ) -> None:
        self._buffers = [torch.empty(rows, width, pin_memory=pinned) for _ in range(2)]
        self._make_event, self._turn = make_event, 0
        self._copies: list[Any] = [None, None]

    def copy(self, block: np.ndarray, target: Tensor) -> None:
        """Copy a block, which may be written over at once, to a tensor on a GPU."""
        turn, self._turn = self._turn, 1 - self._turn
        if self._copies[turn] is not None:
            self._copies[turn].synchronize()
        # Through numpy: the block may be a read-only view of shared memory, which torch must not own.
        np.copyto(self._buffers[turn].numpy(), block)
        target.copy_(self._buffers[turn], non_blocking=True)
        self._copies[turn] = self._make_event()
        # Behind the copy on the present stream, on which rows are drawn later.
        self._copies[turn].record()


class Ring:
    """A preallocated ring of rows; a new block overwrites the oldest.

    Args:
        blocks: blocks it holds.
        block_rows, width: shape of a block.
        device: where the rows live; a block is copied there once.
    """

    def __init__(self, blocks: int, block_rows: int, width: int, device: torch.device | str = "cpu") -> None:
        self._rows = torch.empty(blocks * block_rows, width, device=device)
        self._block_rows, self._capacity = block_rows, blocks
        self._staging = Staging(block_rows, width) if self._rows.device.type == "cuda" else None
        self.inserted = 0
        """Blocks inserted so far."""

    def __len__(self) -> int:
        """Rows that can be drawn."""
        return min(self.inserted, self._capacity) * self._block_rows

    @property
    def fill(self) -> float:
        """Share of its capacity that can be drawn."""
        return min(self.inserted / self._capacity, 1.0)

    def insert(self, block: np.ndarray, number: int | None = None) -> None:
        """Copy a block, (block_rows, width) float32, over the oldest one.

        Args:
            number: how many blocks count as inserted before this one, if not the blocks inserted so far:
                a resumed ring starts in the middle of its run and keeps its blocks' places.

        Raises:
            ValueError: the block has another shape or dtype.
        """
        expected = (self._block_rows, self._rows.shape[1])
        if block.shape != expected or block.dtype != np.float32:
            raise ValueError(f"block: expected {expected} float32, found {block.shape} {block.dtype}")
        number = self.inserted if number is None else number
        at = (number % self._capacity) * self._block_rows
        target = self._rows[at : at + self._block_rows]
        if target.device.type == "cpu":
            # Through numpy: the block may be a read-only view of shared memory, which torch must not own.
            np.copyto(target.numpy(), block)
        elif self._staging is not None:
            self._staging.copy(block, target)
        else:
            target.copy_(torch.from_numpy(block.copy()))
        self.inserted = number + 1

    def draw(self, u: Tensor) -> Tensor:
        """Rows at the fractions u in [0, 1) of the ring, (B,) → (B, width)."""
        return self._rows.index_select(0, (u * len(self)).long().clamp_(max=len(self) - 1))
