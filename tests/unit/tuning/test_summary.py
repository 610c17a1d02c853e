"""What a search says at its end: the best of the finalists, the preset it writes, the numbers and the page."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ndsm.config import load_config
from tuning import page
from tuning.folder import Score, SearchFolder, TrialRecord
from tuning.summary import summarise
from tuning.trial import RUNGS


def ended(number, lr, scores, width=64, cost=1.0, status="done", **changes):
    record = TrialRecord(
        number, {"train.lr": lr, "network.width": width}, status=status, cost=cost, **changes
    )
    record.scores = [
        Score(i, share, score) for i, (share, score) in enumerate(zip(RUNGS, scores, strict=False))
    ]
    return record


def write_search(folder: SearchFolder, fresh=None):
    """A preset, six trials and perhaps finalists: {number: (scores by the search's rows, by the evaluation's)}."""
    trials = [ended(0, 1e-3, (0.6, 0.5, 0.40))]
    trials += [ended(1, 3e-3, (0.5, 0.4, 0.30), cost=2.0), ended(2, 2e-3, (0.5, 0.4, 0.35), width=32)]
    trials += [ended(n, 1e-4 * n, (0.7 + n / 10,), status="stopped") for n in (3, 4, 5)]
    trials.append(TrialRecord(6, {"train.lr": 5e-3}, status="invalid", reason="a step is unstable"))
    for record in trials:
        folder.trial(record.number).write(record)
    for number, (scores, held_out) in (fresh or {}).items():
        for seed, (a, b) in enumerate(zip(scores, held_out, strict=True), start=1):
            run = ended(number, 1e-3, (0.0, 0.0, a))
            run.metrics = {"held_out": b, "held_out_floor": 0.1, "train_seconds": 5.0}
            name = "preset" if number == 0 else f"trial-{number}"
            folder.finalist(f"{name}-seed{seed}").write(run)


def summary_of(search):
    plan, setting, dataset = search
    return summarise("toy-arcs", load_config("toy-arcs").data.root, plan, setting, dataset)


def test_the_best_is_chosen_by_the_searchs_rows_and_judged_by_the_others(search):
    folder = search[1].search
    write_search(
        folder,
        {0: ((0.40, 0.42), (0.50, 0.54)), 1: ((0.30, 0.32), (0.40, 0.44)), 2: ((0.35, 0.35), (0.1, 0.1))},
    )
    summary = summary_of(search)
    assert summary.best.number == 1
    assert summary.improvement == pytest.approx(1 - 0.42 / 0.52)
    assert summary.sentence() == (
        "best: trial 1, swd2 0.42 ± 0.028 against the preset's 0.52 ± 0.028 over 2 fresh seeds at the same training time "
        "(19.2 % lower)"
    )


def test_a_preset_that_nothing_beats_is_the_best(search):
    write_search(search[1].search, {0: ((0.30,), (0.50,)), 1: ((0.31,), (0.40,))})
    summary = summary_of(search)
    assert summary.best.number == 0
    assert summary.improvement == 0
    assert summary.sentence().startswith("the preset was not beaten")
    assert summary.config(summary.best) == search[1].preset.config


def test_a_preset_whose_runs_failed_does_not_hide_the_best(search):
    write_search(search[1].search, {1: ((0.20,), (0.55,))})
    summary = summary_of(search)
    assert summary.best.number == 1
    assert summary.sentence() == "best: trial 1, swd2 0.55 ± 0; the preset's own runs failed"


def test_what_the_evaluation_rows_do_not_confirm_is_not_the_best(search):
    write_search(search[1].search, {0: ((0.30,), (0.50,)), 1: ((0.20,), (0.55,))})
    assert summary_of(search).best.number == 0


def test_the_written_preset_has_the_presets_training_time(search):
    folder = search[1].search
    write_search(folder)
    summary = summary_of(search)
    summary.write()
    found = load_config(str(folder.path / "best.yaml"))
    # A step of trial 1 costs twice the preset's.
    assert (found.train.lr, found.train.steps, found.network.width) == (3e-3, 500, 64)
    assert "not yet run on fresh seeds" in summary.sentence()
    # As finalists are trained, which end where the loop looks up: every 10 steps.
    assert summary.config(ended(7, 1e-3, (), cost=3.0)).train.steps == 330


def test_the_summary_and_the_page_have_every_trial(search):
    folder = search[1].search
    write_search(folder, {0: ((0.4,), (0.5,)), 1: ((0.3,), (0.4,))})
    summary_of(search).write()
    found = json.loads((folder.path / "summary.json").read_text(encoding="utf-8"))
    assert [t["number"] for t in found["trials"]] == list(range(7))
    assert [t["status"] for t in found["trials"]].count("stopped") == 3
    assert found["best"] == 1
    assert found["improvement"] == pytest.approx(0.2)
    # Half of the trials were scored at the first two moments only.
    assert found["importance"]["share"] == pytest.approx(1.0)
    page = (folder.path / "tune-report.html").read_text(encoding="utf-8")
    assert "a step is unstable" in page
    assert "Pareto front" in page
    assert "http-equiv" not in page
    assert str(folder.path.parent) not in page


def test_the_front_is_what_nothing_beats_in_both(search):
    write_search(search[1].search)
    front = [(round(time, 3), score, record.number) for time, score, record in summary_of(search).front()]
    # Trials had half of the preset's time.
    assert front == [(0.056, 0.5, 1), (0.167, 0.4, 1), (0.5, 0.3, 1)]


def test_the_page_needs_no_gpu(search, monkeypatch):
    """The driver's machine may have none where the trials' have."""
    plan, setting, _ = search
    problem, seen = setting.preset, []
    config = plan.space.base
    config = config.model_copy(update={"train": config.train.model_copy(update={"device": "cuda"})})
    trained = SimpleNamespace(run=SimpleNamespace(config=lambda: config, find_checkpoint=lambda: None))

    def start(problem, checkpoint):
        seen.append(problem.config.train.device)
        return SimpleNamespace(epsilon=lambda t: t), None

    write_search(setting.search)
    monkeypatch.setattr(page, "_trained", lambda summary, record: trained)
    made = SimpleNamespace(problem=replace(problem, config=config))
    monkeypatch.setattr(page, "TrainedModel", SimpleNamespace(of=lambda run: made))
    monkeypatch.setattr(page, "start", start)
    assert len(list(page._epsilon(summary_of(search)))) == 1
    assert seen == ["cpu"]


def test_nothing_has_ended_yet(search):
    folder = search[1].search
    folder.trial(0).write(TrialRecord(0, {}))
    summary = summary_of(search)
    summary.write()
    assert summary.sentence() == "no trial has ended yet"
    assert not (folder.path / "best.yaml").exists()
    assert (folder.path / "tune-report.html").exists()
