"""Objectives by their name in `objective.kind`."""

from collections.abc import Callable

from ndsm.config import Objective as ObjectiveConfig
from ndsm.objectives.antithetic import AntitheticNDSM
from ndsm.objectives.base import ControlVariate, Objective
from ndsm.objectives.dsm import DSM
from ndsm.objectives.ndsm import NDSMLoss
from ndsm.objectives.path import PathControlVariate
from ndsm.objectives.sliced import Sliced
from ndsm.objectives.velocity import VelocityMatching
from ndsm.processes.base import HiddenComponents

OBJECTIVES: dict[str, Callable[[ControlVariate], Objective]] = {
    "ndsm": lambda control_variate: NDSMLoss(),
    "ndsm-cv": NDSMLoss,
    "antithetic": lambda control_variate: AntitheticNDSM(),
    "path": PathControlVariate,
    "sliced": lambda control_variate: Sliced(),
    "dsm": lambda control_variate: DSM(),
    "mixture-dsm": lambda control_variate: DSM(),
}
"""Maker of the objective, given the choice of ε(t); objectives without a control variate ignore it."""


def make_objective(config: ObjectiveConfig, hidden: HiddenComponents | None = None) -> Objective:
    """The objective of the `objective` section.

    Args:
        hidden: components that the network does not see, if rows are noised by such.
    """
    if hidden is not None:
        return VelocityMatching(hidden, config.mirrored)
    choices: dict[str, ControlVariate] = {
        "constant": config.epsilon.value,
        "piecewise-linear": config.epsilon.values,
        "closed-form": "closed-form",
        "network": "learned",
    }
    if config.mirrored:
        return DSM(mirrored=True)
    return OBJECTIVES[config.kind](choices[config.epsilon.kind])
