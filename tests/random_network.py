"""A network that answers something to everything: no layer starts at zero, as those of a training do."""

from __future__ import annotations

import torch

from fsimformer.nn import Network, NetworkConfig


def random_network(uses_index: tuple[tuple[bool, ...], ...], width: int, modulation: float) -> Network:
    """Three layers of four heads, the same at each call; `modulation`: sd of the weights that tell the noise level."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        net = Network(NetworkConfig(uses_index, width=width, depth=3, n_heads=4)).eval()
        torch.nn.init.normal_(net.out.weight)
        torch.nn.init.normal_(net.modulation.weight, std=modulation)
    return net
