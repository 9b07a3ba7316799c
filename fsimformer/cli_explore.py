"""The command `fsimformer explore`: a page on this machine where readings are moved and the posterior follows.

As in cli.py heavy imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fsimformer.cli_command import add_columns, add_command, renamed
from fsimformer.files import ENDINGS, read_observations


def add_explore(commands: Any) -> None:
    """Its parser."""
    text = "open a page where readings are dragged and answers follow"
    examples = ["fsimformer explore hare_lynx counts.csv", "fsimformer explore sird --no-browser --port 5006"]
    explore = add_command(commands, "explore", _explore, text, examples)
    explore.add_argument("model", help="name of a model that ships, or a model's directory")
    explore.add_argument("observations", type=Path, nargs="?", help=f"a file to start from: {', '.join(ENDINGS)}")
    explore.add_argument("--draws", type=int, default=500, help="joint draws once you let go (default: %(default)s)")
    explore.add_argument("--points", type=int, default=21, help="of each function in them (default: %(default)s)")
    explore.add_argument(
        "--quality", choices=("sde", "fast", "exact", "few"), default="sde", help="default: %(default)s"
    )
    add_columns(explore)
    explore.add_argument("--origin", help="ISO date that index 0 stands for, where the file holds dates")
    explore.add_argument("--seed", type=int, default=0)
    explore.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default: any that is free)")
    explore.add_argument("--no-browser", action="store_true", help="print the address, open nothing")


def _explore(args: argparse.Namespace) -> None:
    if args.draws < 2 or args.draws % 2 or args.points < 2:
        raise ValueError(f"expected an even number of draws and 2 points or more, got {args.draws} and {args.points}.")
    names = renamed(args)
    from fsimformer.explorer.server import Served  # before the work: without Bokeh there is no page
    from fsimformer.model_file import find_model, read_card

    if arrays := list(read_card(find_model(args.model))[0].arrays):
        raise ValueError(f"{args.model} has array variables {arrays}, which nobody can drag.")
    from fsimformer.explorer.board import Board
    from fsimformer.explorer.page import open_page
    from fsimformer.explorer.picture import Settings
    from fsimformer.joint import load

    joint = load(args.model)
    observed = None
    if args.observations is not None:
        indexes = [index.name for index in joint.schema.indexes]
        observed = read_observations(args.observations, indexes, None, names, joint.schema.scalars, args.drop)
    board = Board.of(joint.schema, observed, args.origin)
    board.condition(joint)  # a file that cannot be observed is refused here, not on the page
    settings = Settings(args.model, args.draws, args.points, args.seed, args.quality, args.origin)
    served = Served(open_page(joint, board, settings), args.port)
    print(f"{args.model} at {served.url}\nOnly this machine can reach it. Ctrl-C ends it.", flush=True)
    if not args.no_browser:
        import webbrowser

        webbrowser.open(served.url)
    served.run()
