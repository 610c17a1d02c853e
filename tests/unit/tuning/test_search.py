"""What a search proposes, stops, keeps and goes on with, without a cluster."""

import os
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from ndsm.cli import main
from ndsm.config import load_config, merge
from ndsm.core.interrupt import Terminated, terminable
from ndsm.errors import InputError
from pipelines.resources import Cluster, Node
from tuning.command import trial_resources, trials_at_once
from tuning.folder import FINISHED, Score, SearchFolder, TrialRecord
from tuning.proposals import Plan, Proposals, outcome
from tuning.search import gently_interrupted
from tuning.space import Choice, Space, make_space
from tuning.stopping import stopping_rule, ticked
from tuning.summary import preset_text

FREE = {"train.lr": "1e-4..1e-2", "network.width": "32,64", "train.times_per_path": "2..60"}


def plan_of(trials=6, **choices):
    base = load_config("toy-arcs")
    usual = make_space(base, (8000, 2), {}).describe()
    frozen = tuple(f for f in usual if f not in FREE and not f.startswith("objective.epsilon.values"))
    return Plan(make_space(base, (8000, 2), FREE, (*frozen, "objective.epsilon.values")), trials, **choices)


def score_of(record):
    """A made-up score: a learning rate near 2e-3 is best."""
    return abs(record.params["train.lr"] - 2e-3) + 1.0


def end(proposals, folder, trial_id, status="done"):
    """End the trial that runs under an id, as its process would; its record."""
    number = proposals._numbers[trial_id]
    record = folder.trial(number).read()
    record.status = status
    if status in ("done", "stopped"):
        share = 1.0 if status == "done" else 1 / 9
        record.scores = [Score(100, share, score_of(record))]
    folder.trial(number).write(record)
    proposals.on_trial_complete(trial_id, None)
    return record


def run_to_the_end(proposals, folder, status=lambda number: "done"):
    numbers = []
    for i in range(200):
        found = proposals.suggest(f"id{i}")
        if found == "FINISHED":
            return numbers
        numbers.append(found["number"])
        end(proposals, folder, f"id{i}", status(found["number"]))
    raise AssertionError("no end")


def test_the_first_trial_is_the_preset_and_enough_are_run(tmp_path):
    folder, plan = SearchFolder(tmp_path), plan_of()
    ran = run_to_the_end(Proposals(plan, folder), folder)
    records = folder.records()
    assert ran == [r.number for r in records if r.status == "done"]
    assert records[0].params == plan.space.preset()
    assert sum(r.status in FINISHED for r in records) == 6
    # 2..60 recorded times per path on a grid of 40 steps: about one in three contradicts the grid.
    invalid = [r for r in records if r.status == "invalid"]
    assert invalid
    assert all("exceeds process.grid.steps" in r.reason for r in invalid)


def test_an_invalid_trial_is_replaced(tmp_path):
    folder = SearchFolder(tmp_path)
    ends = run_to_the_end(
        Proposals(plan_of(4), folder), folder, lambda number: "invalid" if number % 2 else "done"
    )
    records = [r for r in folder.records() if r.number in ends]
    assert sum(r.status == "done" for r in records) == 4


def test_proposals_wait_for_trials_that_may_have_to_be_replaced(tmp_path):
    folder = SearchFolder(tmp_path)
    proposals = Proposals(plan_of(2), folder)
    assert proposals.suggest("a")["number"] == 0
    assert proposals.suggest("b") is not None
    assert proposals.suggest("c") is None
    end(proposals, folder, "b", "invalid")
    assert proposals.suggest("c") is not None


def test_a_new_driver_goes_on_with_the_same_trials(tmp_path):
    """Finished ones are left alone, the begun one comes first, and the number of trials is as asked."""
    folder, plan = SearchFolder(tmp_path), plan_of()
    first = Proposals(plan, folder)
    for i in range(3):
        first.suggest(f"a{i}")
        end(first, folder, f"a{i}")
    begun = first.suggest("a3")
    second = Proposals(plan, folder)
    again = second.suggest("b0")
    assert again == begun
    end(second, folder, "b0")
    ended = {r.number for r in folder.records() if r.status == "done"}
    assert ended.isdisjoint(run_to_the_end(second, folder))
    assert sum(r.status in FINISHED for r in folder.records()) == 6
    # The sampler was told what the files say.
    known = [t for t in Proposals(plan, folder)._study.trials if t.state.name == "COMPLETE"]
    assert sorted(t.values[0] for t in known) == sorted(r.score for r in folder.records() if r.score)


@pytest.mark.parametrize("search", ["random", "tpe", "pareto"])
def test_a_new_driver_proposes_nothing_again(tmp_path, search):
    """Each of four drivers lives for two trials, fewer than the sampler draws at random before it learns."""
    folder = SearchFolder(tmp_path)
    for driver in range(4):
        proposals = Proposals(plan_of(20, search=search), folder)
        for i in range(2):
            proposals.suggest(f"{driver}-{i}")
            end(proposals, folder, f"{driver}-{i}")
    tried = [str(r.params) for r in folder.records()]
    assert len(set(tried)) == len(tried) >= 8


def test_a_grid_leaves_out_the_preset_that_was_tried_first(tmp_path):
    folder, base = SearchFolder(tmp_path), load_config("toy-arcs")
    plan = Plan(Space(base, (Choice("train.lr", (1e-4, base.train.lr)),)), 9, "grid")
    run_to_the_end(Proposals(plan, folder), folder)
    assert [r.params for r in folder.records()] == [{"train.lr": base.train.lr}, {"train.lr": 1e-4}]


def test_a_trial_whose_process_died_ends_here_and_is_tried_again_by_the_next_command(tmp_path):
    folder = SearchFolder(tmp_path)
    proposals = Proposals(plan_of(trials=1), folder)
    assert proposals.suggest("a")["number"] == 0
    proposals.on_trial_complete("a", None, error=True)
    assert folder.records()[0].status == "died"
    assert "process died" in folder.records()[0].reason
    assert proposals.suggest("b") == "FINISHED"
    again = Proposals(plan_of(trials=1), folder)
    assert again.suggest("c")["number"] == 0
    end(again, folder, "c")
    assert again.suggest("d") == "FINISHED"


def test_a_search_that_is_asked_to_stop_proposes_nothing(tmp_path):
    folder = SearchFolder(tmp_path)
    folder.stop_file.touch()
    assert Proposals(plan_of(), folder).suggest("a") == "FINISHED"


def test_trials_find_the_request_to_stop_after_a_search_that_ended_at_once(tmp_path):
    folder = SearchFolder(tmp_path)

    def interrupted(times):
        with gently_interrupted(folder) as pressed:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
            return pressed()

    assert interrupted(1)
    assert not folder.stop_file.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted(2)
    assert folder.stop_file.exists()
    folder.begin({})
    assert not folder.stop_file.exists()


def test_a_terminating_signal_waits_for_the_trials_to_save_and_for_nothing_more(
    tmp_path, held_elsewhere, monkeypatch
):
    """Ray Tune and the search's page take longer than whoever sent it waits."""
    monkeypatch.setattr("ndsm.core.interrupt.GRACE_SECONDS", 1000.0)
    folder = SearchFolder(tmp_path)
    trial = folder.trial(0)
    trial.write(TrialRecord(0, {}))

    def search():
        with gently_interrupted(folder), held_elsewhere(trial.run):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
            # Asked, and while it saves left alone.
            assert folder.stop_file.exists()
        return "ended"

    def unfinished():
        with gently_interrupted(folder):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(100)

    with terminable():
        assert search() == "ended"
    with terminable(), pytest.raises(Terminated):
        unfinished()


def test_a_grid_ends_when_it_was_tried(tmp_path):
    folder = SearchFolder(tmp_path)
    plan = plan_of(100, search="grid")
    run_to_the_end(Proposals(plan, folder), folder)
    tried = [str(r.params) for r in folder.records() if r.number]
    assert len(tried) == len(set(tried)) == len(plan.space.grid()) == 18


def test_pareto_chooses_the_time_too(tmp_path):
    folder = SearchFolder(tmp_path)
    plan = plan_of(5, search="pareto")
    run_to_the_end(Proposals(plan, folder), folder)
    times = [r.time for r in folder.records() if r.number]
    assert len(set(times)) == len(times)
    assert all(0.1 <= t <= 1 for t in times)
    study = Proposals(plan, folder)._study
    done = [r for r in folder.records() if r.status == "done"]
    assert sorted(t.values for t in study.trials if t.values) == sorted(outcome(r, "pareto") for r in done)


@dataclass(frozen=True)
class TuneTrial:
    """What a rule sees of Tune's trials."""

    trial_id: str
    config: Any = None

    def __hash__(self):
        return hash(self.trial_id)


def ask_rule(rule, number, score, share=1 / 9):
    trial = TuneTrial(f"new-{number}", {"number": number})
    rule.on_trial_add(None, trial)
    return rule.on_trial_result(None, trial, ticked({"share": share, "score": score}))


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_rule_of_a_new_driver_knows_the_trials_of_the_earlier_one(tmp_path, name):
    folder = SearchFolder(tmp_path)
    for number in range(6):
        record = TrialRecord(number, {}, status="done")
        record.scores = [Score(10, share, 1.0 + number / 10) for share in (1 / 9, 1 / 3, 1.0)]
        folder.trial(number).write(record)
    rule = stopping_rule(name, folder)
    for number in (7, 8):
        trial = folder.trial(number)
        trial.write(TrialRecord(number, {}))
        trial.run.stop_file.parent.mkdir(parents=True)
        (trial.run.path / "config.yaml").touch()
        (trial.run.path / "data.json").write_text('{"format": "ndsm-run"}')
    # Asked to save and stop through its files; Tune itself lets it go on.
    assert ask_rule(rule, 7, 9.0) == "CONTINUE"
    assert ask_rule(rule, 8, 0.5) == "CONTINUE"
    assert folder.trial(7).run.stop_file.exists()
    assert not folder.trial(8).run.stop_file.exists()


def test_another_search_under_the_same_name_is_refused(tmp_path):
    folder = SearchFolder(tmp_path / "mine")
    folder.check({"scale": 1.0})
    folder.begin({"scale": 1.0})
    folder.check({"scale": 1.0})
    with pytest.raises(InputError, match="scale differ; give the search another --name"):
        folder.check({"scale": 0.5})
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="found one with other files in it"):
        SearchFolder(tmp_path).check({})
    with pytest.raises(InputError, match=r"found one with other files in it: notes\.txt"):
        SearchFolder(tmp_path).remove()
    folder.remove()
    assert (tmp_path / "notes.txt").exists()
    assert not folder.path.exists()


def test_a_search_goes_on_where_only_places_differ(tmp_path):
    """And where `search.json` was written before the configuration had a field, whose default then counts."""
    folder = SearchFolder(tmp_path / "mine")
    config = load_config("toy-arcs", {"train.steps": 50}).model_dump(mode="json")
    older = {**config, "data": {k: v for k, v in config["data"].items() if k not in ("root", "dequantize")}}
    folder.begin({"scale": 1.0, "config": older})
    folder.check({"scale": 1.0, "config": merge(config, {"data.root": "moved", "train.storage": "there"})})
    for field, value in {"data.n": 500, "train.steps": 60, "sample.power": 4.0}.items():
        with pytest.raises(InputError, match="another search: config differ"):
            folder.check({"scale": 1.0, "config": merge(config, {field: value})})


@pytest.mark.parametrize(
    "name",
    ["thesis.txt", "trials/0001/thesis.txt", "trials/0001/run/best.pt", "pool/stamp/mine.npy", "best.yaml"],
)
def test_starting_a_search_over_deletes_nothing_of_anybody_else(tmp_path, name):
    folder = SearchFolder(tmp_path / "mine")
    if name != "best.yaml":
        # Without it a best.yaml is not known to be a search's.
        folder.begin({"scale": 1.0})
        folder.trial(1).write(TrialRecord(1, {}))
    path = folder.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=f"found one with other files in it: {name}"):
        folder.remove()
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before
    path.unlink()
    folder.remove()
    assert not folder.path.exists() or not any(p.is_file() for p in folder.path.rglob("*"))


def test_a_search_that_another_process_runs_is_left_alone(tmp_path, capsys, held_elsewhere):
    folder = SearchFolder(tmp_path / "mine")
    folder.trial(0).write(TrialRecord(0, {}))
    with held_elsewhere(folder) as pid:
        args = ["--data.n", "300", "--name", "mine", "--out", str(tmp_path)]
        for fresh in ([], ["--fresh"]):
            assert main(["tune", "toy-arcs", *args, *fresh]) == 2
            assert f"mine is being searched by process {pid}" in capsys.readouterr().err
        assert folder.trial(0).exists()
        assert not (folder.path / "search.json").exists()
    with folder.owner.hold():
        folder.owner.check_free()
        assert folder.owner.read().pid == os.getpid()


def test_a_damaged_trial_is_one_sentence(tmp_path):
    folder = SearchFolder(tmp_path)
    folder.trial(0).write(TrialRecord(0, {}))
    (folder.trial(0).path / "trial.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"trial\.json: expected a trial"):
        folder.records()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--space.process.lastdt", "1..2"], "expected a field of the configuration"),
        (["--space.process.last-dt", "1e-2..1e-4"], "found a reversed one"),
        (["--space.train.lr", "1e-4..1e-3", "--freeze", "train.lr"], "found --space.train.lr too"),
        (["--freeze", "train.rate"], "--freeze: expected a field"),
        (["--metric", "fid"], "expected one that these data give"),
        (["--trials", "0"], "--trials: expected at least 1"),
        (["--scale", "2"], "--scale: expected more than 0 and at most 1"),
        (["--search", "grid"], "at most 100,000 combinations"),
        (["--search", "pbt", "--trial-kind", "train"], "expected --trial-kind in-process, found train"),
        (["--trial-kind", "train", "--train.simulators", "auto"], "a number as train.simulators, found auto"),
        (["--search", "pbt", "--space.process.horizon", "1..2"], "may change while a model trains"),
        (["--search", "pbt", "--scale", "0.001"], "steps of a member"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_written(tmp_path, monkeypatch, capsys, args, says):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "toy-arcs", "--data.n", "300", *args]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_more_trials_at_once_than_the_cluster_holds_are_refused():
    two = Cluster(cpus=2, gpus=0, object_store=2**30)
    config = load_config("toy-arcs")
    assert trials_at_once(two, config, "in-process", None) == 2
    with pytest.raises(InputError, match="--concurrent: expected at most 2, found 3: the cluster has 2 CPUs"):
        trials_at_once(two, config, "in-process", 3)
    # A simulator and a worker, and a little for the trial that waits for them.
    with pytest.raises(InputError, match=r"expected at most 0, found 1: .* a trial takes 2\.01"):
        trials_at_once(two, config, "train", None)
    assert trials_at_once(replace(two, cpus=5), config, "train", None) == 2


@pytest.mark.parametrize(
    ("cluster", "room", "found"),
    [
        ({"gpus": 4}, 2, "4 GPUs and a trial takes 2"),
        ({"gpus": 1}, 16, "64.5 CPUs and a trial takes 4.01"),
        ({"trainers": 5}, 2, "5 of the resource 'trainer' and a trial takes 2"),
        ({"simulators": 6}, 3, "6 of the resource 'sim' and a trial takes 2"),
    ],
)
def test_trials_with_workers_share_all_that_workers_take(cluster, room, found):
    fields = {"train.workers": "2,3", "train.simulators": 2, "train.batch_rows": 240}
    config = load_config("toy-arcs", fields)
    there = Cluster(**{"cpus": 64.5, "gpus": 0, "object_store": 2**30, **cluster})
    assert trials_at_once(there, config, "train", None) == room
    with pytest.raises(InputError, match=f"at most {room}, found 17: the cluster has {found}"):
        trials_at_once(there, config, "train", 17)


def test_a_trial_with_workers_that_the_cluster_cannot_hold_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = Cluster(cpus=8, gpus=0, object_store=2**20)
    monkeypatch.setattr("tuning.command.cluster", lambda: nullcontext(small))
    assert main(["tune", "toy-arcs", "--data.n", "300", "--trial-kind", "train"]) == 2
    assert "blocks in flight would take" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_trials_share_the_gpus_that_they_use():
    there = Cluster(cpus=8, gpus=2, object_store=2**30)
    on = {device: load_config("toy-arcs", {"train.device": device}) for device in ("auto", "cpu", "cuda")}
    for device in ("auto", "cuda"):
        assert trial_resources(there, on[device], "in-process", 8) == {"CPU": 1, "GPU": 0.25}
    assert trial_resources(there, on["cpu"], "in-process", 8) == {"CPU": 1}
    assert trial_resources(replace(there, gpus=0), on["auto"], "in-process", 8) == {"CPU": 1}
    with pytest.raises(
        InputError, match=r"train\.device: expected a cluster with GPUs for 'cuda', found none"
    ):
        trial_resources(replace(there, gpus=0), on["cuda"], "in-process", 8)
    assert "GPU" not in trial_resources(there, on["auto"], "train", 8)


@pytest.mark.parametrize(
    ("gpus", "trials", "k"), [(2, 1, 1), (2, 2, 1), (2, 3, 2), (2, 5, 3), (3, 8, 3), (8, 3, 1)]
)
def test_a_trials_share_of_a_gpu_divides_one(gpus, trials, k):
    """Of three trials with two thirds of a GPU each only two would find room on two GPUs."""
    there, config = Cluster(cpus=16, gpus=gpus, object_store=2**30), load_config("toy-arcs")
    share = trial_resources(there, config, "in-process", trials)["GPU"]
    assert share == 1 / k
    assert gpus * int(1 / share + 1e-9) >= trials


def test_trials_that_share_gpus_are_no_more_than_have_a_cpu_beside_one():
    nodes = [
        Node(name, name, {"CPU": cpus, "GPU": gpus}, {})
        for name, cpus, gpus in (("a", 64, 0), ("b", 3, 1), ("c", 9, 2))
    ]
    there, config = Cluster(76, 3, 2**30, nodes=tuple(nodes)), load_config("toy-arcs")
    assert trials_at_once(there, config, "in-process", None) == 12
    assert trials_at_once(there, load_config("toy-arcs", {"train.device": "cpu"}), "in-process", None) == 76
    with pytest.raises(
        InputError, match="expected at most 12, found 13: the cluster has 12 CPUs on nodes with a GPU"
    ):
        trials_at_once(there, config, "in-process", 13)
    # Three on the small node and nine on the two GPUs of the other: five shares of each are more than four and a half.
    assert trial_resources(there, config, "in-process", 12) == {"CPU": 1, "GPU": 1 / 5}
    assert trial_resources(there, config, "in-process", 7) == {"CPU": 1, "GPU": 1 / 3}


def test_a_written_preset_is_the_configuration(tmp_path):
    config = load_config("digits", {"train.lr": 3e-3, "network.width": 64})
    path = tmp_path / "best.yaml"
    path.write_text(preset_text(config, "found: by a search"), encoding="utf-8")
    assert load_config(str(path)) == config
    assert "seed" not in yaml.safe_load(path.read_text())["train"]
