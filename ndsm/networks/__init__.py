"""Score networks."""

from ndsm.networks.diffusers_unet import DiffusersUNet, divisible_side
from ndsm.networks.embeddings import TimeEmbedding
from ndsm.networks.equivariant import Equivariant
from ndsm.networks.mlp import MLP, ResidualMLP
from ndsm.networks.score import ScoreModel, build_score_model
from ndsm.networks.unet import UNet, image_side

__all__ = [
    "MLP",
    "DiffusersUNet",
    "Equivariant",
    "ResidualMLP",
    "ScoreModel",
    "TimeEmbedding",
    "UNet",
    "build_score_model",
    "divisible_side",
    "image_side",
]
