"""Earlier names of modules: importing one warns and provides the contents of the current module."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

MOVED = {
    "ndsm.classifier": "ndsm.inference.noisy_classifier",
    "ndsm.experiment": "ndsm.workflows",
    "ndsm.likelihood": "ndsm.inference.likelihood",
    "ndsm.metrics.images": "ndsm.metrics.image_quality",
    "ndsm.reference": "ndsm.mixture",
    "ndsm.run": "ndsm.runs",
    "ndsm.samplers.conditional": "ndsm.inference.imputation",
    "ndsm.samplers.final": "ndsm.inference.final_step",
    "ndsm.samplers.final_step": "ndsm.inference.final_step",
    "ndsm.samplers.generation": "ndsm.samplers.loop",
    "ndsm.samplers.guidance": "ndsm.inference.guidance",
    "ndsm.samplers.posterior": "ndsm.inference.posterior",
    "ndsm.samplers.projection": "ndsm.inference.projection",
    "ndsm.samplers.reconstruction": "ndsm.inference.reconstruction",
    "ndsm.second_order": "ndsm.inference.second_order",
    "ndsm.streams": "ndsm.core.rng",
}
"""Module names in the documentation of version 0.1.0, and the current ones."""


class _MovedModules(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(f"{name} is {MOVED[name]} now", FutureWarning, stacklevel=2)
        contents = vars(import_module(MOVED[name]))
        vars(module).update({key: value for key, value in contents.items() if not key.startswith("__")})


def find_moved_modules() -> None:
    """Install the finder for earlier module names, before others: a folder with nothing but caches in it is a package to them."""
    sys.meta_path.insert(0, _MovedModules())
