"""How close generated rows are to the data: distances, class balance, image quality, columns, copies, and a verdict.

Not here: generating the rows and keeping the numbers (`ndsm.workflows`).
"""

from ndsm.metrics.balance import class_share, label_classifier, mode_std, share_std, total_variation
from ndsm.metrics.evaluation import evaluate
from ndsm.metrics.judging import judge
from ndsm.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "class_share",
    "evaluate",
    "judge",
    "label_classifier",
    "mode_std",
    "share_std",
    "sliced_wasserstein",
    "total_variation",
]
