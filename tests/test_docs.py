"""What the documentation shows runs, links lead somewhere, and the reference has every public name.

The fenced blocks of a page run in order and in one namespace, in a temporary directory: `python` is executed, of `sh`
the lines that begin with `fsimformer`; a `text` block right below one of them is what it prints, but for white space. A
block whose fence says `slow` is left out, but of the tests marked slow.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fsimformer
from fsimformer.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w+)( slow)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^\.\. auto(?:class|function|data|exception|method):: (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block; `adjacent`: nothing but blank lines between it and the block before."""

    language: str
    slow: bool
    text: str
    line: int
    adjacent: bool


def blocks(page: str) -> list[Block]:
    out, end = [], 0
    for m in FENCE.finditer(page):
        adjacent = bool(out) and not page[end : m.start()].strip()
        out.append(Block(m[1], m[2] is not None, m[3], page.count("\n", 0, m.start(3)) + 1, adjacent))
        end = m.end()
    return out


def run(page: str, path: Path, *, slow: bool) -> None:
    """Runs a page's blocks.

    Raises:
        AssertionError: something else is printed than the page says; a command that fails.
    """
    session: dict[str, Any] = {"__name__": "page"}
    printed: str | None = None
    for block in blocks(page):
        if block.language == "text":
            if block.adjacent and printed is not None:
                assert printed.split() == block.text.split(), f"{path}:{block.line} says otherwise: {printed}"
            continue
        if block.slow and not slow:
            printed = None
            continue
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            if block.language == "python":
                exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), session)
            for command in commands(block):
                assert main(shlex.split(command)[1:]) == 0, f"{path}:{block.line}: {command}"
        printed = stream.getvalue()


def commands(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines() if block.language == "sh" else []
    return [text.split("#")[0].strip() for text in lines if text.startswith("fsimformer ")]


def runs(page: Path) -> bool:
    return any(b.language == "python" or commands(b) for b in blocks(page.read_text()))


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if runs(p)], ids=name_of)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page.read_text(), page, slow=False)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.slow for b in blocks(p.read_text()))], ids=name_of)
def test_slow_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page.read_text(), page, slow=True)


def test_runner_sees_errors_and_wrong_output(tmp_path: Path) -> None:
    good = "```python\na = 1\n```\ntext\n```python\nprint(a + 1)\n```\n\n```text\n2\n```\n"
    run(good, tmp_path, slow=False)
    with pytest.raises(AssertionError, match="says otherwise"):
        run(good.replace("\n2\n", "\n3\n"), tmp_path, slow=False)
    with pytest.raises(ZeroDivisionError):
        run(good.replace("a + 1", "a / 0"), tmp_path, slow=False)
    slow = "```python slow\na = 1 / 0\n```\n```text\n5\n```\n"
    run(slow, tmp_path, slow=False)
    with pytest.raises(ZeroDivisionError):
        run(slow, tmp_path, slow=True)


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings, those of what it includes among them."""
    text = page.read_text()
    included = [page.parent / m for m in re.findall(r"^```\{include\} (\S+)$", text, re.MULTILINE)]
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    own = {re.sub(r"[^\w\- ]", "", t.strip().lower()).replace(" ", "-") for t in titles}
    return own.union(*(anchors(p) for p in included))


def broken(page: Path) -> list[str]:
    """Links to files that are not there, or to headings that their page does not have."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    out = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            out.append(link)
    return out


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_broken_links_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One title\n[a](#one-title) [b](#another) [c](page.md#one-title) [d](none.md) [e](https://x.y)\n")
    assert broken(page) == ["#another", "none.md"]


def test_every_page_is_in_a_contents_list() -> None:
    listed = {DOCS / "index.md"}
    for page in PAGES:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            listed |= {(page.parent / f"{line}.md") for line in block.split("\n") if line and not line.startswith(":")}
    assert {p.resolve() for p in listed} == {p.resolve() for p in PAGES}


def described() -> list[str]:
    return [name for page in PAGES for name in DIRECTIVE.findall(page.read_text())]


def test_reference_has_every_public_name_once() -> None:
    names = described()
    assert len(names) == len(set(names))
    public = {f"fsimformer.{name}" for name in fsimformer.__all__ if name != "simulators"}
    public |= {f"fsimformer.simulators.{name}" for name in fsimformer.simulators.__all__}
    assert public <= set(names), public - set(names)


def resolved(name: str) -> Any:
    """What a dotted name stands for: attributes of the longest part of it that is a module."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        place = ".".join(parts[:k])
        try:
            found: Any = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if not place.startswith(str(error.name)):  # a module that needs what is not there
                raise
            continue
        for part in parts[k:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def test_reference_names_only_what_is_there() -> None:
    for name in described():
        resolved(name)
    with pytest.raises(AttributeError, match="Nothing"):
        resolved("fsimformer.recorded.Nothing")


def test_extras_on_the_page_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text(), re.MULTILINE)
    assert set(table) == set(extras)


def test_citation_has_the_version_of_the_package() -> None:
    entries = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert entries["version"] == project["version"]
    assert entries["title"] == project["name"]
    assert entries["license"] == project["license"]
