"""One trial in this process: its training time, its scores, stops, failures, and going on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ndsm.config import load_config
from ndsm.data import load
from ndsm.errors import InputError
from ndsm.objectives import PiecewiseLinearEpsilon
from ndsm.training import fit_mixture, with_labels
from ndsm.workflows.setup import build_problem
from tuning import trial as trials
from tuning.folder import TrialRecord
from tuning.scoring import Scorer, choose_metric, search_split
from tuning.trial import RUNGS, Setting, relative_cost, run_trial

TINY = {
    "data.n": 500, "train.steps": 180, "train.batch_rows": 32, "train.block_mb": 0.05, "network.width": 16,
    "network.depth": 2, "sample.steps": 40, "sample.sampler": "exponential", "train.report_seconds": 0.1, "reference.n_init": 1,
    "objective.epsilon.every": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    return load(load_config("toy-arcs", TINY).data, 0)


@pytest.fixture
def setting(tmp_path, dataset):
    config = load_config("toy-arcs", TINY)
    split = search_split(dataset, 0.2, "swd2")
    preset = build_problem(config, fit_mixture(config, split.train), split.stamp)
    return Setting(tmp_path, preset, Scorer(split, "swd2", 200, 0), scale=1.0, pool_bytes=2**24)


def run(setting, number=0, report=lambda _: None, **overrides):
    config = load_config("toy-arcs", {**TINY, **overrides})
    trial = setting.search.trial(number)
    if not trial.exists():
        trial.write(TrialRecord(number, overrides))
    return run_trial(setting, trial, config, report)


def test_a_labelled_preset_is_searched_with_its_labels(tmp_path, dataset):
    """Toy-arcs' labels are its modes; the split, which is scored without them, still trains on them."""
    labelled = {"network.classes": 8}
    config = load_config("toy-arcs", {**TINY, **labelled})
    split = search_split(dataset, 0.2, "swd2")
    preset = build_problem(config, fit_mixture(config, split.train), split.stamp)
    preset = with_labels(preset, dataset.train_labels[: len(split.train)])
    setting = Setting(tmp_path, preset, Scorer(split, "swd2", 200, 0), scale=1.0, pool_bytes=2**24)
    record = run(setting, 0, **labelled)
    assert record.status == "done", record.reason
    assert setting.search.trial(0).run.data()["component_shares"]


def test_trials_are_scored_by_training_rows_that_they_do_not_see(dataset):
    split = search_split(dataset, 0.2, "swd2")
    whole = {row.tobytes() for row in dataset.train}
    learned, held_out = ({row.tobytes() for row in part} for part in (split.train, split.validation))
    assert len(split.validation) == 90
    assert learned | held_out == whole
    assert learned.isdisjoint(held_out)
    assert held_out.isdisjoint({row.tobytes() for row in dataset.validation})
    assert split.toy is None
    with pytest.raises(InputError, match="at least 2 of the 450 training rows"):
        search_split(dataset, 0.001, "swd2")


def test_a_metric_that_the_data_do_not_give_is_refused(dataset):
    assert choose_metric(None, dataset) == "swd2"
    assert choose_metric("class_share_tv", dataset) == "class_share_tv"
    with pytest.raises(InputError, match="swd2, class_share_tv, class_share_std, found 'fid'"):
        choose_metric("fid", dataset)


def test_the_preset_is_scored_at_each_rung_and_gets_its_own_steps(setting):
    lines = []
    record = run(setting, report=lines.append)
    assert (record.status, record.steps, record.cost, record.starts) == ("done", 180, 1.0, 1)
    assert [s.share for s in record.scores] == list(RUNGS)
    assert [s.step for s in record.scores] == [20, 60, 180]
    assert [line["score"] for line in lines] == [s.score for s in record.scores]
    assert record.metrics["prior"] > 0
    # A finished trial is left alone.
    assert run(setting, report=lambda _: pytest.fail("ran again")) == record


def test_a_costly_step_gives_fewer_of_them(setting):
    data = setting.scorer.dataset.train
    config = load_config("toy-arcs", {**TINY, "train.batch_rows": 2048})
    wide = build_problem(config, setting.preset.process.mixture, "x")
    assert relative_cost(wide, setting.preset, data) > 2
    record = replace(TrialRecord(1, {}), cost=3.0)
    setting.search.trial(1).write(record)
    assert run(setting, 1).steps == 60


def test_two_trials_of_one_process_share_their_blocks(setting):
    counted = []
    first = run(setting, report=lambda line: counted.append(setting.search.trial(0).read().blocks_made))
    # With each score: a process that is killed later has been counted so far.
    assert 0 < counted[0] <= counted[-1] == first.blocks_made
    second = TrialRecord(1, {}, cost=1.0)
    setting.search.trial(1).write(second)
    second = run(setting, 1, **{"train.lr": 3e-3})
    # The simulating thread may be a window ahead of what was needed.
    assert first.blocks_made > 0
    assert second.blocks_read >= first.blocks_made - 2
    assert second.blocks_made <= 2
    setting.search.trial(2).write(replace(second, number=2, status="running", scores=[], steps=0))
    alone = run(replace(setting, pool_bytes=0), 2, **{"train.lr": 3e-3})
    assert [s.score for s in alone.scores] == [s.score for s in second.scores]


def test_a_trial_that_is_asked_to_stop_after_a_score_says_so(setting):
    trial = setting.search.trial(0)
    record = run(setting, report=lambda _: trial.ask_to_stop())
    assert record.status == "stopped"
    assert "11% of its steps" in record.reason
    # The loop looks up every 10 steps.
    assert trial.run.last_step() in (20, 30)


def test_an_interrupted_trial_goes_on_with_the_steps_and_scores_it_has(setting):
    undisturbed = run(replace(setting, folder=setting.folder / "other"))
    run(setting, report=lambda _: setting.search.stop_file.touch() or setting.search.trial(0).ask_to_stop())
    begun = setting.search.trial(0).read()
    assert begun.status == "running"
    setting.search.stop_file.unlink()
    lines = []
    record = run(setting, report=lines.append)
    assert record.status == "done"
    assert record.starts == 2
    assert lines[0]["share"] == begun.scores[0].share
    assert [s.score for s in record.scores] == [s.score for s in undisturbed.scores]


def test_a_trial_that_ends_before_its_first_score_goes_on_next_time(setting, monkeypatch):
    monkeypatch.setattr(trials, "train_locally", lambda *_, **options: iter(()))
    record = run(setting)
    assert (record.status, record.reason) == ("running", "")


def test_what_goes_wrong_is_a_row_with_its_reason(setting, monkeypatch):
    record = run(setting, 1, **{"process.last_dt": 0.4})
    assert record.status == "invalid"
    assert "expected steps below" in record.reason

    def diverge(*args, **options):
        raise FloatingPointError("training diverged")

    monkeypatch.setattr(trials, "train_locally", diverge)
    failed = run(setting)
    assert (failed.status, failed.reason) == ("failed", "FloatingPointError: training diverged")


def test_a_piecewise_linear_epsilon_is_linear_in_log_t_between_its_values():
    epsilon = PiecewiseLinearEpsilon(1e-3, 1e-1, (1.0, 0.0, 0.5))
    t = torch.tensor([1e-4, 1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1, 1.0])
    np.testing.assert_allclose(epsilon(t), [1.0, 1.0, 0.5, 0.0, 0.25, 0.5, 0.5], atol=1e-6)
    config = load_config("toy-arcs", {"objective.epsilon.kind": "piecewise-linear"})
    problem = build_problem(config, fit_mixture(config, load(config.data, 0).train), "x")
    assert isinstance(problem.epsilon(), PiecewiseLinearEpsilon)
