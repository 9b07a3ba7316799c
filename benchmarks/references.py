"""sbibm's observations and reference posterior draws, read from the files of the installed package."""

from __future__ import annotations

import bz2
import csv
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

N_OBSERVATIONS = 10


def sbibm_observations(task: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Observation (d_x,) and its 10,000 reference draws (10000, d_theta), for observations 1 … 10.

    The package need not import, and is found by its distribution: a script of its name beside this one would hide it.

    Raises:
        SystemExit: sbibm is not installed.
    """
    try:
        package = Path(str(distribution("sbibm").locate_file("sbibm")))
    except PackageNotFoundError:
        raise SystemExit("sbibm's files are missing: pip install --no-deps sbibm==1.1.0") from None
    for i in range(1, N_OBSERVATIONS + 1):
        folder = package / "tasks" / task / "files" / f"num_observation_{i}"
        with open(folder / "observation.csv") as file:
            x = _numbers(list(csv.reader(file)))[0]
        with bz2.open(folder / "reference_posterior_samples.csv.bz2", "rt") as file:
            yield x, _numbers(list(csv.reader(file)))


def _numbers(rows: list[list[str]]) -> np.ndarray:
    return np.array([[float(v) for v in row] for row in rows[1:]])  # the first row names the columns
