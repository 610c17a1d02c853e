"""The registry of data sources."""

import subprocess
import sys
from typing import get_args

import ndsm.vision.latents
from ndsm.config import Data
from ndsm.data.sources import SOURCES

LOAD_LATENTS = """
import sys
from ndsm.config import Data
{imports}
from ndsm.data import load
from ndsm.errors import InputError
try:
    load(Data(name="mnist-latent", root="nowhere/at/all", n=2), 0)
except InputError as error:
    print("ndsm.vision" in sys.modules, str(error)[:10])
"""


def test_every_name_of_the_configuration_has_a_loader():
    assert set(SOURCES) == set(get_args(Data.model_fields["name"].annotation))
    assert SOURCES["mnist-latent"] is ndsm.vision.latents.load_latents


def test_data_import_no_networks_and_latents_are_there_once_a_workflow_is(tmp_path):
    def printed(imports: str) -> str:
        # A file in the folder's place: nothing is downloaded.
        (tmp_path / "nowhere").touch()
        script = [sys.executable, "-c", LOAD_LATENTS.format(imports=imports)]
        return subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert printed("") == "False data.name:\n"
    assert printed("import ndsm.workflows.setup") == "True data.root:\n"
