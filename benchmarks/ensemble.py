"""Do several networks, trained on the same simulations, know more than one? The suite's configuration, few simulations.

The members share their simulations and differ in seed and in the part that is held out. Two ways to ask them all: draws
of each in equal parts (the mixture, as sbi's EnsemblePosterior has it), and draws by the mean of their denoisers, which
is the mean of their scores and costs as many times as much. RF C2ST at n = 1,000 over sbibm's ten observations, beside
that of each member.

    python benchmarks/ensemble.py two_moons 1000 --members 5 --seed 1
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from record import save
from sbibm import SAMPLER, SIMULATORS, N, Pairs, posterior_pairs, scores, settings
from tables_sbibm import BUDGETS, KINDS
from torch import Tensor, nn

import fsimformer as fsf
from fsimformer.denoise import Denoiser, Encoded
from fsimformer.sample import quality_named
from fsimformer.seeds import generator_at
from fsimformer.simulations import Simulations, simulate
from fsimformer.tokens import Streams


class EncodedByAll:
    """What the members encoded of one batch."""

    def __init__(self, parts: list[Encoded]) -> None:
        self.parts, self.active = parts, parts[0].active


class MeanDenoiser(nn.Module):
    """The mean of the members' x̂; has of a Denoiser what drawing without later stages asks for."""

    def __init__(self, members: list[Denoiser]) -> None:
        super().__init__()
        self.members, self.network, self.flow_map = nn.ModuleList(members), members[0].network, None
        self.device = members[0].device

    def encode(self, streams: Streams) -> EncodedByAll:
        return EncodedByAll([m.encode(streams) for m in self.members])

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: EncodedByAll) -> Tensor:
        return torch.stack([m.at_ratio(y, ratio, e) for m, e in zip(self.members, encoded.parts)]).mean(0)


def members(task: str, budget: int, n: int, seed: int) -> list[fsf.Joint]:
    """Networks trained on the same simulations, each with another seed and another part of them held out."""
    simulator = SIMULATORS[task]()
    drawn = simulate(simulator, budget, generator_at(seed, 2, 0))
    out = []
    for m in range(n):
        turned = {k: v.roll(m * budget // n, 0) for k, v in drawn.values.items()}  # the last rows are held out
        chosen = settings(budget, 100 * m + seed, "default") | {"simulations": Simulations(turned, 0, drawn.grid)}
        out.append(fsf.train(simulator, **chosen))
    return out


def mixed(each: list[Pairs]) -> Pairs:
    """Of every pair the draws of all members in equal parts."""
    share = N // len(each)
    return [(of_pair[0][0], of_pair[0][1], np.concatenate([p[2][:share] for p in of_pair])) for of_pair in zip(*each)]


def mean_joint(joints: list[fsf.Joint]) -> fsf.Joint:
    """A Joint that draws by the mean of the members' denoisers; their whitening, of all simulations, is the same."""
    model = replace(joints[0].model, denoiser=MeanDenoiser([j.model.denoiser for j in joints]).eval(), typical=None)
    return fsf.Joint(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=KINDS["posterior"])
    parser.add_argument("budget", type=int, choices=BUDGETS)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if N % args.members:
        parser.error(f"--members: expected a divisor of {N}")
    torch.set_num_threads(1)
    joints = members(args.task, args.budget, args.members, args.seed)
    each = [posterior_pairs(j, args.task, 10 * args.seed + m) for m, j in enumerate(joints)]
    results: dict[str, Any] = {
        "task": args.task, "simulations": args.budget, "sampler": quality_named(SAMPLER).method,
        "train_cpu_seconds": sum(j.provenance["cpu_seconds"] for j in joints),
        "members": [scores(pairs, ("rf",)) for pairs in each],
        "mixture": scores(mixed(each), ("rf",)),
        "mean_denoiser": scores(posterior_pairs(mean_joint(joints), args.task, args.seed), ("rf",)),
    }  # fmt: skip
    print(save(f"ensemble/{args.task}_{args.budget}_{args.seed}", args.seed, results), flush=True)


if __name__ == "__main__":
    main()
