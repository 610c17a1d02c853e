"""Score networks."""

from ndsm.networks.embeddings import TimeEmbedding
from ndsm.networks.mlp import MLP, ResidualMLP
from ndsm.networks.score import ScoreModel, build_score_model

__all__ = ["MLP", "ResidualMLP", "ScoreModel", "TimeEmbedding", "build_score_model"]
