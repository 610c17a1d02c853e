"""cluster.yaml is a valid Ray cluster file and agrees with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def validated(config):
    """The cluster file with Ray's defaults filled in; raises if Ray would refuse it.

    Ray has no public check, so its private one is used here and nowhere else. It asks no cloud: instance
    types and image names are not checked.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_ray_accepts_the_cluster_file(cluster):
    prepared = validated(cluster)
    assert set(prepared["available_node_types"]) == {"head", "simulator", "trainer"}


def test_ray_refuses_a_misspelt_key(cluster):
    cluster["available_node_types"]["simulator"]["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validated(cluster)


def test_head_offers_no_cpu_and_simulators_are_spot(cluster):
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["simulator"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in types["trainer"]["node_config"]


def test_image_and_setup_have_one_ray_that_the_project_accepts(cluster):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = next(r for r in map(Requirement, project["dependencies"]) if r.name == "ray")
    image = re.search(r"ray:([\d.]+)-py", cluster["docker"]["image"])
    installed = re.search(r'"(ray\[.*?)"', " ".join(cluster["setup_commands"]))
    assert image is not None
    assert installed is not None
    pinned = Requirement(installed.group(1))
    assert pinned.extras == required.extras
    assert str(pinned.specifier) == f"=={image.group(1)}"
    assert required.specifier.contains(image.group(1))
