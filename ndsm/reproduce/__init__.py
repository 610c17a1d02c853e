"""The paper's experiments and an ablation: which runs they consist of (`toys`, `images`, `ablation`), and how any of them is
declared (`study`), run (`running`) and summed up (`folder`).
"""

from ndsm.reproduce.ablation import ABLATIONS
from ndsm.reproduce.folder import Folder, Group, summarise
from ndsm.reproduce.images import IMAGE_STUDIES
from ndsm.reproduce.running import Result, run_here, run_job, stop_file
from ndsm.reproduce.study import Job, Study, number
from ndsm.reproduce.toys import TOY_STUDIES

STUDIES: dict[str, Study] = {**TOY_STUDIES, **IMAGE_STUDIES, **ABLATIONS}
"""By the name that `ndsm reproduce` takes."""

__all__ = [
    "STUDIES",
    "Folder",
    "Group",
    "Job",
    "Result",
    "Study",
    "number",
    "run_here",
    "run_job",
    "stop_file",
    "summarise",
]
