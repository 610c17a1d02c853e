"""Samplers: from the prior back to the data.

Not here: what is inferred beside plain generation (`ndsm.inference`).
"""

import warnings
from typing import Any

from ndsm.samplers.base import Draw, Sampler, Solver, Step, SteppingSampler
from ndsm.samplers.grids import Spacing
from ndsm.samplers.loop import (
    CHUNK,
    checked_evaluations,
    chunk_sizes,
    generate,
    integrate,
    reverse_times,
    sample_prior,
)
from ndsm.samplers.registry import SAMPLERS, configured_sampler, find_sampler, requested_sample

__all__ = [
    "CHUNK",
    "SAMPLERS",
    "Draw",
    "Sampler",
    "Solver",
    "Spacing",
    "Step",
    "SteppingSampler",
    "checked_evaluations",
    "chunk_sizes",
    "configured_sampler",
    "find_sampler",
    "generate",
    "integrate",
    "requested_sample",
    "reverse_times",
    "sample_prior",
]


def __getattr__(name: str) -> Any:
    if name == "carry":
        warnings.warn("ndsm.samplers.carry is ndsm.samplers.integrate now", FutureWarning, stacklevel=2)
        return integrate
    raise AttributeError(f"module 'ndsm.samplers' has no attribute {name!r}")
