"""How workers divide the simulators among themselves, and the notes they leave for the driver."""

import pytest

from pipelines import coordinator
from pipelines.handles import SimulatorHandle


def handles(count, first=0):
    return [SimulatorHandle(f"actor {i}", []) for i in range(first, first + count)]


class Remote:
    """In Ray's place: a coordinator in this process, whose answers come when the test says so."""

    def __init__(self, simulators):
        self.coordinator, self.ready = coordinator.Coordinator([simulators]), True
        self.newer_simulators = self
        self.asked = 0
        self.answers = []

    def remote(self, version):
        self.asked += 1
        self.answers.append(self.coordinator.newer_simulators(version))
        return len(self.answers) - 1

    def get(self, ref):
        return self.answers[ref] if isinstance(ref, int) else ref

    def wait(self, refs, timeout):
        return (refs, []) if self.ready else ([], refs)


@pytest.fixture
def remote(monkeypatch):
    made = Remote(handles(5))
    monkeypatch.setattr(coordinator, "ray", made)
    monkeypatch.setattr(coordinator, "ASK_SECONDS", 0.0)
    return made


def members(remote, world):
    return [coordinator.Membership(remote, rank, world) for rank in range(world)]


def names(simulators):
    return [handle.actor for handle in simulators]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_simulator_is_one_workers_and_the_others_know_of_it(remote, world):
    found = members(remote, world)
    everyone = names(handles(5))
    assert sorted(name for m in found for name in names(m.mine)) == everyone
    sizes = [len(m.mine) for m in found]
    assert max(sizes) - min(sizes) <= 1
    for m in found:
        assert sorted(names(m.mine) + names(m.others)) == everyone
        assert m.total == 5


def test_workers_without_a_simulator_of_their_own_share_one(remote):
    remote.coordinator.set_simulators([handles(2)])
    found = members(remote, 5)
    assert [names(m.mine) for m in found] == [[f"actor {rank % 2}"] for rank in range(5)]
    assert [names(m.others) for m in found] == [[f"actor {1 - rank % 2}"] for rank in range(5)]


def test_without_simulators_nobody_has_one(remote):
    remote.coordinator.set_simulators([[]])
    for m in members(remote, 2):
        assert (m.mine, m.others, m.total) == ([], [], 0)


def test_a_list_is_sent_once(remote):
    """To read a reference that comes with each answer would be most of what asking costs."""
    (member,) = members(remote, 1)
    for _ in range(6):
        member.look()
    assert [answer is None for answer in remote.answers] == [False, True, True, True]
    remote.coordinator.set_simulators([handles(2)])
    for _ in range(4):
        member.look()
    assert [answer is None for answer in remote.answers[4:]] == [False, True]
    assert names(member.mine) == ["actor 0", "actor 1"]


def test_another_list_is_divided_anew_once_it_is_there(remote):
    """After a resize and after simulators came or went; while the coordinator does not answer, the last list holds."""
    first, second = members(remote, 2)
    remote.coordinator.set_simulators([handles(4, first=3)])
    remote.ready = False
    for _ in range(3):
        assert names(first.look()) == ["actor 0", "actor 2", "actor 4"]
    assert remote.asked == 3
    remote.ready = True
    first.look(), second.look(), second.look()
    assert names(first.mine) == names(second.others) == ["actor 3", "actor 5"]
    assert names(second.mine) == names(first.others) == ["actor 4", "actor 6"]
    (alone,) = members(remote, 1)
    assert names(alone.mine) == names(handles(4, first=3))


def test_news_are_told_once():
    made = coordinator.Coordinator([])
    made.post({"step": 1})
    made.warn("slow")
    assert made.post({"step": 2}) is False
    assert made.take_news() == ([{"step": 1}, {"step": 2}], ["slow"])
    made.ask_to_stop()
    assert made.post({"step": 3}) is True
    assert made.take_news() == ([{"step": 3}], [])
