"""fsimformer as a peer among peers, run by peers.py (see peers_fit.py for the files)."""

from __future__ import annotations

import torch
from peers_fit import Problem, Sampler, serve


def ours(problem: Problem) -> Sampler:
    """Trains the one fixed configuration of benchmarks/sbibm.py on `problem`'s simulations."""
    raise NotImplementedError("peers: benchmarks/sbibm.py's configuration is not connected here yet.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"fsimformer": ours}, ("fsimformer", "torch"))
