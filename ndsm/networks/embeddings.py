"""Embedding of the time, the form in which it enters a network."""

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """log t scaled to [-1, 1], and random Fourier features of it.

    The score changes over orders of magnitude of t, so log t is the coordinate in which it is smooth.

    Args:
        t_min, t_max: the range of times mapped to [-1, 1].
        features: Fourier features (pairs of sine and cosine).
        scale: standard deviation of their frequencies, in periods per half range.
        generator: draws the frequencies.
    """

    frequencies: Tensor
    log_t_range: Tensor

    def __init__(
        self, t_min: float, t_max: float, features: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(features, generator=generator))
        self.register_buffer("log_t_range", torch.tensor([math.log(t_min), math.log(t_max)]))
        self.width = 1 + 2 * features

    def forward(self, t: Tensor) -> Tensor:
        """Features of the times, (B,) → (B, 1 + 2·features)."""
        low, high = self.log_t_range
        tau = (2 * (t.log() - low) / (high - low) - 1)[:, None]
        phase = math.pi * tau * self.frequencies
        return torch.cat([tau, phase.sin(), phase.cos()], 1)
