"""The explorer over its own websocket: points move, bands follow; and it answers nobody else."""

from __future__ import annotations

import base64
import http.client
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import linear
import numpy as np
import pytest
import xarray as xr
from bokeh.client import ClientSession, pull_session
from bokeh.events import ButtonClick
from served import served

from fsimformer.cli import main
from fsimformer.explorer.board import Board
from fsimformer.explorer.picture import Settings
from fsimformer.explorer.server import ADDRESS, Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a server and a session each, on a crowded machine
SEEN = xr.Dataset({"x": ("time", [0.8, 1.1])}, {"time": [2.0, 5.5]})


@pytest.fixture(scope="module")
def explorer() -> Iterator[Served]:
    settings = Settings("linear", n=100, points=6, quality="fast")
    with served(linear.joint(), Board.of(linear.SCHEMA, SEEN), settings) as found:
        yield found


@pytest.fixture
def tab(explorer: Served) -> Iterator[ClientSession]:
    """A session as a browser tab has one, with the first draws shown."""
    session = pull_session(url=explorer.url)
    wait(session, lambda: "joint draws" in text(session, "status"))
    yield session
    session.close()


def wait(session: ClientSession, reached: Callable[[], bool]) -> None:
    """Let the session's messages in until something is so; the test's own time limit is the only one."""
    raised = list[Exception]()

    def ended() -> bool:
        try:
            return reached()
        except Exception as error:  # Bokeh's loop would swallow it and never end
            raised.append(error)
            return True

    session._connection._loop_until(ended)  # as Bokeh's own tests do: `force_roundtrip` would drop what comes between
    if raised:
        raise raised[0]


def drawn(session: ClientSession) -> bool:
    """Draws are shown, with the six points that the settings ask for."""
    return "joint draws" in text(session, "status") and len(middle(session, "x")) == 6


def text(session: ClientSession, name: str) -> str:
    return session.document.get_model_by_name(name).text


def middle(session: ClientSession, name: str) -> np.ndarray:
    return np.array(session.document.get_model_by_name(f"bands:{name}").data["middle"])


def data(session: ClientSession, name: str) -> dict[str, list[float]]:
    return {k: list(v) for k, v in session.document.get_model_by_name(name).data.items()}


def test_bands_follow_a_reading_that_is_dragged(tab: ClientSession) -> None:
    before = middle(tab, "x")
    tab.document.get_model_by_name("live:x").data = {"x": [2.0, 5.5], "y": [2.8, 1.1]}
    wait(tab, lambda: "preview" in text(tab, "status"))
    after = middle(tab, "x")
    assert len(after) > len(before) == 6  # more points than draws have
    at = data(tab, "bands:x")["x"]
    assert np.interp(2.0, at, after) > np.interp(2.0, np.linspace(0, 10, 6), before) + 0.5
    tab.document.get_model_by_name("readings:x").data = {"x": [2.0, 5.5], "y": [2.8, 1.1]}
    wait(tab, lambda: "joint draws" in text(tab, "status"))


def test_readings_are_added_and_removed(tab: ClientSession) -> None:
    width = lambda: np.ptp([v for k, v in data(tab, "bands:f").items() if k in ("low", "high")], axis=0)  # noqa: E731
    start, settled = width(), lambda: drawn(tab) and len(width()) == 6  # f's message may come after x's
    tab.document.get_model_by_name("readings:x").data = {"x": [2.0, 5.5, 8.0, 8.1], "y": [0.8, 1.1, 0.0, 0.1]}
    wait(tab, lambda: settled() and width()[4] < 0.8 * start[4])  # at 8
    tab.document.get_model_by_name("readings:x").data = {"x": [], "y": []}
    wider = np.array([1.5, 1.2, 1.5])  # of exactly 2.26, 1.46 and 2.30
    wait(tab, lambda: settled() and bool((width()[1:4] > wider * start[1:4]).all()))


def test_an_interval_bounds_the_draws(tab: ClientSession) -> None:
    slider = tab.document.get_model_by_name("between:a")
    slider.value = (slider.start, 0.5)  # while it moves: of the draws that are there
    wait(tab, lambda: "lie there" in text(tab, "status") and max(data(tab, "density:a")["x"]) <= 0.5)
    slider.set_from_json("value_throttled", (slider.start, 0.5))
    wait(tab, lambda: drawn(tab))
    assert max(data(tab, "density:a")["x"]) <= 0.5


def test_a_parameter_that_is_known_is_observed(tab: ClientSession) -> None:
    tab.document.get_model_by_name("known:a").value = "0.3"
    wait(tab, lambda: drawn(tab) and not data(tab, "density:a")["x"])
    tab.document.get_model_by_name("known:a").value = "much"
    wait(tab, lambda: "expected a number" in text(tab, "message"))


def test_series_can_be_left_out(tab: ClientSession) -> None:
    before = middle(tab, "x")
    tab.document.get_model_by_name("used").active = [0]
    wait(tab, lambda: drawn(tab) and np.abs(middle(tab, "x") - before).max() > 0.3)  # the prior's


def test_a_reading_beyond_the_range_is_said(tab: ClientSession) -> None:
    tab.document.get_model_by_name("readings:x").data = {"x": [2.0, 14.0], "y": [0.8, 1.1]}
    wait(tab, lambda: "outside the trained range" in text(tab, "message"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"day,x\n1,2\n", "expected an index column ['time']"),
        ("a.csv", b"", "was refused"),
        ("a.csv", b"\xff\xfe\x00garbage", "was refused"),
        ("a.csv", b"time,z\n1,2\n", "z"),
        ("a.nc", b"CDF no such thing", "was refused"),
        ("a.exe", b"MZ", "unknown ending"),
        ("../../etc/x.nc", b"x", "was refused"),
    ],
)
def test_bad_files_are_refused_with_a_message(tab: ClientSession, name: str, content: bytes, message: str) -> None:
    before = data(tab, "readings:x")
    upload(tab, name, content)
    wait(tab, lambda: text(tab, "message") != "")
    assert message in text(tab, "message")
    assert data(tab, "readings:x") == before


def upload(session: ClientSession, name: str, content: bytes) -> None:
    file = session.document.get_model_by_name("file")
    file.set_from_json("value", base64.b64encode(content).decode())
    file.set_from_json("filename", name)


def test_a_file_is_read(tab: ClientSession) -> None:
    upload(tab, "own.csv", b"time,x\n1.0,0.5\n3.0,\n9.0,-0.25\n")
    wait(tab, lambda: data(tab, "readings:x") == {"x": [1.0, 9.0], "y": [0.5, -0.25]})


def test_draws_and_script_are_handed_out(tab: ClientSession, tmp_path: Path) -> None:
    for button, name in (("script", "explore.py"), ("download", "explore.nc")):
        press(tab, button)
        wait(tab, lambda name=name: data(tab, "parcel")["name"] == [name])
        (tmp_path / name).write_bytes(base64.b64decode(data(tab, "parcel")["content"][0]))
    assert "fsf.load('linear')" in (tmp_path / "explore.py").read_text()
    tree = xr.open_datatree(tmp_path / "explore.nc", engine="h5netcdf")
    assert tree["posterior"]["f"].shape == (2, 50, 6)
    assert tree["observed_data"]["x"].to_numpy().tolist() == [0.8, 1.1]
    tree.close()


def press(session: ClientSession, name: str) -> None:
    session.document.callbacks.send_event(ButtonClick(session.document.get_model_by_name(name)))


def status(explorer: Served, path: str, host: str) -> int:
    connection = http.client.HTTPConnection(ADDRESS, explorer.port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    found = connection.getresponse().status
    connection.close()
    return found


def test_it_answers_at_its_own_address_alone(explorer: Served) -> None:
    path, own = urlsplit(explorer.url).path, f"{ADDRESS}:{explorer.port}"
    assert status(explorer, path, own) == 200
    assert status(explorer, path, f"localhost:{explorer.port}") == 200
    for host in ("evil.example", f"evil.example:{explorer.port}", ADDRESS, f"{own}.evil.example"):
        assert status(explorer, path, host) == 403
    for other in ("/", "/ws", "/autoload.js", "/0123456789abcdef0123456789abcdef", path[:-1]):
        assert status(explorer, other, own) == 404


def test_it_listens_on_the_loopback_alone(explorer: Served) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", explorer.port), timeout=5)  # this machine's, too, on Linux


def test_a_websocket_of_another_page_is_refused(explorer: Served) -> None:
    path = urlsplit(explorer.url).path
    for origin, expected in (("http://evil.example", 403), (f"http://evil.example:{explorer.port}", 403)):
        connection = http.client.HTTPConnection(ADDRESS, explorer.port, timeout=60)
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Origin": origin}
        headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        connection.request("GET", f"{path}/ws", headers=headers)
        assert connection.getresponse().status == expected
        connection.close()


def test_the_path_is_a_token_of_128_bits(explorer: Served) -> None:
    token = urlsplit(explorer.url).path.strip("/")
    assert len(token) == 32 and int(token, 16) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_model"], "no_such_model"),
        (["lotka_volterra", "--draws", "7"], "even number"),
        (["lotka_volterra", "no_such_file.csv"], "No such file"),
    ],
)
def test_the_command_refuses_in_a_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
