"""Samplers by their name in `sample.sampler`, with the settings that a configuration or a request gives them."""

from dataclasses import replace
from typing import Any, cast

from ndsm.config import Sample
from ndsm.errors import InputError
from ndsm.processes.transitions import LinearKernel, MixtureKernel, kernel_of
from ndsm.samplers.annealed import AnnealedLangevin
from ndsm.samplers.base import Sampler
from ndsm.samplers.flow import Flow, LevelFlow
from ndsm.samplers.grids import Spacing
from ndsm.samplers.ode import Adaptive, Heun
from ndsm.samplers.reverse_sde import PredictorCorrector, ReverseSDE

SAMPLERS: dict[str, Sampler] = {
    "em": ReverseSDE("em"),
    "exponential": ReverseSDE("exponential"),
    "reverse-diffusion": ReverseSDE("reverse-diffusion"),
    "ancestral": Flow(kernel_of, "ancestral", noise=1.0),
    "pc": PredictorCorrector(),
    "annealed": AnnealedLangevin(),
    "ode": Heun(),
    "ode-adaptive": Adaptive(),
    "flow": Flow(MixtureKernel, "flow"),
    "flow2": Flow(MixtureKernel, "flow2", order=2),
    "ddim": LevelFlow(LinearKernel, "ddim"),
    "dpmpp-2m": LevelFlow(LinearKernel, "dpmpp-2m", order=2),
}

SETTINGS = {
    "noise": "sample.noise",
    "spacing": "sample.power, signal or end",
    "slope_error": "sample.slope_error",
}
"""Fields of the configuration by the setting of a sampler."""


def find_sampler(
    sampler: str | Sampler,
    noise: float | None = None,
    spacing: Spacing | None = None,
    slope_error: float | None = None,
) -> Sampler:
    """The sampler of a name; an object as it is.

    Args:
        noise: η of the samplers that have it, in place of their own.
        spacing: of the times of the same samplers.
        slope_error: ε of the same samplers; 0 for a score that is known exactly.

    Raises:
        InputError: there is no such name, or the sampler does not have such a setting.
    """
    chosen = SAMPLERS.get(sampler) if isinstance(sampler, str) else sampler
    if chosen is None:
        raise InputError(f"sample.sampler: expected one of {', '.join(SAMPLERS)}, found {sampler!r}")
    given = {"noise": noise, "spacing": spacing, "slope_error": slope_error}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in changes:
        if name not in getattr(chosen, "__dataclass_fields__", ()):
            able = ", ".join(key for key, one in SAMPLERS.items() if hasattr(one, name))
            raise InputError(f"{SETTINGS[name]}: expected one of the samplers {able}, found {sampler!r}")
    return replace(cast(Any, chosen), **changes) if changes else chosen


def requested_sample(
    configured: Sample, sampler: str | None = None, steps: int | None = None, noise: float | None = None
) -> Sample:
    """A run's `sample` section with what a request gives in its place; settings of the run's sampler go with that one only."""
    asked: dict[str, Any] = {"steps": steps, "noise": noise}
    if sampler not in (None, configured.sampler):
        asked |= {"sampler": sampler, "steps": steps or configured.steps}
        configured = Sample()
    return configured.model_copy(update={name: value for name, value in asked.items() if value is not None})


def configured_sampler(sample: Sample) -> Sampler:
    """The sampler of a configuration.

    Raises:
        InputError: settings for a sampler that does not have them.
    """
    spacing = Spacing(sample.power, sample.signal, sample.end)
    return find_sampler(
        sample.sampler, sample.noise, None if spacing == Spacing() else spacing, sample.slope_error
    )
