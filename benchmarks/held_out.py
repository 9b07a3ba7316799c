"""The loss of the parameters given readings, on simulations of a seed that no training uses (1 = nothing learned).

Equal rows, levels and noise for every network of a simulator: differences are paired.
"""

from __future__ import annotations

import numpy as np
import torch

import fsimformer as fsf
from fsimformer.convert import is_parameter
from fsimformer.readings import read
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators import Simulator
from fsimformer.simulators.protocol import natural_functions
from fsimformer.tokens import Dial, TokenBatch, split

N_ROWS, _SEED, _BATCH = 1_024, 99, 64


def posterior_rows(joint: fsf.Joint, simulator: Simulator, design: fsf.Design) -> TokenBatch:
    """`N_ROWS` rows: parameters latent, all readings observed."""
    drawn = simulate(simulator, N_ROWS, generator_at(_SEED, 2, 0))
    store = build_store(simulator.schema, joint.model.whitening, drawn.values, natural_functions(simulator))
    rows = read(store, torch.arange(N_ROWS), design, generator_at(_SEED, 0))
    return rows.replace(condition_mask=~is_parameter(simulator.schema)[rows.variable])


def posterior_loss(joint: fsf.Joint, rows: TokenBatch, dial: Dial, n_levels: int) -> tuple[float, float]:
    """The training loss at `n_levels` noise levels a row; its standard error over batches."""
    generator, losses = generator_at(_SEED, 1), []
    for start in range(0, N_ROWS, _BATCH):
        streams = split(rows.rows(slice(start, start + _BATCH)), dial, generator)
        log_ratio = fsf.NoiseLevels().draw((_BATCH, n_levels), generator)
        epsilon = torch.randn(_BATCH, n_levels, streams.active.shape[1], generator=generator)
        with torch.no_grad():
            losses.append(float(joint.model.denoiser.loss(streams, log_ratio, epsilon)))
    return float(np.mean(losses)), float(np.std(losses, ddof=1) / len(losses) ** 0.5)
