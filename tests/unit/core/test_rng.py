"""Random streams are functions of (seed, purpose, index)."""

import numpy as np
import pytest
import torch

from ndsm.core.rng import numpy_stream, stream_seed, torch_stream

TRIPLES = [(0, "rollout", 3), (1, "rollout", 3), (0, "batch", 3), (0, "rollout", 4), (3, "rollout", 0)]


def torch_draw(*triple):
    return torch.randn(100, generator=torch_stream(*triple)).numpy()


def numpy_draw(*triple):
    return numpy_stream(*triple).normal(size=100)


@pytest.mark.parametrize("draw", [torch_draw, numpy_draw])
def test_the_same_triple_gives_the_same_numbers(draw):
    for triple in TRIPLES:
        np.testing.assert_array_equal(draw(*triple), draw(*triple))


@pytest.mark.parametrize("draw", [torch_draw, numpy_draw])
def test_another_seed_purpose_or_index_gives_other_numbers(draw):
    """Correlation of 100 independent pairs is below 0.4 but for one in 10⁴; a shared number would show at once."""
    drawn = [draw(*triple) for triple in TRIPLES]
    for i, a in enumerate(drawn):
        for b in drawn[i + 1 :]:
            assert not np.isin(a, b).any()
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.4


def test_streams_leave_the_global_generators_alone():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    torch_draw(0, "x", 1)
    numpy_draw(0, "x", 1)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_seeds_of_many_indices_are_distinct_and_fit_in_63_bits():
    seeds = [stream_seed(0, "rollout", i) for i in range(5000)]
    assert len(set(seeds)) == 5000
    assert all(0 <= s < 2**63 for s in seeds)


def test_a_stream_without_an_index_is_not_the_stream_of_index_zero():
    assert stream_seed(0, "prior") != stream_seed(0, "prior", 0)
