"""The configuration: its fields with their defaults and roles, presets, and overrides.

Not here: what a field's value makes (`ndsm.training.setup`).
"""

from ndsm.config.data_section import IMAGES, Csv, Data
from ndsm.config.load import (
    about_preset,
    build_config,
    chosen_values,
    differences,
    flat,
    flatten,
    load_config,
    merge,
    preset_names,
    read_preset,
)
from ndsm.config.model_sections import WITH_EPSILON, Epsilon, Objective, Residual
from ndsm.config.run_sections import Sample, SamplerName, Train
from ndsm.config.schema import Config

__all__ = [
    "IMAGES",
    "WITH_EPSILON",
    "Config",
    "Csv",
    "Data",
    "Epsilon",
    "Objective",
    "Residual",
    "Sample",
    "SamplerName",
    "Train",
    "about_preset",
    "build_config",
    "chosen_values",
    "differences",
    "flat",
    "flatten",
    "load_config",
    "merge",
    "preset_names",
    "read_preset",
]
