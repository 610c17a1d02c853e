"""The configuration: its fields with their defaults and roles, presets, and overrides.

Not here: what a field's value makes (`ndsm.training.setup`).
"""

from ndsm.config.load import (
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
from ndsm.config.schema import (
    IMAGES,
    WITH_EPSILON,
    Config,
    Csv,
    Data,
    Epsilon,
    Objective,
    Residual,
    Sample,
    SamplerName,
    Train,
)

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
