"""What is asked of an autoscaler, when, and for how long."""

import json

import pytest

from ndsm.config import load_config
from ndsm.errors import InputError, Unfinished
from pipelines import growth, train
from pipelines.resources import Cluster


@pytest.fixture
def scaler(monkeypatch, tmp_path):
    """An autoscaler that gives two CPUs at its third look; what it was asked for."""
    looks, asked = iter([0, 0, 2]), []
    monkeypatch.setattr(growth, "find_cluster", lambda: Cluster(next(looks, 2), 0, 1e9))
    monkeypatch.setattr(growth, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(growth, "can_grow", lambda: True)
    monkeypatch.setattr(growth, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(growth, "BOOTSTRAP", tmp_path / "cluster.yaml")
    return asked


def two_cpus(found):
    if found.cpus < 2:
        raise InputError(f"the cluster has {found.cpus:g} CPUs, but 2 are needed")


BUNDLES = train.machines_for(load_config("toy-arcs").train, 1)


def test_a_cluster_that_is_too_small_grows_and_one_that_fits_is_left_alone(scaler):
    said = []
    fits = Cluster(2, 0, 1e9)
    assert growth.grown(fits, BUNDLES, two_cpus, 100.0, said.append) is fits
    assert (scaler, said) == ([], [])
    assert growth.grown(Cluster(0, 0, 1e9), BUNDLES, two_cpus, 100.0, said.append).cpus == 2
    # Nothing is known of what kinds of machines offer.
    assert scaler == [[{"CPU": 1}, {"CPU": 1}]]
    assert said == [
        "waiting for machines for 2 x (1 CPU), which the autoscaler was asked for: there are 0 CPUs"
    ]


def test_custom_resources_are_asked_for_where_the_cluster_file_offers_them(scaler):
    kinds = {"head": {"resources": {"CPU": 0}}, "t": {"resources": {"trainer": 1}}, "none": {}}
    growth.BOOTSTRAP.write_text(json.dumps({"available_node_types": kinds}))
    growth.grown(Cluster(0, 0, 1e9), BUNDLES, two_cpus, 100.0, print)
    assert scaler == [[{"CPU": 1, "trainer": 1}, {"CPU": 1}]]


def test_a_wait_ends_and_what_was_asked_for_is_let_go(scaler, monkeypatch):
    monkeypatch.setattr(growth, "find_cluster", lambda: Cluster(0, 0, 1e9))
    with pytest.raises(Unfinished, match=r"train\.start_seconds .* the autoscaler was asked for"):
        growth.grown(Cluster(0, 0, 1e9), BUNDLES, two_cpus, 0.01, print)
    assert scaler[-1] == []


def test_without_an_autoscaler_it_is_refused(scaler, monkeypatch):
    monkeypatch.setattr(growth, "can_grow", lambda: False)
    with pytest.raises(InputError, match="but 2 are needed"):
        growth.grown(Cluster(0, 0, 1e9), BUNDLES, two_cpus, 100.0, print)
    assert scaler == []


@pytest.mark.parametrize(
    ("types", "grows"),
    [
        ({"ab12": "node_ab12"}, False),
        ({"ab12": "node_ab12", "cd34": "head"}, True),
        ({}, False),
        (None, False),
    ],
)
def test_an_autoscaler_that_only_watches_names_each_node_by_its_id(monkeypatch, types, grows):
    status = (
        None if types is None else json.dumps({"autoscaler_report": {"node_type_mapping": types}}).encode()
    )
    monkeypatch.setattr(growth.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(growth, "is_autoscaler_v2", lambda: False)
    monkeypatch.setattr(growth, "_internal_kv_get", lambda key: status)
    assert growth.can_grow() is grows
