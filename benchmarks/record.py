"""Results as JSON: what was measured, with machine, versions, seed and commit."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


def no_arguments(about: str | None) -> None:
    """The command line of a script that takes none: `--help` says what it does, instead of doing it."""
    argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


def processor() -> str:
    """The processor's name as the system states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def budget(card: dict[str, Any]) -> dict[str, Any]:
    """Simulations, and steps and CPU seconds of all trainings that the weights have behind them."""
    steps, seconds, at = 0, 0.0, card
    while at is not None:
        steps, seconds, at = steps + at["steps"], seconds + at["cpu_seconds"], at.get("initial")
    return {"simulations": card["simulations"], "steps": steps, "train_cpu_seconds": round(seconds, 1)}


def peak_mib() -> float:
    """Peak resident memory of this process so far, MiB; on Linux not by getrusage, which begins at its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # macOS counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def commit() -> str:
    """The commit that is checked out; "+changes" where the package differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run([*git, "status", "--porcelain", "fsimformer"], capture_output=True, text=True).stdout.strip()
    return head + ("+changes" if dirty else "")


def measured(name: str) -> bool:
    """Whether `results/<name>.json` is there: what `--all` need not run again."""
    return (RESULTS / f"{name}.json").exists()


def save(name: str, seed: int, results: Any, packages: Mapping[str, str] | None = None) -> Path:
    """Write `results/<name>.json`; `results` holds the figures, each with its n and its Monte-Carlo floor.

    `packages`: further versions, e.g. of a peer that ran in another environment.
    """
    record = {
        "name": name,
        "seed": seed,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": processor(),
            "system": platform.platform(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
        },
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("torch", "numpy", "scipy", "xarray", "scikit-learn")}
        | dict(packages or {}),
        "results": results,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path
