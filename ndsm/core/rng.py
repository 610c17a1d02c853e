"""Random streams: every one comes from (seed, purpose, index), none from a global generator.

Two streams with different purposes or indices are independent, and asking twice gives the same numbers,
so a block of trajectories can be simulated again on another machine and come out identical.
"""

import hashlib
from numbers import Integral

import numpy as np
import torch

from ndsm.errors import InputError

RandomState = int | np.random.RandomState | np.random.Generator | None
"""A random state as in scikit-learn, or a NumPy generator."""


def draw_seed(state: RandomState, name: str = "random_state") -> int:
    """A seed for `stream_seed` of what users give as a random state.

    Args:
        state: a whole number from 0 on is the seed itself; a `RandomState` (also NumPy's own, by `numpy.random`) or a
            `Generator` draws one of 63 bits, and so moves on; None draws one from the operating system, and leaves NumPy's
            global state as it is.
        name: of the parameter, for error messages.

    Raises:
        InputError: it is none of these.
    """
    if state is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> np.uint64(1))
    if isinstance(state, Integral):
        if state < 0:
            raise InputError(f"{name}: expected a whole number from 0 on, found {state}")
        return int(state)
    if isinstance(state, np.random.Generator):
        return int(state.integers(2**63))
    legacy = np.random.mtrand._rand if state is np.random else state
    if isinstance(legacy, np.random.RandomState):
        return int(legacy.randint(2**63 - 1, dtype=np.int64))
    raise InputError(
        f"{name}: expected None, a whole number from 0 on, or a RandomState or Generator of numpy.random, found {state!r}"
    )


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
