"""A run folder of version 0.1.0, which every later version opens."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ndsm
from ndsm.cli import main

KEPT = Path(__file__).parents[2] / "data" / "run-0.1.0"


@pytest.fixture
def run(tmp_path):
    """A copy: an evaluation writes into the folder."""
    return shutil.copytree(KEPT, tmp_path / "run")


def test_an_old_run_is_opened_in_python(run):
    model = ndsm.load(run)
    rows = model.sample(50)
    assert rows.shape == (50, 2)
    assert np.isfinite(rows).all()
    assert np.isfinite(model.score_samples(rows[:5])).all()


def test_an_old_run_is_sampled_scored_and_evaluated(run, tmp_path):
    rows, scores = tmp_path / "rows.npy", tmp_path / "scores.npy"
    assert main(["sample", str(run), "--n", "20", "--out", str(rows)]) == 0
    assert np.load(rows).shape == (20, 2)
    assert main(["score", str(run), str(rows), "--out", str(scores)]) == 0
    assert len(np.load(scores)) == 20
    assert main(["evaluate", str(run), "--n", "50"]) == 0
    assert json.loads((run / "metrics.json").read_text())["n"] == 50
