"""Networks by their name in `network.kind`."""

from collections.abc import Callable

from torch import nn

from ndsm.networks.diffusers_unet import DiffusersUNet, divisible_side
from ndsm.networks.mlp import MLP, ResidualMLP
from ndsm.networks.unet import UNet, image_side

NETWORKS: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "mlp": MLP,
    "resmlp": ResidualMLP,
    "unet": UNet,
    "diffusers": DiffusersUNet,
}
"""Maker of the network, given d, the number e of features of time and label, width and depth."""
IMAGE_SIDE = {"unet": image_side, "diffusers": divisible_side}
"""Pixels a side by (d, width, depth), of the networks whose rows are square images."""
