"""The house stands as design.md draws it: who may import whom, how long a file is, what never appears in one."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from may_import import MAY_IMPORT

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fsimformer"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(p for d in ("fsimformer", "examples", "benchmarks", "tests") for p in (ROOT / d).rglob("*.py"))

XARRAY = {
    "constraints",
    "density",
    "evaluate",
    "function_tree",
    *("units", "numeric", "labels", "schema", "points", "tables", "query", "tree", "convert", "archive", "simulators"),
    *("joint", "explicit", "refine", "files", "plots", "cli", "sbi", "recorded", "streamed", "check", "surprise"),
    *("plots_check", "report", "outline", "own", "existing", "pyro_lengths", "mode", "regions", "explorer"),
    *("plots_pairs", "cli_infer", "cli_plot", "cli_check"),
}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "__import__", "torch.load", "torch.save", "torch.jit.load"}
GLOBAL_RANDOM = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "randn_like"}
OWN_RANDOM = {"default_rng", "Generator", "SeedSequence", "RandomState"}
PICKLERS = ("multiprocessing.reduction", "distributed.protocol.pickle")
SENT = {  # a simulator crosses a pipe between two processes of ours, as multiprocessing would send it; no file does
    "child": {"multiprocessing.reduction.ForkingPickler"},
    "campaign": {"distributed.protocol.pickle.dumps"},
}
SEEDED = {
    "child.py": {"np.random.seed"},  # a black box may draw from global generators: its own process seeds them
    "sbi/conditional.py": {"torch.randint"},  # as sbi does: calls without a seed must not share their noise
}


def room(path: Path) -> str:
    """The module a file belongs to; every file of a sub-package belongs to the sub-package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str, package: str = "fsimformer") -> Iterator[str]:
    """Absolute dotted names that a file imports anywhere, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_imported(source: str, package: str = "fsimformer") -> set[str]:
    """Our own modules among them; the bare package counts as "fsimformer"."""
    ours = [name.split(".") for name in imports(source, package) if name.split(".")[0] == "fsimformer"]
    known = {room(p) for p in MODULES} | MAY_IMPORT.keys()
    return {parts[1] if len(parts) > 1 and parts[1] in known else "fsimformer" for parts in ours}


def calls(source: str) -> Iterator[tuple[str, set[str | None]]]:
    """Dotted name and keywords of every call whose target is a plain dotted name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            parts, target = [], node.func
            while isinstance(target, ast.Attribute):
                parts.append(target.attr)
                target = target.value
            if isinstance(target, ast.Name):
                yield ".".join([target.id, *reversed(parts)]), {k.arg for k in node.keywords}


def unsafe(source: str) -> set[str]:
    """What in a file could run code that a data file brings along."""
    found = {n for n in imports(source) if n.split(".")[0] in UNSAFE_MODULES or n.startswith(PICKLERS)}
    for name, keywords in calls(source):
        if name in UNSAFE_CALLS or (name.split(".")[-1] == "load" and "allow_pickle" in keywords):
            found.add(name)
    return found


def global_random(source: str) -> set[str]:
    """Calls that draw from torch's or numpy's global generator."""
    found = set()
    for name, keywords in calls(source):
        parts = name.split(".")
        if parts[0] == "torch" and parts[-1] in GLOBAL_RANDOM and len(parts) == 2 and "generator" not in keywords:
            found.add(name)
        if parts[:2] in (["np", "random"], ["numpy", "random"]) and parts[-1] not in OWN_RANDOM:
            found.add(name)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    here = room(path)
    assert here in MAY_IMPORT, f"{here} is no room of design.md's table; add it there and here, or move the code"
    package = ".".join(["fsimformer", *path.relative_to(PACKAGE).parts[:-1]])
    found = rooms_imported(path.read_text(), package) - {here}
    assert found <= MAY_IMPORT[here], f"{here} may import {sorted(MAY_IMPORT[here])}, not {sorted(found)}"


SHARED = {"protocol", "solver"}  # what simulators have in common
SAME_FIELD = {"hare_lynx": {"lotka_volterra"}}  # the same equations under another prior


@pytest.mark.parametrize("path", sorted((PACKAGE / "simulators").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_no_simulator_leans_on_another(path: Path) -> None:
    modules = {name.split(".")[2] for name in imports(path.read_text()) if name.startswith("fsimformer.simulators.")}
    assert modules <= SHARED | SAME_FIELD.get(path.stem, set())


@pytest.mark.parametrize(
    ("text", "home"),
    [
        ("get_close_matches", "spelling"),  # what is near a name that nobody knows
        ("MemoryError", "damage"),  # what libraries raise at a damaged file
        ("GROUPS = (", "groups"),  # of a tree of draws, in the order in which they are shown
        ("class Trained(", "model_file"),  # what has a model
    ],
)
def test_what_several_rooms_need_is_said_once(text: str, home: str) -> None:
    assert [room(path) for path in MODULES if text in path.read_text()] == [home]


def test_the_table_allows_nothing_that_is_not_used() -> None:
    """A room without a file, or an import that no file of a room makes, would let in unseen what nobody decided."""
    used: dict[str, set[str]] = {}
    for path in MODULES:
        package = ".".join(["fsimformer", *path.relative_to(PACKAGE).parts[:-1]])
        used.setdefault(room(path), set()).update(rooms_imported(path.read_text(), package) - {room(path)})
    assert MAY_IMPORT.keys() == used.keys()
    spare = {here: allowed - used[here] for here, allowed in MAY_IMPORT.items() if here in used}
    assert not any(spare.values()), {here: sorted(names) for here, names in spare.items() if names}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_xarray_stays_at_the_border(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(path.read_text())} & {"xarray", "pandas"}
    assert not found or room(path) in XARRAY, f"{found} in {room(path)}"


def test_declared_dependencies_are_those_that_are_imported() -> None:
    """Nothing undeclared, nothing declared in vain; an extra serves the rooms at the rim only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def distributions(entries: list[str]) -> set[str]:
        names = {entry.split(">")[0].replace("-", "_") for entry in entries}
        return {{"scikit_learn": "sklearn", "pyro_ppl": "pyro"}.get(name, name) for name in names}

    declared = distributions(project["dependencies"])
    optional = project["optional-dependencies"]
    extras = set().union(*(distributions(entries) for extra, entries in optional.items() if extra != "test"))
    found: dict[str, set[str]] = {}
    for path in MODULES:
        for name in imports(path.read_text()):
            found.setdefault(name.split(".")[0], set()).add(room(path))
    third_party = {k: v for k, v in found.items() if k not in sys.stdlib_module_names | {"fsimformer"}}
    assert declared <= third_party.keys(), f"declared and never imported: {declared - third_party.keys()}"
    rim = {
        *("diagnostics", "lc2st", "plots", "plots_check", "files", "sbi", "archive", "campaign", "streamed"),
        *("plots_pairs", "cli_plot", "pyro", "numpyro", "explorer"),
    }
    for name, rooms in third_party.items():
        assert name in declared or (name in extras and rooms <= rim), (name, rooms)


def test_the_table_has_no_circles() -> None:
    """Sorting the rooms so that each imports only earlier ones must succeed: no arrow sideways or up."""
    left = {k: v - {"fsimformer"} for k, v in MAY_IMPORT.items()}
    while left:
        free = [k for k, v in left.items() if not v & left.keys()]
        assert free, f"circle among {sorted(left)}"
        left = {k: v for k, v in left.items() if k not in free}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_short_and_named_after_its_noun(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in {"utils", "util", "helpers", "helper", "core", "common", "misc", "base"}
    assert path in MODULES or path.stem not in sys.stdlib_module_names, "a script so named hides a module of Python"


@pytest.mark.parametrize("path", [p for p in SOURCES if "tests" not in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    sent = SENT.get(room(path), set()) if path in MODULES else set()
    assert unsafe(path.read_text()) == sent


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_library_is_silent_and_takes_its_generator(path: Path) -> None:
    source = path.read_text()
    assert global_random(source) == SEEDED.get(path.relative_to(PACKAGE).as_posix(), set())
    if not room(path).startswith("cli"):
        assert "print" not in {name for name, _ in calls(source)}


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import fsimformer.nn", "fsimformer", {"nn"}),
        ("from fsimformer.nn import Backbone", "fsimformer", {"nn"}),
        ("from fsimformer import nn", "fsimformer", {"nn"}),
        ("from fsimformer import load", "fsimformer", {"fsimformer"}),
        ("from . import tokens", "fsimformer", {"tokens"}),
        ("from .tokens import split", "fsimformer", {"tokens"}),
        ("from ..whiten import prior_from_z", "fsimformer.simulators", {"whiten"}),
        ("from .protocol import Simulator", "fsimformer.simulators", {"simulators"}),
        ("def f():\n    from fsimformer.joint import Joint", "fsimformer", {"joint"}),
        ("import torch, xarray as xr", "fsimformer", set()),
    ],
)
def test_import_reader_sees_every_spelling(source: str, package: str, expected: set[str]) -> None:
    assert rooms_imported(source, package) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from multiprocessing.reduction import ForkingPickler",
        "def f():\n    from joblib import load",
        "torch.load('x')",
        "torch.save(x, 'x')",
        "np.load('x', allow_pickle=True)",
        "eval('1')",
        "exec(text)",
    ],
)
def test_unsafe_reader_rejects(source: str) -> None:
    assert unsafe(source)


def test_unsafe_reader_accepts_what_is_harmless() -> None:
    assert not unsafe("model.eval(); json.loads('1'); safetensors.torch.load_file('x'); np.load('x')")


def test_random_reader_tells_global_from_given() -> None:
    for bad in ("torch.randn(3)", "np.random.seed(0)", "torch.randn_like(x)"):
        assert global_random(bad), bad
    assert not global_random("torch.randn(3, generator=g); np.random.default_rng(0); rng.normal(0, 1)")
