"""How long the explorer takes from a reading that moves to the bands that follow, over its own websocket.

A client of Bokeh's protocol moves one reading 100 times, each time after it has seen the bands of the move before, as
a browser does while the mouse is down; the browser's own drawing is not in it. Beside the times: how far a preview is
from quantiles of the same flow solved from the top in 96 evaluations, in sd of each marginal.

    python benchmarks/explorer.py [--threads 2] [--moves 100] [--models lotka_volterra hare_lynx sird]
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import threading
import time
from typing import Any

import numpy as np
import record
import torch
import xarray as xr
from bokeh.client import ClientSession, pull_session

import fsimformer as fsf
from fsimformer.explorer.board import Board
from fsimformer.explorer.page import open_page
from fsimformer.explorer.picture import BANDS, Settings, preview
from fsimformer.explorer.server import Served
from fsimformer.marginals import Fitted

TOP = fsf.SamplerConfig("rk4", 24, power=5.0, log_min=-6.9)


def observation(joint: fsf.Joint, model: str) -> xr.Dataset:
    """Real counts, or a draw of the model's own: 12 readings a series."""
    if model == "hare_lynx":
        return fsf.simulators.hudson_bay()
    index = joint.schema.indexes[0]
    at = {name: np.linspace(index.lower, index.upper, 12) for name in joint.schema.data}
    drawn = joint.condition(None).sample(2, at, quality="fast")["predictions"]
    return drawn.to_dataset().isel(chain=0, draw=0, drop=True)


def serve(joint: fsf.Joint, board: Board, settings: Settings) -> Served:
    """In a thread of its own, until the process ends."""
    made: queue.Queue[Served] = queue.Queue()

    def run() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        served = Served(open_page(joint, board, settings))
        served.loop.add_callback(made.put, served)
        served.run()

    threading.Thread(target=run, daemon=True).start()
    return made.get()


def moves(session: ClientSession, board: Board, n: int, rng: np.random.Generator) -> tuple[list[float], list[int]]:
    """Seconds of each move, and the points of each preview. The reading in the middle walks; the first ten adapt."""
    name = next(k for k in board.functions if board.readings.get(k))
    find = session.document.get_model_by_name
    pairs = [list(pair) for pair in board.readings[name]]
    number, spread = len(pairs) // 2, np.std([value for _, value in pairs])
    seconds, points = list[float](), list[int]()
    for i in range(n + 10):
        pairs[number][1] = abs(pairs[number][1] + 0.05 * spread * rng.standard_normal())
        before = find(f"bands:{name}").data
        start = time.perf_counter()
        find(f"live:{name}").data = {"x": [x for x, _ in pairs], "y": [y for _, y in pairs]}
        session._connection._loop_until(lambda: find(f"bands:{name}").data is not before)  # noqa: B023
        if i >= 10:
            seconds.append(time.perf_counter() - start)
            points.append(len(find(f"bands:{name}").data["x"]))
    return seconds, points


def error(joint: fsf.Joint, board: Board, n: int) -> dict[str, float]:
    """Of a preview's bands, rms over quantiles and points, in sd of each marginal."""
    conditional = board.condition(joint)[0]
    quick, slow = (preview(board, conditional, n, solver) for solver in (Fitted(5), TOP))
    out = {}
    for name, bands in slow.bands.items():
        sd = (bands[BANDS.index(0.95)] - bands[BANDS.index(0.05)]) / 3.29
        out[name] = float(np.sqrt((((quick.bands[name] - bands) / sd) ** 2).mean()))
    for name, (median, low, high) in slow.summaries.items():
        out[name] = abs(quick.summaries[name][0] - median) / ((high - low) / 3.29)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["lotka_volterra", "hare_lynx", "sird"])
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="explorer")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {}
    for model in args.models:
        joint = fsf.load(model)
        board = Board.of(joint.schema, observation(joint, model))
        served = serve(joint, board, Settings(model))
        session = pull_session(url=served.url)
        seconds, points = moves(session, board, args.moves, np.random.default_rng(args.seed))
        session.close()
        p50, p95 = np.quantile(seconds, [0.5, 0.95])
        readings = sum(map(len, board.readings.values()))
        results[model] = {
            "readings": readings,
            "moves": args.moves,
            "seconds_p50": float(p50),
            "seconds_p95": float(p95),
            "seconds_largest": max(seconds),
            "points_of_a_function": {"least": min(points), "median": int(np.median(points)), "most": max(points)},
            "error_in_sd": error(joint, board, int(np.median(points))),
        }
        print(model, results[model], flush=True)
        served.loop.add_callback(served.loop.stop)
    print(record.save(args.name, args.seed, results, {"bokeh": record.version("bokeh")}))


if __name__ == "__main__":
    main()
