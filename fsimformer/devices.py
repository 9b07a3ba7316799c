"""Several processes train one network, each on a device of its own: a `Group` of them, as torchrun starts it.

Every process draws the same rows, masks and noise of a step, works on its share of the rows, and takes the same step:

    L = Σ_r L_r,    L_r = (1/n) Σ over the rows of process r,    ∇L = Σ_r ∇L_r,

n the rows of the whole step. So the result is one process's, up to the order of additions, and a run can be resumed by
another number of processes. The rows of a step, laid end to end, are cut where the tokens that the network sees of them
are equally many on both sides: a process works on whole batches where it can, on part of one where it must.

Gradients are summed in one `all_reduce` of all of them, laid end to end. `DistributedDataParallel` would overlap that
with the backward pass, which gains little for networks of some megabytes, and would ask for what is not so here: that
a step is one call of one module, which uses the same weights on every process, with as many rows everywhere.

Rows are read by every process, so that each holds all simulations; what is simulated is simulated by each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:  # builds of torch without it train on one device
    from torch.distributed.distributed_c10d import Store

_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True)
class Group:
    """This process among those that train together; by default it is alone, and all of this costs nothing.

    Args:
        rank, size: which process of how many.
        device: where this process's network lies.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether it is this process that writes files and reports progress."""
        return self.rank == 0

    def shares(self, rows: Sequence[int], costs: Sequence[int]) -> list[slice]:
        """This process's rows of each batch, those of all processes being disjoint and all there are.

        Args:
            rows: how many rows each batch has. costs: of one row of each batch.
        """
        if self.size == 1:
            return [slice(0, n) for n in rows]
        total, start, out = sum(n * c for n, c in zip(rows, costs)), 0, []
        for n, cost in zip(rows, costs):
            ends = [_rows_before(self.rank + k, self.size, total, start, n, cost) for k in (0, 1)]
            out.append(slice(*ends))
            start += n * cost
        return out

    def sum(self, number: float) -> float:
        """The sum over all processes, the same on each."""
        if self.size == 1:
            return number
        x = torch.tensor([number], dtype=torch.float64)
        with _together(self):
            dist.all_reduce(x)
        return float(x)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each parameter's gradient becomes the sum over all processes; it stays None where all have none."""
        if self.size == 1:
            return
        own = list(parameters)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
        found = parts[0].new_tensor([float(p.grad is not None) for p in own])
        flat = torch.cat([found, *(g.flatten() for g in parts)])
        with _together(self):
            dist.all_reduce(flat)
        summed = flat[len(own) :].split([p.numel() for p in own])
        for p, g, n in zip(own, summed, flat[: len(own)].tolist()):
            p.grad = g.view_as(p).to(p.dtype) if n else None

    def require_equal(self, digests: Mapping[str, str]) -> None:
        """All processes set out from the same.

        Args:
            digests: what it is -> 64 hexadecimal digits, on every process the same names.

        Raises:
            ValueError: on all processes, with the names of what differs.
        """
        if self.size == 1:
            return
        mine = torch.tensor([list(bytes.fromhex(d)) for d in digests.values()], dtype=torch.uint8)
        found: list[Tensor] = [torch.empty_like(mine) for _ in range(self.size)]
        with _together(self):
            dist.all_gather(found, mine)
        differs = torch.stack([(x != found[0]).any(1) for x in found]).any(0).tolist()
        if names := [name for name, d in zip(digests, differs) if d]:
            raise ValueError(
                f"{self.size} processes differ in {names}: all need the same files and arguments, and a simulator must "
                "draw from the generator that it is given, from nothing else."
            )


def _rows_before(rank: int, size: int, total: int, start: int, n: int, cost: int) -> int:
    """How many of n rows, which cost `cost` each and start at `start`, have their middle before rank/size of total."""
    doubled = 2 * rank * total - 2 * size * start  # all times 2·size, in whole numbers: both neighbours cut alike
    return min(n, max(0, -((size * cost - doubled) // (2 * size * cost)))) if cost else n * (rank == size)


@contextmanager
def joined(device: str = "cpu", timeout: float = 600.0) -> Iterator[Group]:
    """The group in which torchrun started this process; without torchrun this process alone.

    Args:
        device: "cpu", or "cuda": of several processes each takes the GPU of its number on its machine.
        timeout: seconds for which processes wait for one that hangs; of one that ended they learn sooner.

    Raises:
        ValueError: a device that several processes cannot use, or fewer GPUs than processes.
        ConnectionError: the others are not there. Also raised by every method that waits for them. What torch counts
            then differs between processes, so that these cannot join again: start new ones.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(device=device)
        return
    if missing := [k for k in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if k not in os.environ]:
        raise ValueError(f"WORLD_SIZE={size} in the environment, without {missing}; start several with torchrun.")
    if device not in _BACKENDS:
        raise ValueError(f"device {device!r} for {size} processes; choices: {sorted(_BACKENDS)}.")
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU, there are {torch.cuda.device_count()}; start as many."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    group, wait = Group(int(os.environ["RANK"]), size, device), timedelta(seconds=timeout)
    with _together(group):
        backend, store = _BACKENDS[device.split(":")[0]], _own_store(group, wait)
        dist.init_process_group(backend, store=store, rank=group.rank, world_size=size, timeout=wait)
        del store  # torch alone holds it, and lets go of it when the group ends
    try:
        yield group
    finally:  # closes what the others wait at, if this one fails
        dist.destroy_process_group()


def _own_store(group: Group, timeout: timedelta) -> Store:
    """Where the processes of this group find one another: a part of torchrun's store of its own.

    In the same part a group would find the addresses of the last one, which are closed, and wait for them in vain.
    Counted in the store, a process at a time: the k-th group of one is the k-th of all, as long as all came about.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", group.rank, group.size, timeout=timeout))
    store.set_timeout(timeout)
    return PrefixStore(f"fsimformer/{store.add(f'fsimformer/joined/{group.rank}', 1)}", store)


@contextmanager
def _together(group: Group) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"process {group.rank} of {group.size}: another one ended or did not answer in time "
            f"({str(error).splitlines()[0]})."
        ) from error


def require_device(device: str) -> None:
    """Refuses a device that torch does not find.

    Raises:
        ValueError: what was asked for.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected a torch device such as 'cpu' or 'cuda', got {device!r}.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device!r} asked for, but torch finds no GPU here.")
