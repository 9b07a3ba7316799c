"""Work in a thread where only the newest counts: what was asked for before and has not begun is forgotten.

A job may look whether a newer one waits, and leave off; network evaluations of a `stoppable` Joint look by themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fsimformer.joint import Joint
from fsimformer.nn import Network

Job = Callable[[Callable[[], bool]], None]  # called with a function that says whether it is out of date


class Stopped(Exception):
    """The work is out of date."""


class Newest:
    """One thread, one place to wait.

    Args:
        failed: called in the thread with what a job raised; `Stopped` is no failure.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name="explorer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Run this next, in the place of whatever waits."""
        with self._changed:
            self._waiting = job
            self._changed.notify_all()

    def stale(self) -> bool:
        """Something newer waits."""
        return self._waiting is not None or self._closed

    def close(self) -> None:
        """No further jobs; the running one is out of date."""
        with self._changed:
            self._closed, self._waiting = True, None
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait until nothing runs or waits; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and not self._busy, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._closed:
                    return
                job, self._waiting, self._busy = self._waiting, None, True
            assert job is not None
            try:
                job(self.stale)
            except Stopped:
                pass
            except Exception as error:  # whatever it is, the page says it and stays alive
                self._failed(error)


def stoppable(joint: Joint, stale: Callable[[], bool]) -> Joint:
    """A copy whose networks raise `Stopped` at the next evaluation once they are out of date."""

    def look(*_: Any) -> None:
        if stale():
            raise Stopped

    own = joint.to(str(joint.model.denoiser.device))
    for module in own.model.denoiser.modules():
        if isinstance(module, Network):
            module.out.register_forward_pre_hook(look)
    return own
