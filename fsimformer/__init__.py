"""fsimformer: simulation-based inference with functional parameters and irregular, incomplete observations.

Nothing is imported before it is used, so that `fsimformer --help` need not wait for torch: the names are those of
`fsimformer.public`, which is loaded with the first of them; submodules are loaded by their own names.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsimformer.public import *  # noqa: F403

_FUNCTIONS = ("distill", "recorded", "train")  # named like the modules that they come with


class _Package(ModuleType):
    """Importing a submodule binds its name in the package; `fsimformer.train` stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _FUNCTIONS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Another process imports it: dask sends it along with a simulator that uses it."""
        return importlib.import_module, (self.__name__,)


def __getattr__(name: str) -> Any:
    place = f"{__name__}.{name}"
    if name == "__all__":
        return list(importlib.import_module(f"{__name__}.public").__all__)
    if name.startswith("_"):  # what copy and inspect ask for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _FUNCTIONS:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name != place:  # a submodule that needs an extra
                raise
    public = importlib.import_module(f"{__name__}.public")
    if name not in public.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(public, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module(f"{__name__}.public").__all__})


sys.modules[__name__].__class__ = _Package
