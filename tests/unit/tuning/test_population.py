"""Population-based training in this process: who takes over from whom, what is taken over, and going on after a kill."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ndsm.config import load_config
from ndsm.data import load
from ndsm.errors import InputError
from ndsm.objectives.epsilon import NetworkEpsilon
from ndsm.runs import Run
from ndsm.runs.mirror import RemoteCopy
from ndsm.training import fit_mixture
from ndsm.workflows.setup import build_problem
from tuning.folder import Score, TrialRecord
from tuning.population import (
    SHARES,
    changeable,
    changed,
    replace_worst,
    run_population,
    takeovers,
    train_member,
)
from tuning.proposals import Plan
from tuning.remote import search_folder
from tuning.scoring import Scorer, search_split
from tuning.space import Choice, Range, make_space
from tuning.trial import Setting

TINY = {
    "data.n": 500, "train.steps": 180, "train.batch_rows": 32, "train.block_mb": 0.05, "network.width": 16,
    "network.depth": 2, "sample.steps": 40, "sample.sampler": "exponential", "reference.n_init": 1,
    "objective.epsilon.every": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def search():
    """Plan of four members, and what makes the setting of a folder."""
    config = load_config("toy-arcs", TINY)
    split = search_split(load(config.data, 0), 0.2, "swd2")
    preset = build_problem(config, fit_mixture(config, split.train), split.stamp)
    space = changeable(make_space(config, split.train.shape, {"train.lr": "1e-4..1e-1"}), ["train.lr"], 180)
    return Plan(space, 4, "pbt", seed=1), lambda path: Setting(
        path, preset, Scorer(split, "swd2", 200, 0), scale=1.0, pool_bytes=2**24
    )


def here(function, shared, jobs):
    for job in jobs:
        function(shared, *job)


def weights(trial):
    state = trial.run.find_checkpoint().state
    return torch.cat([v.flatten() for v in state["model"].values()])


@pytest.fixture(params=["folder", "uri"])
def place(request, tmp_path):
    """Where a search is."""
    return tmp_path / "search" if request.param == "folder" else f"file://{tmp_path}/search"


@pytest.mark.parametrize("place", ["folder", pytest.param("uri", marks=pytest.mark.nightly)], indirect=True)
def test_a_population_ends_with_all_members_trained_and_the_worst_replaced(search, place):
    plan, make = search
    ended = []
    run_population(plan, make(place), 1, {"CPU": 1}, ended.append, here)
    assert [r.status for r in ended] == ["done"] * 4
    for record in ended:
        assert [s.share for s in record.scores] == list(SHARES)
        assert make(place).search.trial(record.number).run.last_step() == record.steps == 180
    # Whoever was worst after a generation took over from whoever was best.
    changes = sum(len(r.changes) for r in ended)
    assert 1 <= changes <= len(SHARES) - 1
    assert ended[0].changes == []
    assert ended[0].params == plan.space.preset()
    # Finished members are left alone.
    again = []
    run_population(
        plan,
        make(place),
        1,
        {"CPU": 1},
        again.append,
        lambda f, shared, jobs: jobs and pytest.fail("trained"),
    )
    assert again == ended


@pytest.fixture
def first_generation(search, place):
    """Members after their first ninth, whose last is made the worst."""
    plan, make = search
    setting = make(place)
    stopped = []

    def once(function, shared, jobs):
        here(function, shared, jobs)
        stopped.append(setting.search.stop_file)
        setting.search.stop_file.touch()

    run_population(plan, setting, 1, {"CPU": 1}, lambda record: None, once)
    setting.search.stop_file.unlink()
    for number in range(4):
        trial = setting.search.trial(number)
        record = trial.read()
        assert record.status == "running"
        record.scores[0].score = float(number)
        trial.write(record)
    return plan, setting.search


def test_weights_and_changed_values_are_taken_over(first_generation):
    plan, folder = first_generation
    before = weights(folder.trial(3))
    assert replace_worst(plan, folder, 1) == {3: 0}
    assert torch.equal(weights(folder.trial(3)), weights(folder.trial(0)))
    assert not torch.equal(weights(folder.trial(3)), before)
    record = folder.trial(3).read()
    assert folder.trial(3).run.config().train.lr == record.params["train.lr"] != plan.space.base.train.lr
    assert record.changes == [{"generation": 1, "from": 0, "params": record.params}]
    # Again: nothing more happens.
    assert replace_worst(plan, folder, 1) == {3: 0}
    assert folder.trial(3).read() == record


class Killed(Exception):
    pass


def assert_taken_over_once(folder, donor):
    """The last member has the donor's weights, and the learning rate that its record says."""
    record = folder.trial(3).read()
    assert len(record.changes) == 1
    assert torch.equal(weights(folder.trial(3)), weights(donor))
    assert folder.trial(3).run.config().train.lr == record.params["train.lr"]


@pytest.mark.parametrize("place", ["folder"], indirect=True)
@pytest.mark.parametrize(
    "moment", ["before the copy is whole", "before it is moved", "after the run is gone"]
)
def test_a_kill_while_a_member_takes_over_loses_nothing(first_generation, monkeypatch, moment):
    plan, folder = first_generation

    def killed(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "before the copy is whole":
            (folder.trial(3).path / "run-next").mkdir()
            patch.setattr(shutil, "copytree", killed)
        elif moment == "before it is moved":
            patch.setattr(Run, "remove", killed)
        else:
            patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            replace_worst(plan, folder, 1)
    replace_worst(plan, folder, 1)
    assert_taken_over_once(folder, folder.trial(0))
    assert not (folder.trial(3).path / "run-next").exists()


@pytest.mark.parametrize("place", ["uri"], indirect=True)
def test_a_kill_while_a_member_takes_over_at_a_uri_loses_nothing(first_generation, monkeypatch, tmp_path):
    """Before, or in the middle of, each step: the copy is emptied and uploaded, the run replaced and tidied, the copy deleted."""
    plan, first = first_generation

    def dies_at(moment, method, calls):
        def once(copy, argument):
            if next(calls) == moment:
                if not isinstance(argument, Path):
                    method(copy, list(argument)[:1])
                raise Killed
            method(copy, argument)

        return once

    for moment in range(5):
        shutil.copytree(tmp_path / "search", tmp_path / str(moment))
        folder = search_folder(f"file://{tmp_path}/{moment}")
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for name in ("remove", "push"):
                patch.setattr(RemoteCopy, name, dies_at(moment, getattr(RemoteCopy, name), calls))
            with pytest.raises(Killed):
                replace_worst(plan, folder, 1)
        replace_worst(plan, folder, 1)
        assert_taken_over_once(folder, first.trial(0))
        assert not any("run-next" in name for name in folder.names())


def test_a_quarter_takes_over_and_the_preset_keeps_its_own():
    records = [TrialRecord(n, {}, scores=[Score(20, SHARES[0], 8.0 - n)]) for n in range(8)]
    records[5].status = "failed"
    # Worst first: the preset (8), 1, 2, ...; the best are 6 and 7.
    found = takeovers(records, 1, seed=0)
    assert set(found) == set()
    records += [TrialRecord(8, {}, scores=[Score(20, SHARES[0], 0.5)])]
    found = takeovers(records, 1, seed=0)
    assert set(found) == {1}
    assert set(found.values()) <= {7, 8}
    assert found == takeovers(records, 1, seed=0)
    assert takeovers(records[:3], 1, seed=0) == {}


def test_changed_values_stay_in_their_range():
    rng = np.random.default_rng(0)
    lr = [changed(Range("train.lr", 1e-4, 1e-2, log=True), 5e-3, rng) for _ in range(400)]
    assert min(lr) >= 1e-4
    assert max(lr) <= 1e-2
    near = sum(x == pytest.approx(4e-3) or x == pytest.approx(6.25e-3) for x in lr)
    # 3 of 4: 300 ± 4 standard deviations.
    assert 265 <= near <= 335
    assert {changed(Range("n", 1, 9, integer=True), 8, rng) for _ in range(200)} <= set(range(1, 10))
    assert changed(Choice("a", ("b",)), "b", rng) == "b"


def test_what_cannot_change_while_a_model_trains_is_refused(search):
    plan, _ = search
    space = make_space(plan.space.base, (400, 2), {"process.horizon": "1..2"})
    with pytest.raises(InputError, match=r"--space\.process\.horizon: expected a field that may change"):
        changeable(space, ["process.horizon"], 180)
    with pytest.raises(InputError, match="left for --search pbt, found none"):
        changeable(replace(space, parameters=(Range("process.horizon", 1, 2),)), [], 180)
    with pytest.raises(InputError, match="at least 180 steps of a member, found 90"):
        changeable(space, [], 90)


def test_the_learned_epsilon_goes_on_at_its_new_rate():
    saved = NetworkEpsilon(1e-3, 1.0, lr=1e-3).state()
    resumed = NetworkEpsilon(1e-3, 1.0, lr=4e-3)
    resumed.load_state(saved)
    assert resumed.state()["optimizer"]["param_groups"][0]["lr"] == 4e-3


def test_a_member_waits_where_it_was_told_to(search, tmp_path):
    plan, make = search
    setting = make(tmp_path)
    trial = setting.search.trial(0)
    trial.write(TrialRecord(0, plan.space.preset(), cost=1.0))
    train_member(setting, trial.path, plan.space.base, SHARES[1])
    record = trial.read()
    assert record.status == "running"
    assert [s.share for s in record.scores] == list(SHARES[:2])
    assert trial.run.last_step() == 50
