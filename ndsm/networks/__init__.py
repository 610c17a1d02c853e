"""Score networks."""

from ndsm.networks.embeddings import TimeEmbedding
from ndsm.networks.mlp import MLP, ResidualMLP
from ndsm.networks.score import ScoreModel, build_score_model
from ndsm.networks.unet import UNet, image_side

__all__ = ["MLP", "ResidualMLP", "ScoreModel", "TimeEmbedding", "UNet", "build_score_model", "image_side"]
