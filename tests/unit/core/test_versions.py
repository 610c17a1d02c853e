"""Nodes with other software are told apart from nodes with another build of the same."""

import pytest

from ndsm.errors import InputError
from pipelines import versions


@pytest.fixture
def node(monkeypatch):
    """The software of this node."""
    found = {"ndsm": "0.1.0", "torch": "2.14.1+cu130", "numpy": "2.4.6", "ndsm's source": "00ff"}
    monkeypatch.setattr(versions, "software", lambda: found)
    return found


def test_builds_of_one_version_for_processors_and_gpus_are_the_same_software(node):
    versions.check_software({**node, "torch": "2.14.1+cpu"})
    versions.check_software({**node, "torch": "2.14.1"})


@pytest.mark.parametrize(("name", "driver"), [("torch", "2.14.0+cu130"), ("ndsm's source", "00fe")])
def test_another_version_or_source_is_refused_by_name(node, name, driver):
    with pytest.raises(InputError, match=f"has {name} .*, expected the driver's {driver[:6]}"):
        versions.check_software({**node, name: driver})
