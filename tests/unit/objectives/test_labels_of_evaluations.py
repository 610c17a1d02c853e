"""Every evaluation of a score gets the label of the row that it belongs to; a score without labels is not given any."""

import pytest
import torch

from ndsm.objectives import DSM, AntitheticNDSM, NDSMLoss, PathControlVariate, Sliced, gradient_moments
from ndsm.simulation import LABEL, RowLayout

OBJECTIVES = [DSM(), AntitheticNDSM(), NDSMLoss(0.5), Sliced(), PathControlVariate(0.5)]
ROWS = 40


def rows_of(objective, *label):
    """Rows whose states lie near 100 times their label, (ROWS, 2)."""
    rows = RowLayout((*objective.records, *label), 2)
    named = rows.split(torch.rand(ROWS, rows.width, generator=torch.Generator().manual_seed(0)) + 0.1)
    number = torch.arange(ROWS, dtype=torch.float32)
    for state in {"mean", "state", "mirror"} & named.keys():
        named[state] += 100 * number[:, None]
    if label:
        named[LABEL].copy_(number)
    return named


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.kind)
def test_labels_go_with_their_rows(objective):
    called = []

    def score(y, t, label):
        called.append(len(y))
        assert torch.equal((y[:, 0] / 100).round(), label)
        return -y

    rows = rows_of(objective, LABEL)
    objective(score, rows)
    objective.combined(score, rows, torch.full((ROWS,), 0.5))
    assert len(called) == 2


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.kind)
def test_a_score_of_states_and_times_alone_is_enough_without_labels(objective):
    losses = objective(lambda y, t: -y * t[:, None], rows_of(objective))
    assert bool(torch.isfinite(losses.base).all())


class Embedded(torch.nn.Module):
    """A score whose weights no layer holds, so that per-sample gradients are taken by `torch.func`."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.3))

    def learned(self, y, t, label):
        return self.scale * y / 100 * (1 + label)[..., None]

    forward = learned


def test_per_sample_gradients_see_the_labels():
    """For s = θ a of a row, g₀ of ½|s|² is θ |a|²."""
    rows = rows_of(DSM(), LABEL)
    y, t, label = rows["mean"], rows["t"], rows[LABEL]
    model = Embedded()
    moments = gradient_moments(model, [lambda score: (0.5 * score(y, t, label).square().sum(1), None)])
    expected = 0.3 * (y / 100 * (1 + label)[:, None]).square().sum(1)
    torch.testing.assert_close(moments.base_base, expected.double() ** 2, rtol=1e-4, atol=0)
