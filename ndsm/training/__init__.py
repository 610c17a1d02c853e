"""Training: objects of a configuration, replay buffer and its limiter, one step, the loop.

Not here: files. What is kept of a training is `ndsm.runs`' and `ndsm.workflows`' business.
"""

from ndsm.training.bad_blocks import BadBlocks
from ndsm.training.held_out import held_out_loss
from ndsm.training.limiter import SamplesPerInsert
from ndsm.training.loop import (
    DECIDE_EVERY,
    Flags,
    Record,
    Resume,
    block_index,
    local_source,
    open_replay,
    resumed,
    train,
)
from ndsm.training.replay import BlockSource, Replay, counts_after_restart
from ndsm.training.ring_buffer import Ring
from ndsm.training.setup import (
    TrainingSetup,
    fit_mixture,
    make_problem,
    pick_device,
    with_labels,
)
from ndsm.training.step import Trainer
from ndsm.training.thread_source import ThreadSource

__all__ = [
    "DECIDE_EVERY",
    "BadBlocks",
    "BlockSource",
    "Flags",
    "Record",
    "Replay",
    "Resume",
    "Ring",
    "SamplesPerInsert",
    "ThreadSource",
    "Trainer",
    "TrainingSetup",
    "block_index",
    "counts_after_restart",
    "fit_mixture",
    "held_out_loss",
    "local_source",
    "make_problem",
    "open_replay",
    "pick_device",
    "resumed",
    "train",
    "with_labels",
]
