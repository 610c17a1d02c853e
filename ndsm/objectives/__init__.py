"""Training objectives: each gives a loss per row and names what a simulator must record for it."""

from ndsm.objectives.antithetic import AntitheticNDSM
from ndsm.objectives.control_variate import (
    ClosedFormEpsilon,
    ConstantEpsilon,
    Epsilon,
    GradientMoments,
    NetworkEpsilon,
    gradient_moments,
)
from ndsm.objectives.dsm import DSM
from ndsm.objectives.ndsm import NDSM, Losses, Objective, Score

__all__ = [
    "DSM",
    "NDSM",
    "AntitheticNDSM",
    "ClosedFormEpsilon",
    "ConstantEpsilon",
    "Epsilon",
    "GradientMoments",
    "Losses",
    "NetworkEpsilon",
    "Objective",
    "Score",
    "gradient_moments",
]
