"""Score-based generative models with nonlinear noising adapted to the data.

gen = ndsm.NDSM().fit(X)
rows = gen.sample(1000)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ndsm.core.moved import find_moved_modules

if TYPE_CHECKING:
    from ndsm import objectives
    from ndsm.config import Config, load_config
    from ndsm.errors import InputError
    from ndsm.estimator import NDSM, load
    from ndsm.mixture import GaussianMixture
    from ndsm.processes import OU, VE, VP, Langevin, SubVP

_HOME = {
    "NDSM": "ndsm.estimator",
    "load": "ndsm.estimator",
    "Config": "ndsm.config",
    "load_config": "ndsm.config",
    "InputError": "ndsm.errors",
    "Langevin": "ndsm.processes",
    "OU": "ndsm.processes",
    "SubVP": "ndsm.processes",
    "VE": "ndsm.processes",
    "VP": "ndsm.processes",
    "GaussianMixture": "ndsm.mixture",
}

__all__ = [
    "NDSM",
    "OU",
    "VE",
    "VP",
    "Config",
    "GaussianMixture",
    "InputError",
    "Langevin",
    "SubVP",
    "load",
    "load_config",
    "objectives",
]


find_moved_modules()


def __getattr__(name: str) -> Any:
    # Imported when first asked for: simulators and workers need neither scikit-learn nor the estimator, and
    # each of them would spend seconds and a hundred MB on the import.
    if name == "objectives":
        return import_module("ndsm.objectives")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ndsm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
