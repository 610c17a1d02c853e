"""One loop runs every sampler: by its steps, or as a whole where it carries rows by itself."""

import numpy as np
import pytest
import torch

from ndsm.errors import InputError
from ndsm.inference.final_step import FinalDraw
from ndsm.inference.operators import Operator
from ndsm.inference.projection import ProjectedSampler
from ndsm.mixture import GaussianMixture
from ndsm.processes import VE, Langevin
from ndsm.samplers import SAMPLERS, find_sampler, integrate

PROCESS = Langevin(GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1)), horizon=1.0)
TIMES = np.array([1.0, 0.5, 0.25, 0.0])


def score(y, t):
    return -y


def carried(sampler, times=TIMES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return integrate(PROCESS, score, times, torch.ones(3, 2), generator, sampler=sampler)


class Stepping:
    """Doubles x at every step, and notes its intervals."""

    def __init__(self):
        self.intervals = []

    def times(self, process, evaluations, end_dt):
        return TIMES

    def stepper(self, process, score, times):
        def step(x, t, u, draw):
            self.intervals.append((t, u))
            return 2 * x

        return step


class Whole(Stepping):
    """The same in one call."""

    stepper = None

    def __call__(self, process, score, times, x, draw):
        self.intervals.append(tuple(times))
        return x * 2 ** (len(times) - 1)


def test_a_sampler_of_ones_own_gives_steps_or_carries_rows_itself():
    steps, whole = Stepping(), Whole()
    assert torch.equal(carried(steps), torch.full((3, 2), 8.0))
    assert torch.equal(carried(whole), torch.full((3, 2), 8.0))
    assert steps.intervals == [(1.0, 0.5), (0.5, 0.25), (0.25, 0.0)]
    assert whole.intervals == [tuple(TIMES)]


def test_a_sampler_keeps_nothing_from_one_generation_to_the_next():
    """`flow2` extrapolates from the step before: not from that of another call."""
    assert torch.equal(carried("flow2"), carried("flow2"))


@pytest.mark.parametrize("sampler", [Stepping(), Whole()])
def test_a_projection_moves_rows_before_each_step_of_any_sampler(sampler):
    """x ← 0 along the measured axis before each step: it stays 0, and the other axis is doubled three times."""
    operator, measured = Operator(torch.tensor([[1.0, 0.0]])), [torch.zeros(3, 1)] * 4
    x = carried(ProjectedSampler(sampler, operator, measured))
    torch.testing.assert_close(x, torch.tensor([[0.0, 8.0]]).expand(3, 2))


@pytest.mark.parametrize(
    "sampler", ["flow2", find_sampler("flow2", 0.5), SAMPLERS["annealed"], SAMPLERS["ode-adaptive"]]
)
def test_a_projection_refuses_samplers_that_look_back_by_name_and_as_objects(sampler):
    with pytest.raises(InputError, match="whose steps do not depend on each other"):
        ProjectedSampler(sampler, Operator(torch.ones(1, 2)), [torch.zeros(3, 1)] * 4)


def test_a_final_draw_follows_the_other_samplers_steps():
    """Its mean over many draws is where the sampler would have ended: within 4 standard errors of N(m, C)."""
    flow, generator = SAMPLERS["flow"], torch.Generator().manual_seed(0)
    mean = carried("flow")[0]
    x = integrate(PROCESS, score, TIMES, torch.ones(2000, 2), generator, sampler=FinalDraw(flow))
    off = (x.double() - mean.double()).mean(0) / (x.double().std(0) / 2000**0.5)
    assert float(off.abs().max()) < 4
    assert float(x.std()) > 0.1


@pytest.mark.parametrize("name", ["annealed", "ode-adaptive"])
def test_a_final_draw_needs_a_sampler_whose_last_step_can_be_another(name):
    with pytest.raises(InputError, match="expected a sampler other than 'annealed' and 'ode-adaptive'"):
        FinalDraw(SAMPLERS[name]).times(VE(1.0, 0.05, 5.0).for_dimension(2), 20, 1e-2)
