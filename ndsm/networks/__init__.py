"""Score networks: perceptrons, U-Nets, embeddings of time, and the score model around them.

Not here: how they are trained, and networks that judge or encode images (`ndsm.vision`).
"""

from ndsm.networks.diffusers_unet import DiffusersUNet, divisible_side
from ndsm.networks.embeddings import TimeEmbedding
from ndsm.networks.equivariant import Equivariant
from ndsm.networks.mlp import MLP, ResidualMLP
from ndsm.networks.registry import IMAGE_SIDE, NETWORKS
from ndsm.networks.score_model import ScoreModel, build_score_model
from ndsm.networks.unet import UNet, image_side

__all__ = [
    "IMAGE_SIDE",
    "MLP",
    "NETWORKS",
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
