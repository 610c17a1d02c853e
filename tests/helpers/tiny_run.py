"""Fields of a run on toy-arcs that trains in a moment, with a checkpoint at each report."""

TINY = {
    "data.n": 300,
    "network.width": 8,
    "network.depth": 1,
    "reference.n_init": 1,
    "train.steps": 40,
    "train.batch_rows": 50,
    "train.block_mb": 0.02,
    "train.device": "cpu",
    "train.checkpoint_seconds": 1e-9,
}
