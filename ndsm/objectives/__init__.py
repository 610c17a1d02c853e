"""Training objectives: each gives a loss per row and names what a simulator must record for it.

Not here: the weight of a time and the step of the optimiser (`ndsm.training`).
"""

from ndsm.objectives.antithetic import AntitheticNDSM
from ndsm.objectives.dsm import DSM
from ndsm.objectives.epsilon import (
    ClosedFormEpsilon,
    ConstantEpsilon,
    Epsilon,
    NetworkEpsilon,
    PiecewiseLinearEpsilon,
    make_epsilon,
)
from ndsm.objectives.gradient_moments import GradientMoments, gradient_moments
from ndsm.objectives.ndsm import NDSM, ControlVariate, Losses, Objective, Score
from ndsm.objectives.path import Path
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
