"""How Sphinx builds the site: `make docs`, warnings are errors.

Pages are Markdown (MyST); the reference comes from the docstrings. The docstrings of this package are plain text with
code between single backticks, and so they stay readable in an editor; `as_rest` makes reStructuredText of them.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = PROJECT["name"]
author = copyright = "The fsimformer developers"
version = release = PROJECT["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fsimformer {release}"
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # links to headings by their GitHub anchors; tests/test_docs.py checks them
suppress_warnings = ["myst.header"]  # the tables that benchmarks/tables.py writes skip a level

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True  # "100_000", and no tensors of constants
add_module_names = False
maximum_signature_line_length = 88
napoleon_numpy_docstring = False

_CODE = re.compile(r"(``?)([^`]+)\1")


def as_rest(line: str) -> str:
    """Code in double backticks; outside of it what reStructuredText would take for markup is meant as it stands."""
    out, end = [], 0
    for found in _CODE.finditer(line):
        out += [_escape(line[end : found.start()]), f"``{found[2]}``"]
        end = found.end()
    return "".join([*out, _escape(line[end:])])


def _escape(text: str) -> str:
    return re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", text)


def _plain_docstrings(
    app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:  # signature of Sphinx's event
    lines[:] = [as_rest(line) for line in lines]
    if what == "property":
        lines.insert(0, "")  # napoleon takes a first line "a: b" for a type and a text


def _plain_signature(
    app: Any, what: str, name: str, obj: object, options: Any, given: str | None, returned: str | None
) -> Any:
    """`<factory>` is no Python, so that Sphinx would not read the types beside it; nobody calls a protocol."""
    if given is None:  # what has no signature, a property
        return None
    return "" if getattr(obj, "_is_protocol", False) else given.replace("<factory>", "..."), returned


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _plain_docstrings, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-signature", _plain_signature)
