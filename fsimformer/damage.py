"""What libraries raise at content that is not what they expect: who reads a file turns it into one ValueError.

An `OSError` is not among them: it may be the disk's fault, or a permission that is lacking. Who has another library
open the file, which raises it for a broken one as well, adds it.
"""

from __future__ import annotations

# fmt: off
DAMAGE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, MemoryError, EOFError, AssertionError,
    RuntimeError,  # among them RecursionError, of JSON within JSON within JSON
)
# fmt: on
