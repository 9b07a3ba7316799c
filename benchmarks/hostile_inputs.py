"""Clumsy and hostile input: what becomes of ten thousand inputs that `condition` may be handed.

Sound inputs (hostile_cases.py) have a meaning that was fixed before they were dressed up; injured ones
(hostile_injuries.py) have none. Each is read, turned into tokens and asked for what is missing, and has one outcome:

- meaning as documented: every finite reading, at its place, to the last bit of its float64, and nothing else;
- refused with our message: ValueError, TypeError or KeyError, raised by a `raise` of this package;
- defect, refused by an inner library: any other exception, or such a one of numpy, pandas or xarray;
- defect, refused though it has a meaning;
- defect, silent: read, and the meaning is another, or there is none; or another library's warning got out.

    python benchmarks/hostile_inputs.py --n 12000 --seed 0
    python benchmarks/hostile_inputs.py --show "a zone"             what becomes of some inputs of one category
"""

from __future__ import annotations

import argparse
import linecache
import multiprocessing
import resource
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from hostile_cases import SCHEMA, WHITENING, Case, questions, sound, vectors
from hostile_injuries import injured
from record import save

import fsimformer
from fsimformer.convert import Observation, observed_tokens, query, query_tokens, read

OURS = str(Path(fsimformer.__file__).parent)
MEANING, REFUSED = "meaning as documented", "refused with our message"
INNER, DENIED, SILENT = "defect: inner library", "defect: refused though sound", "defect: silent"
OUTCOMES = (MEANING, REFUSED, INNER, DENIED, SILENT)
PART = 250  # cases that are drawn from one generator
SHARES = {sound: 0.4, vectors: 0.1, questions: 0.1, injured: 0.4}


def outcome(case: Case) -> tuple[str, str]:
    """What becomes of a case, and the message or what was read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            observation = read(SCHEMA, case.observed, origin=case.origin)
            tokens = observed_tokens(SCHEMA, WHITENING, observation)
            asked = query(SCHEMA, observation, case.at)
            latent = query_tokens(SCHEMA, asked)
        except Exception as error:
            ours = isinstance(error, ValueError | TypeError | KeyError) and raised_by_us(error.__traceback__)
            told = f"{type(error).__name__}: {error}"
            return (DENIED if ours and case.readings is not None else REFUSED if ours else INNER), told
    if foreign := [w for w in caught if not w.category.__module__.startswith("fsimformer")]:
        return SILENT, f"{foreign[0].category.__name__}: {foreign[0].message}"
    found = readings(observation)
    if case.readings is None:
        return SILENT, str(found)
    finite = all(bool(part.value.isfinite().all() & part.index.isfinite().all()) for part in (tokens, latent))
    same = found == {k: v for k, v in canonical(case.readings).items() if v} and finite
    if case.points is not None:
        same = same and asked.points["hare"].index[:, 0].tolist() == case.points
    return (MEANING if same else SILENT), f"{found}, expected {canonical(case.readings)}"


def raised_by_us(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is a `raise` of this package: then the message is ours."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None or not traceback.tb_frame.f_code.co_filename.startswith(OURS):
        return False
    line = linecache.getline(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
    return line.lstrip().startswith("raise ")


def readings(observation: Observation) -> dict[str, list[tuple[str, ...]]]:
    """The finite readings of an observation as a case states them; an array's places have no component."""
    out = {}
    for name, channel in observation.channels.items():
        there = np.isfinite(channel.value)
        component = channel.points.component[there].tolist()
        columns = [component, *channel.points.index[there].T.tolist(), channel.value[there].tolist()]
        out[name] = list(zip(*columns, strict=True))
    return {k: v for k, v in canonical(out).items() if v}


def canonical(held: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[str, ...]]]:
    """Bits of every number, sorted where order says nothing; an image's places stand in their order."""
    bits = {k: [(str(int(c)), *(float(x).hex() for x in rest)) for c, *rest in rows] for k, rows in held.items()}
    return {k: rows if k == "image" else sorted(rows) for k, rows in bits.items()}


def drawn(seed: int, part: int, n: int) -> Iterator[Case]:
    """n cases, the same for the same numbers; what pandas and xarray think of them before they are ours is theirs."""
    rng = np.random.default_rng([seed, part])
    kinds, shares = list(SHARES), list(SHARES.values())
    for k in rng.choice(len(kinds), n, p=shares):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = kinds[k](rng)
        yield case


def tried(numbers: tuple[int, int, int]) -> list[tuple[str, str, str]]:
    """Category, outcome and, of defects, what was said, of every case of a part."""
    torch.set_num_threads(1)
    out = [(case.category, *outcome(case)) for case in drawn(*numbers)]
    return [(category, what, told[:500] if what.startswith("defect") else "") for category, what, told in out]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--show", help="print inputs of the categories whose name holds this text, and save nothing")
    args = parser.parse_args()
    parts = [(args.seed, k, min(PART, args.n - k * PART)) for k in range(-(-args.n // PART))]
    if args.show is not None:
        for case in (case for part in parts for case in drawn(*part) if args.show in case.category):
            print(f"{case.category}\n  {case.observed!r}\n  {outcome(case)}")
        return
    with multiprocessing.get_context("fork").Pool(args.workers) as pool:
        rows = [row for part in pool.imap(tried, parts) for row in part]
        pool.close()
        pool.join()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    table: dict[str, Counter[str]] = {}
    for category, what, _ in rows:
        table.setdefault(category, Counter())[what] += 1
    defects = {f"{category}: {what}": told for category, what, told in reversed(rows) if told}
    total = Counter(what for _, what, _ in rows)
    for name, found in sorted(table.items()):
        print(f"{name:55s} " + "  ".join(f"{o}: {found[o]}" for o in OUTCOMES if found[o]))
    print({o: total[o] for o in OUTCOMES})
    for name, told in defects.items():
        print(f"{name}\n    {told}")
    results = {
        "n": len(rows),
        "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in used), 1),
        "outcomes": {o: total[o] for o in OUTCOMES},
        "categories": {name: dict(found) for name, found in sorted(table.items())},
        "defects": defects,
    }
    print(save("hostile_inputs", args.seed, results))


if __name__ == "__main__":
    main()
