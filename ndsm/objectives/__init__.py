"""Training objectives: each gives a loss per row and names what a simulator must record for it.

Not here: the weight of a time and the step of the optimiser (`ndsm.training`).
"""

from ndsm.core.types import Score
from ndsm.objectives.antithetic import AntitheticNDSM
from ndsm.objectives.base import ControlVariate, Losses, Objective
from ndsm.objectives.dsm import DSM
from ndsm.objectives.epsilon import (
    ClosedFormEpsilon,
    ConstantEpsilon,
    Epsilon,
    NetworkEpsilon,
    PiecewiseLinearEpsilon,
    make_epsilon,
)
from ndsm.objectives.ndsm import NDSMLoss
from ndsm.objectives.path import PathControlVariate
from ndsm.objectives.per_sample_gradients import GradientMoments, gradient_moments
from ndsm.objectives.registry import OBJECTIVES, make_objective
from ndsm.objectives.sliced import Sliced

NDSM, Path = NDSMLoss, PathControlVariate
"""Names of version 0.1.0."""

__all__ = [
    "DSM",
    "NDSM",
    "OBJECTIVES",
    "AntitheticNDSM",
    "ClosedFormEpsilon",
    "ConstantEpsilon",
    "ControlVariate",
    "Epsilon",
    "GradientMoments",
    "Losses",
    "NDSMLoss",
    "NetworkEpsilon",
    "Objective",
    "Path",
    "PathControlVariate",
    "PiecewiseLinearEpsilon",
    "Score",
    "Sliced",
    "gradient_moments",
    "make_epsilon",
    "make_objective",
]
