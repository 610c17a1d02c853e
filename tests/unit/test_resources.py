"""A run that the cluster cannot hold is refused before Ray would wait for ever."""

import pytest

from ndsm.config import Train
from ndsm.errors import InputError
from pipelines.resources import Cluster, check_budget

MB = 2**20


def check(cpus=4.0, gpus=0.0, store=100 * MB, block=5 * MB, data=MB, gpu=False, **train):
    check_budget(Cluster(cpus, gpus, store), Train(batch_rows=240, **train), block, data, gpu)


def test_a_run_that_fits_exactly_is_accepted():
    check(cpus=4, workers=1, simulators=3, window=2)
    check(cpus=2, gpus=1, gpu=True, workers=1, simulators=1)
    # 30 % of 100 MB: six blocks of 5 MB.
    check(cpus=5, workers=1, simulators=3, window=2, block=5 * MB)
    check(data=90 * MB, window=2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"cpus": 4, "workers": 2, "simulators": 3},
            "has 4 CPUs, but 3 simulators and 2 training workers need 5",
        ),
        ({"gpus": 1, "gpu": True, "workers": 2}, "has 1 GPUs, but 2 training workers on cuda need 2"),
        (
            {"simulators": 3, "window": 3},
            r"take 45 MB \(train.window 3 x 3 simulators x 5.0 MB\), but only 30 MB",
        ),
        ({"data": 91 * MB, "window": 2}, "training rows take 91 MB, more than the object store's 100 MB"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_its_numbers(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        check(**settings)


def test_without_a_gpu_in_use_gpus_do_not_matter():
    check(gpus=0, gpu=False, workers=2, simulators=1)
