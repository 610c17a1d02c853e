"""Samplers: from the prior back to the data."""

from ndsm.samplers.base import Draw, Sampler, Spacing
from ndsm.samplers.conditional import impute
from ndsm.samplers.generation import (
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
    "impute",
    "requested_sample",
    "reverse_times",
    "sample_prior",
]
