"""Random streams: every one comes from (seed, purpose, index), none from a global generator.

Two streams with different purposes or indices are independent, and asking twice gives the same numbers,
so a block of trajectories can be simulated again on another machine and come out identical.
"""

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, purpose: str, *index: int) -> int:
    """63-bit seed of the stream (seed, purpose, index); non-negative integers only."""
    word = int.from_bytes(hashlib.blake2s(purpose.encode(), digest_size=4).digest(), "little")
    state = np.random.SeedSequence([seed, word, *index]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def torch_stream(seed: int, purpose: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch generator of the stream (seed, purpose, index) on `device`."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, purpose, *index))


def numpy_stream(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """NumPy generator of the stream (seed, purpose, index)."""
    return np.random.default_rng(stream_seed(seed, purpose, *index))
