"""Samplers: from the prior back to the data."""

from ndsm.samplers.reverse_sde import generate, reverse_sde, sample_prior

__all__ = ["generate", "reverse_sde", "sample_prior"]
