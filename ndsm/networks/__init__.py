"""Score networks: perceptrons, U-Nets, embeddings of time, and the score model around them.

Not here: how they are trained, and networks that judge or encode images (`ndsm.vision`).
"""

from ndsm.networks.diffusers_unet import DiffusersUNet, divisible_side
from ndsm.networks.embeddings import TimeEmbedding
from ndsm.networks.equivariant import Equivariant
from ndsm.networks.mlp import MLP, ResidualMLP
from ndsm.networks.score_model import ScoreModel, build_score_model
from ndsm.networks.unet import UNet, image_side

IMAGE_SIDE = {"unet": image_side, "diffusers": divisible_side}
"""Of the networks whose rows are square images, by `network.kind`: (dimension, width, depth) → pixels a side."""

__all__ = [
    "IMAGE_SIDE",
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
