"""Which training a run is: the fields and hashes that resuming compares."""

from ndsm.config import Config, chosen_values, differences
from ndsm.config.roles import DEFINING, names_of
from ndsm.core.hashing import fingerprint


def differing_fields(a: Config, b: Config) -> list[str]:
    """Return the dotted names of the fields that make b another training than a, each with both values."""
    found = differences(a, b, *DEFINING)
    return [f"{name} ({before} before, {now} now)" for name, (before, now) in found.items()]


def training_hash(config: Config) -> str:
    """Return a short hash of the fields that define a training.

    Fields at their defaults are left out, so that a field which a later version adds does not change the hash.
    """
    defining = names_of(Config, *DEFINING)
    return fingerprint({name: value for name, value in chosen_values(config).items() if name in defining})
