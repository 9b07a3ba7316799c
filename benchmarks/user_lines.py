"""Lines that somebody writes for three tasks with fsimformer, sbi and NumPyro: those of docs/compared.md.

A line counts if it is no blank line, comment or import, and does not stand in an earlier block of the same library:
what was written once is there. A comment behind code makes no other line of it. The page's table says the same, which a
test checks.

    python benchmarks/user_lines.py
"""

from __future__ import annotations

import re

from record import ROOT, no_arguments, save

PAGE = ROOT / "docs" / "compared.md"
_PART = re.compile(
    r"^## (?P<task>[^\n]+)$|^\*\*(?P<library>\w+)\*\*|^```(?:python|py)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def written(code: str) -> list[str]:
    """The lines of a block that count, without what stands behind them as a comment."""
    bare = [re.sub(r"\s+#.*$", "", line).rstrip() for line in code.splitlines()]
    return [line for line in bare if line and not re.match(r"\s*(#|import |from \S+ import )", line)]


def count(page: str) -> dict[str, dict[str, int]]:
    """task -> library -> lines."""
    out: dict[str, dict[str, int]] = {}
    before: dict[str, set[str]] = {}
    task = library = ""
    for part in _PART.finditer(page):
        if part["task"]:
            task, library = part["task"], ""
        elif part["library"]:
            library = part["library"]
        elif library and task:  # the data belong to no library
            lines, known = written(part["code"]), before.setdefault(library, set())
            new = sum(line not in known for line in lines)
            out.setdefault(task, {})[library] = out.get(task, {}).get(library, 0) + new
            known.update(lines)
    return out


def main() -> None:
    lines = count(PAGE.read_text())
    print(save("user_lines", 0, {"lines": lines, "n": 1, "monte_carlo_floor": None}))


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
