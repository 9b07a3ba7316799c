"""An explorer in a thread of this process, as a terminal would start it in one of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fsimformer.explorer.board import Board
from fsimformer.explorer.page import open_page
from fsimformer.explorer.picture import Settings
from fsimformer.explorer.server import Served
from fsimformer.joint import Joint


@contextmanager
def served(joint: Joint, board: Board, settings: Settings) -> Iterator[Served]:
    """The running server; its loop is that of the thread."""
    made: queue.Queue[Served | Exception] = queue.Queue()

    def run() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        try:
            mine = Served(open_page(joint, board, settings))
        except Exception as error:
            made.put(error)
            return
        mine.loop.add_callback(made.put, mine)  # it answers from now on
        mine.run()

    thread = threading.Thread(target=run, name="served", daemon=True)
    thread.start()
    found = made.get(timeout=120)
    if isinstance(found, Exception):
        raise found
    try:
        yield found
    finally:
        found.loop.add_callback(found.loop.stop)
        thread.join(30)
