"""CPU seconds until the command line answers: `--help`, `info`, and `infer` up to its first network call.

Each is a process of its own, its user and system seconds as the system counts them; the smallest of some repeats, after
one that warms the disk's cache. `infer` with 2 draws of an SDE is start-up and next to nothing else; what the draws
themselves take is what 2 draws take in a process that has drawn before. Goal: `--help` at once, start-up <= 3 s.

    python benchmarks/start_up.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import ROOT, no_arguments, save

import fsimformer as fsf

REPEATS = 5


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system seconds of a process and its children."""
    before = os.times()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def least(arguments: list[str], folder: Path) -> float:
    command = [sys.executable, "-m", "fsimformer", *arguments]
    return min([cpu_seconds(command, folder) for _ in range(REPEATS + 1)][1:])


def two_draws(path: Path) -> float:
    """CPU seconds of what `infer` does after start-up, in a process where nothing is loaded for the first time."""
    from fsimformer.files import read_observations

    joint, seconds = fsf.load("lotka_volterra"), []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        joint.condition(read_observations(path, ["time"])).sample(2)
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


def main() -> None:
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = np.linspace(0.5, 14.5, 20)
        rows = [f"{t},{1 + 0.5 * np.sin(t):.4f},{1 + 0.5 * np.cos(t):.4f}" for t in times]
        data = folder / "file.csv"
        data.write_text("\n".join(["time,prey,predator", *rows]) + "\n")
        commands = {
            "python -c pass": None,
            "import torch, xarray": None,
            "fsimformer --help": ["--help"],
            "fsimformer infer --help": ["infer", "--help"],
            "fsimformer info lotka_volterra": ["info", "lotka_volterra"],
            "fsimformer infer lotka_volterra file.csv --draws 2": [
                "infer",
                "lotka_volterra",
                "file.csv",
                "--draws",
                "2",
            ],
        }
        results = []
        for what, arguments in commands.items():
            if arguments is None:
                code = "pass" if "pass" in what else "import torch, xarray"
                plain = [sys.executable, "-c", code]
                seconds = min([cpu_seconds(plain, folder) for _ in range(REPEATS + 1)][1:])
            else:
                seconds = least(arguments, folder)
            results.append({"what": what, "cpu_seconds": round(seconds, 3)})
        draws = round(two_draws(data), 3)
    start_up = round(results[-1]["cpu_seconds"] - draws, 3)
    print(save("start_up", 0, {"rows": results, "two_draws_cpu_seconds": draws, "infer_start_up_cpu_seconds": start_up,
                               "n": REPEATS, "monte_carlo_floor": None}))  # fmt: skip


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
