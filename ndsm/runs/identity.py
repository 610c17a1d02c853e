"""Which training a run is: the fields and hashes that resuming compares."""

from collections.abc import Collection
from typing import Any

from ndsm.config import Config, chosen_values, differences
from ndsm.config.roles import DEFINING, continuable_names, names_of
from ndsm.core.hashing import fingerprint
from ndsm.errors import InputError


def differing_fields(a: Config, b: Config, allowed: Collection[str] = ()) -> list[str]:
    """Return the dotted names of the fields that make b another training than a, each with both values.

    Args:
        allowed: fields that are left out.
    """
    found = differences(a, b, *DEFINING)
    return [
        f"{name} ({before} before, {now} now)" for name, (before, now) in found.items() if name not in allowed
    ]


def changes_of_continuation(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Return both values of the fields by which a continuation b differs from the training a that it goes on from.

    Raises:
        InputError: a field differs that may not: blocks, network or optimiser state of a would not fit b.
    """
    allowed = continuable_names(Config)
    if fields := differing_fields(a, b, allowed):
        raise InputError(
            f"--continue: expected the run's own values of all fields but {', '.join(allowed)} and those that do not define a "
            f"training, found {', '.join(fields)}; train a run of another --name with these"
        )
    return differences(a, b, *DEFINING)


def training_hash(config: Config) -> str:
    """Return a short hash of the fields that define a training.

    Fields at their defaults are left out, so that a field which a later version adds does not change the hash.
    """
    defining = names_of(Config, *DEFINING)
    return fingerprint({name: value for name, value in chosen_values(config).items() if name in defining})
