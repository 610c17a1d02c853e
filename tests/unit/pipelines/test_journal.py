"""What is told of nodes, workers and simulators that come and go; and which simulators make way for workers."""

import pytest

from ndsm.config import Train
from pipelines import room
from pipelines.coordinator import Group
from pipelines.journal import Journal
from pipelines.resources import Cluster, Node
from pipelines.room import Place, Room

NODES = {"1": "a (10.0.0.1)", "2": "b (10.0.0.2)", "3": "c (10.0.0.3)"}


@pytest.fixture
def said():
    return []


@pytest.fixture
def journal(said):
    """Of two workers on the first two nodes, which have begun."""
    made = Journal(said.append)
    made.nodes(NODES, {})
    made.workers(Group(1, ("1", "2")))
    made.workers(Group(1, ("1", "2"), step=0, world=2))
    made.simulators(4, 0)
    assert said == []
    return made


def without(*ids):
    return {id: name for id, name in NODES.items() if id not in ids}


def test_a_lost_node_of_a_worker_is_told_of_at_once_and_how_training_goes_on(journal, said):
    # Ray Train may notice first; both workers fail, one of them for want of the other.
    journal.workers(Group(1, (), 0, 2, 9, failed=(1,)))
    journal.nodes(without("2"), {"3": 2})
    assert (
        said.pop()
        == "lost node b (10.0.0.2) with 1 of 2 workers; the workers start again from the last checkpoint"
    )
    journal.workers(Group(2, ("1",)))
    assert said == []
    journal.workers(Group(2, ("1",), step=120, world=1))
    journal.workers(Group(2, ("1",), step=120, world=1, reports=3))
    journal.nodes(without("2"), {"3": 2})
    assert said == ["lost node b (10.0.0.2); going on with 1 worker from step 120"]
    assert journal.lost == {"nodes_lost": 1, "workers_lost": 1, "simulators_lost": 0}
    journal.nodes(NODES, {"3": 2})
    journal.workers(Group(3, ("1", "2"), step=150, world=2))
    assert said[1:] == [
        "node b (10.0.0.2) came",
        "node b (10.0.0.2) came; going on with 2 workers from step 150",
    ]


def test_a_worker_that_ends_alone_and_a_restart_for_room(journal, said):
    journal.workers(Group(1, ("1", "2"), 0, 2, 9, failed=(1,)))
    for _ in range(2):
        journal.nodes(NODES, {})
    journal.workers(Group(2, ("1", "3"), step=30, world=2))
    assert said == [
        "lost worker 1; the workers start again from the last checkpoint",
        "lost worker 1; going on with 2 workers from step 30",
    ]
    journal.workers(Group(3, ("1", "2", "3"), step=40, world=3))
    assert said[2:] == ["there is room for more; going on with 3 workers from step 40"]
    assert journal.lost["workers_lost"] == 1


def test_nodes_without_workers_and_simulators(journal, said):
    journal.nodes(without("3"), {"3": 2, "1": 1})
    journal.nodes(without("3"), {})
    journal.simulators(3, 0)
    journal.simulators(3, 2)
    # A restart counts from its checkpoint.
    journal.simulators(3, 1)
    journal.simulators(4, 2)
    assert said == [
        "lost node c (10.0.0.3) with 2 simulators; training goes on with the others",
        "3 simulators in place of 4",
        "lost 2 simulators, which came back as a new process",
        "4 simulators in place of 3",
    ]
    assert journal.lost == {"nodes_lost": 1, "workers_lost": 0, "simulators_lost": 4}
    other = Journal(said.append, journal.lost)
    other.nodes(NODES, {})
    other.nodes(without("1"), {})
    assert said[4:] == ["lost node a (10.0.0.1), which this run did not use"]
    assert other.lost["nodes_lost"] == 2
    other.nodes(without("1", "3"), {"3": 2})
    assert said[5:] == ["lost node c (10.0.0.3) with 2 simulators; training goes on once others run"]


def node(id, cpus, free):
    return Node(id, id, {"CPU": cpus}, {"CPU": free})


@pytest.fixture
def placed(monkeypatch):
    """A room with simulators on nodes; the nodes of those that are in the way of workers."""

    def make(nodes, places, asked=1, **train):
        monkeypatch.setattr(room, "find_nodes", lambda: nodes)
        made = Room(Cluster(8, 0, 1e9), Train(**train), False, 1.0, 0.0, print)
        made._asked = max(asked, made._asked)
        made.places = [Place(number, id) for number, id in enumerate(places)]
        return [place.node for place in made.in_the_way()]

    return make


def test_simulators_make_way_for_workers_and_no_more_than_are_in_the_way(placed):
    """Two plain nodes of which one is lost: the simulators of the other hold the CPU that the worker needs."""
    assert placed([node("a", 2, 0)], ["a", "a"], workers="1,2") == ["a"]
    assert placed([node("a", 2, 1)], ["a"], workers="1,2") == []
    # Ray Train asks for as many as the node has CPUs.
    assert placed([node("a", 2, 0)], ["a", "a"], 2, workers="1,2") == ["a", "a"]
    assert placed([node("a", 2, 1)], ["a"], 2, workers="1,2") == ["a"]
    assert placed([node("a", 2, 0)], ["a"], 2, workers="1,2") == ["a"]
    assert placed([node("a", 4, 0), node("b", 4, 1)], ["a", "a", "a", "b"], workers=2) == ["a"]
    assert placed([node("a", 4, 0), node("b", 4, 1)], ["a", "b", "a"], workers=1, cpus_per_worker=2) == ["b"]
    # They are not what is missing: none goes in vain.
    assert placed([node("a", 2, 0)], ["a"], workers=2) == []
