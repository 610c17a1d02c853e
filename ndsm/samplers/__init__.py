"""Samplers: from the prior back to the data.

Not here: what is inferred beside plain generation (`ndsm.inference`).
"""

from ndsm.samplers.base import Draw, Sampler, Spacing
from ndsm.samplers.registry import (
    CHUNK,
    SAMPLERS,
    carry,
    checked_evaluations,
    chunk_sizes,
    configured_sampler,
    find_sampler,
    generate,
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
    "carry",
    "checked_evaluations",
    "chunk_sizes",
    "configured_sampler",
    "find_sampler",
    "generate",
    "requested_sample",
    "reverse_times",
    "sample_prior",
]
