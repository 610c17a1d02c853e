"""Training objectives: each gives a loss per row and names what a simulator must record for it."""

from ndsm.objectives.antithetic import AntitheticNDSM
from ndsm.objectives.control_variate import (
    ClosedFormEpsilon,
    ConstantEpsilon,
    Epsilon,
    NetworkEpsilon,
    PiecewiseLinearEpsilon,
    make_epsilon,
)
from ndsm.objectives.dsm import DSM
from ndsm.objectives.ndsm import NDSM, ControlVariate, Losses, Objective, Score
from ndsm.objectives.path import Path
from ndsm.objectives.per_sample import GradientMoments, gradient_moments
from ndsm.objectives.sliced import Sliced

__all__ = [
    "DSM",
    "NDSM",
    "AntitheticNDSM",
    "ClosedFormEpsilon",
    "ConstantEpsilon",
    "ControlVariate",
    "Epsilon",
    "GradientMoments",
    "Losses",
    "NetworkEpsilon",
    "Objective",
    "Path",
    "PiecewiseLinearEpsilon",
    "Score",
    "Sliced",
    "gradient_moments",
    "make_epsilon",
]
