"""The package's face: every public name is there, at once or when it is asked for, whatever was imported before."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from distributed.protocol.pickle import dumps

import fsimformer
import fsimformer.public

ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    """In an interpreter of its own: here everything has been imported long ago."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_are_those_of_public() -> None:
    for name in fsimformer.public.__all__:
        assert getattr(fsimformer, name) is getattr(fsimformer.public, name)
    assert set(fsimformer.public.__all__) <= set(dir(fsimformer))
    with pytest.raises(AttributeError, match="module 'fsimformer' has no attribute 'tarin'"):
        fsimformer.tarin  # noqa: B018


def test_functions_that_are_called_like_modules_are_all_known() -> None:
    modules = {p.stem for p in (ROOT / "fsimformer").glob("*.py")} | {"simulators", "sbi"}
    both = modules & set(fsimformer.public.__all__)
    assert both - {"simulators"} == set(fsimformer._FUNCTIONS)
    assert isinstance(fsimformer.simulators, ModuleType)


def test_a_function_stays_one_when_its_module_was_imported_first() -> None:
    code = "import fsimformer.train, fsimformer.distill; from fsimformer.train import TrainConfig; "
    code += "print(fsimformer.train.__module__, fsimformer.TrainConfig is TrainConfig, fsimformer.distill.__module__)"
    assert run(code) == "fsimformer.learn True fsimformer.distill"


def test_it_is_sent_to_another_process_as_any_module() -> None:
    assert pickle.loads(pickle.dumps(fsimformer)) is fsimformer
    assert (
        pickle.loads(dumps(lambda: fsimformer))() is fsimformer
    )  # a simulator that uses it, as `simulate_to` sends it


def test_the_command_line_s_help_loads_no_numbers() -> None:
    """What takes seconds, `fsimformer --help` must do without."""
    code = "import sys; from fsimformer.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "print([m for m in ('torch', 'numpy', 'xarray', 'pandas', 'matplotlib') if m in sys.modules])"
    assert run(code).splitlines()[-1] == "[]"


def test_an_unknown_submodule_is_no_attribute_and_a_broken_one_says_why() -> None:
    assert not hasattr(fsimformer, "no_such_module")
    assert fsimformer.digest.digest is fsimformer.model_file.digest
