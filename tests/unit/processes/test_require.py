"""What a process has, and the sentence where it has not got it."""

import pytest
import torch

from ndsm.errors import InputError
from ndsm.inference.posterior import Posterior
from ndsm.mixture import GaussianMixture
from ndsm.processes import OU, VE, VP, Langevin, SubVP, require

MIXTURE = GaussianMixture(torch.ones(2), torch.eye(2), torch.ones(2))
PROCESSES = {
    "a mixture's": Langevin(MIXTURE),
    "a drift": Langevin(drift=lambda y, t: y, prior=MIXTURE),
    **{kind.__name__: kind().for_dimension(2) for kind in (VP, SubVP, OU, VE)},
}
HAVE = {
    "transition": {"VP", "SubVP", "OU", "VE"},
    "modes": {"a mixture's"},
    "noise_scales": {"VE"},
}


@pytest.mark.parametrize("what", HAVE)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_gives_what_it_has_or_one_sentence(name, what):
    process = PROCESSES[name]
    if name in HAVE[what]:
        assert require(process, what, "someone") is getattr(process, what)
    else:
        with pytest.raises(
            InputError, match=r"^someone: expected (a|the) .* process|^someone: expected a process"
        ):
            require(process, what, "someone")


def test_who_needs_a_mixture_is_told_and_not_a_sampler():
    with pytest.raises(InputError, match=r"^posterior: expected a process with a mixture, found a drift"):
        Posterior(PROCESSES["a drift"], lambda y, t: y)
