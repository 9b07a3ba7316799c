"""Memory that is freed and asked for again a moment later, without a trip to the kernel.

glibc hands blocks above a threshold back to the kernel when they are freed; what is asked for next then comes page by
page, cleared anew. The threshold begins at 128 KiB and rises to the largest block freed so far, up to 32 MiB; twice of
it may lie free at the end of the heap (mallopt(3), M_MMAP_THRESHOLD). Activations of a network are of just that size.
"""

from __future__ import annotations

import torch

_BLOCK = 31 * 2**20  # bytes; with its header below the 32 MiB from which on a freed block teaches glibc nothing


def keep_freed() -> None:
    """Blocks of up to 31 MiB that this process frees are its own to use again, 62 MiB at the end of its heap.

    A block is asked for and freed, never touched: that costs microseconds. With other allocators nothing changes.
    """
    torch.empty(_BLOCK, dtype=torch.uint8)
