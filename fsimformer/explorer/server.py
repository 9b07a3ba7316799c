"""The explorer's server: it listens on 127.0.0.1 alone, and answers who knows the token.

A page of another site may make a browser send requests to 127.0.0.1, and may let its own name point there (DNS
rebinding). So every request must name this very address as its Host, websockets must come from the page itself
(Origin), and the page's path is a random token, which the terminal shows and no other page can know.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

try:
    from bokeh.application import Application
    from bokeh.application.handlers import FunctionHandler
    from bokeh.document import Document
    from bokeh.server.server import BaseServer
    from bokeh.server.tornado import BokehTornado
    from bokeh.server.util import bind_sockets
    from tornado.httpserver import HTTPServer
    from tornado.httputil import HTTPServerRequest
    from tornado.ioloop import IOLoop
    from tornado.web import ErrorHandler
except ImportError as error:
    raise ImportError("The explorer needs Bokeh: pip install 'fsimformer[explore]'.") from error

ADDRESS = "127.0.0.1"
_MAX_UPLOAD = 64 * 2**20  # bytes of a message; a larger file ends the connection


class _Loopback(BokehTornado):  # type: ignore[misc]
    """Answers requests to these hosts, "address:port", and no others."""

    def __init__(self, page: Callable[[Document], None], path: str, hosts: frozenset[str]) -> None:
        self._hosts = hosts
        super().__init__(
            {path: Application(FunctionHandler(page))},
            extra_websocket_origins=sorted(hosts),
            use_index=False,
            redirect_root=False,
            websocket_max_message_size_bytes=_MAX_UPLOAD,
        )

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        if request.headers.get("Host", "").lower() not in self._hosts:
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **kwargs)


class Served:
    """A page at an address.

    Args:
        page: fills the document of each tab.
        port: 0 = any that is free.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, page: Callable[[Document], None], port: int = 0) -> None:
        sockets, self.port = bind_sockets(ADDRESS, port)
        path = f"/{secrets.token_hex(16)}"
        app = _Loopback(page, path, frozenset(f"{name}:{self.port}" for name in (ADDRESS, "localhost")))
        http = HTTPServer(app)
        http.add_sockets(sockets)
        self._server = BaseServer(IOLoop.current(), app, http)
        self.url = f"http://{ADDRESS}:{self.port}{path}"

    @property
    def loop(self) -> IOLoop:
        """That of the thread in which this was made."""
        return self._server.io_loop

    def start(self) -> None:
        """Answer as soon as the loop runs."""
        self._server.start()

    def run(self) -> None:
        """Answer until interrupted."""
        self.start()
        try:
            self.loop.start()
        finally:
            self.stop()

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop(wait=False)
