"""Processes by their name in `process.kind`.

Not exported by the package: simulators have no use for the configuration that it imports.
"""

import math
from collections.abc import Callable

from ndsm.config import Config
from ndsm.config.model_sections import Process as ProcessConfig
from ndsm.mixture import GaussianMixture
from ndsm.processes.base import Process
from ndsm.processes.langevin import Langevin
from ndsm.processes.linear import OU, VE, VP, SubVP
from ndsm.processes.marginal import MarginalMixtureOU
from ndsm.processes.mixture_ou import MixtureOU


def _variance_exploding(config: ProcessConfig, mixture: GaussianMixture) -> VE:
    # The prior's variance, which a run keeps, is 1 + σ(T)².
    largest = config.sigma_max or math.sqrt(float(mixture.covariances[0]) - 1 + config.sigma_min**2)
    return VE(config.horizon, config.sigma_min, largest).for_dimension(mixture.dimension)


FORMS: dict[str, Callable[[GaussianMixture, float], Process]] = {
    "component": MixtureOU,
    "marginal": MarginalMixtureOU,
}
"""Maker of the process by `process.form`, given the mixture and the horizon."""

PROCESSES: dict[str, Callable[[ProcessConfig, GaussianMixture], Process]] = {
    "langevin": lambda p, mixture: Langevin(mixture, horizon=p.horizon),
    "vp": lambda p, mixture: VP(p.horizon, p.beta_min, p.beta_max).for_dimension(mixture.dimension),
    "subvp": lambda p, mixture: SubVP(p.horizon, p.beta_min, p.beta_max).for_dimension(mixture.dimension),
    "ve": _variance_exploding,
    "ou": lambda p, mixture: OU(p.horizon).for_dimension(mixture.dimension),
    "mixture-ou": lambda p, mixture: FORMS[p.form](mixture, p.horizon),
}
"""Maker of the process, given the `process` section and a mixture."""


def make_process(config: Config, mixture: GaussianMixture) -> Process:
    """The process of the `process` section; `mixture` is its stationary or terminal law, or the mixture of its components."""
    return PROCESSES[config.process.kind](config.process, mixture)
