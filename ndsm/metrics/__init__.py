"""How close generated rows are to the data: distances, class balance, and the whole evaluation of a run."""

from ndsm.metrics.balance import class_share, label_classifier, mode_std, share_std, total_variation
from ndsm.metrics.evaluation import evaluate
from ndsm.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "class_share",
    "evaluate",
    "label_classifier",
    "mode_std",
    "share_std",
    "sliced_wasserstein",
    "total_variation",
]
