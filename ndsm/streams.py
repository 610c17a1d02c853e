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
    # The count keeps (1,) and (1, 0) apart: SeedSequence pads with zeros.
    state = np.random.SeedSequence([seed, word, len(index), *index]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def torch_stream(seed: int, purpose: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch generator of the stream (seed, purpose, index) on `device`.

    Torch's CPU generator takes 32 bits of seed, few enough that independently hashed ones collide among 10^5
    streams. The last index is therefore added to a hash of the rest: the streams of up to 2^32 blocks differ.
    """
    *head, last = index or (0,)
    base = stream_seed(seed, purpose, len(index), *head)
    return torch.Generator(device=device).manual_seed((base + last) % 2**32)


def numpy_stream(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """NumPy generator of the stream (seed, purpose, index)."""
    return np.random.default_rng(stream_seed(seed, purpose, *index))
