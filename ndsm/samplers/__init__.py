"""Samplers: from the prior back to the data."""

from ndsm.samplers.base import Draw, Sampler, Spacing
from ndsm.samplers.conditional import impute
from ndsm.samplers.generation import (
    CHUNK,
    SAMPLERS,
    carry,
    chunk_sizes,
    configured_sampler,
    find_sampler,
    generate,
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
    "chunk_sizes",
    "configured_sampler",
    "find_sampler",
    "generate",
    "impute",
    "reverse_times",
    "sample_prior",
]
