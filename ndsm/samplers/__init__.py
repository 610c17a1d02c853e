"""Samplers: from the prior back to the data.

Not here: what is inferred beside plain generation (`ndsm.inference`).
"""

from ndsm.samplers.base import Draw, Sampler, Spacing
from ndsm.samplers.registry import (
    CHUNK,
    SAMPLERS,
    checked_evaluations,
    chunk_sizes,
    configured_sampler,
    find_sampler,
    generate,
    integrate,
    requested_sample,
    reverse_times,
    sample_prior,
)

__all__ = [
    "CHUNK",
    "SAMPLERS",
    "Draw",
    "Sampler",
    "Spacing",
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
