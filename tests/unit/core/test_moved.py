"""Modules are found under their earlier names."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

import ndsm.samplers
from ndsm.core.moved import MOVED


@pytest.mark.parametrize("name", sorted(MOVED))
def test_an_earlier_name_warns_and_gives_the_same_objects(name):
    sys.modules.pop(name, None)
    with pytest.warns(FutureWarning, match=f"^{name} is {MOVED[name]} now$"):
        module = import_module(name)
    today = vars(import_module(MOVED[name]))
    for key in [key for key in today if not key.startswith("__")]:
        assert getattr(module, key) is today[key]


def test_other_names_are_not_found():
    assert find_spec("ndsm.nothing") is None


def test_the_earlier_documentations_imports_work():
    program = (
        "from ndsm.reference import GaussianMixture\n"
        "from ndsm.run import Run\n"
        "from ndsm.experiment import begin, prepare, train_locally\n"
        "from ndsm.samplers.guidance import MomentMatched, projections, start_given\n"
        "from ndsm.classifier import fit_classifier\n"
        "import ndsm; print(GaussianMixture is ndsm.GaussianMixture)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_function_under_its_earlier_name_warns():
    with pytest.warns(FutureWarning, match=r"ndsm.samplers.carry is ndsm.samplers.integrate now"):
        from ndsm.samplers import carry
    assert carry is ndsm.samplers.integrate
