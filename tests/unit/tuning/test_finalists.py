"""The best trials and the preset once more: what is left to do, and what becomes of one that fails."""

from types import SimpleNamespace

from tuning import finalists
from tuning.finalists import run_finalist, run_finalists
from tuning.folder import Score, TrialRecord
from tuning.scoring import Scorer


def trained(number, **metrics):
    return TrialRecord(number, {}, status="done", scores=[Score(9, 1.0, 0.5)], steps=9, metrics=metrics)


def test_what_a_killed_search_trained_and_did_not_judge_is_judged(search, monkeypatch):
    plan, setting, dataset = search
    folder, queued = setting.search, []
    for number in (0, 1):
        folder.trial(number).write(trained(number))
    folder.finalist("preset-seed1").write(trained(0))
    folder.finalist("trial-1-seed1").write(trained(1, held_out=0.4))
    failed = trained(1)
    failed.status = "failed"
    folder.finalist("trial-1-seed2").write(failed)
    monkeypatch.setattr(finalists, "run_tasks", lambda function, shared, jobs, *_: queued.extend(jobs))
    run_finalists(plan, setting, dataset, 1, 2, {"CPU": 1})
    # The preset's second seed was not begun.
    assert [path.name for path, _ in queued] == ["preset-seed1", "preset-seed2"]


def test_a_finalist_that_generates_no_numbers_fails_alone(search, monkeypatch):
    plan, setting, _ = search
    trial = setting.search.finalist("preset-seed1")
    trial.write(trained(0))

    def diverge(scorer, generator):
        raise FloatingPointError("3 of 100 generated rows hold NaN or infinity")

    monkeypatch.setattr(Scorer, "__call__", diverge)
    monkeypatch.setattr(finalists, "TrainedModel", SimpleNamespace(of=lambda run: run))
    run_finalist((setting, setting.scorer), trial.path, plan.space.base)
    record = trial.read()
    assert record.status == "failed"
    assert record.reason == "FloatingPointError: 3 of 100 generated rows hold NaN or infinity"
