"""What the README shows runs: its Python blocks in order in one session, its `fsimformer` lines, its `make` targets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fsimformer.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[tuple[int, str]]:
    """Line number and text of each fenced block."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [(README.count("\n", 0, m.start(1)) + 1, m[1]) for m in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's files appear; its commands use what its Python has written."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def session() -> dict[str, Any]:
    return {"__name__": "readme"}


@pytest.mark.parametrize(("line", "code"), blocks("python"), ids=lambda x: str(x) if isinstance(x, int) else "")
def test_python_block(
    line: int, code: str, folder: Path, session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    exec(compile("\n" * (line - 1) + code, str(ROOT / "README.md"), "exec"), session)


def commands(program: str) -> list[str]:
    lines = [text for _, block in blocks("sh") for text in block.replace("\\\n", " ").splitlines()]
    return [text.split("#")[0].strip() for text in lines if text.startswith(f"{program} ")]


@pytest.mark.parametrize("command", commands("fsimformer"))
def test_command(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main(shlex.split(command)[1:]) == 0


def test_commands_and_pictures_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(commands("make")) >= {"make demo", "make test"}
    assert {command.split()[1] for command in commands("make")} <= set(targets)
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / link).exists(), link
