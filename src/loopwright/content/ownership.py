"""Whose code is it: the user's own, which counts by what it does, or an installed package's, which counts by its name."""

from __future__ import annotations

import sys
import types

from loopwright.record.source import is_installed


def is_own_code(function: types.FunctionType) -> bool:
    """Whether a function is the user's: neither installed, nor part of Python or of this package."""
    file = function.__code__.co_filename
    if file.startswith("<frozen"):
        return False
    if file.startswith("<") or not file.endswith(".py"):
        # A notebook, the interpreter, or code that a library generated: its globals say whose it is.
        return not is_installed_module(str(function.__globals__.get("__name__")))
    return not is_installed(file)


def is_own_class(cls: type) -> bool:
    """Whether a class, or one that it stands on, is the user's: libraries make classes from those they are given."""
    # Of some types of extensions the module is a descriptor.
    return any(isinstance(base.__module__, str) and not is_installed_module(base.__module__) for base in cls.__mro__)


def is_installed_module(name: str) -> bool:
    if name == "__main__":  # what a notebook's kernel or a test runner was started from is installed, its cells are not
        return False
    root = name.partition(".")[0]
    if root in sys.builtin_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if isinstance(file, str):
        return is_installed(file)
    return root in sys.stdlib_module_names or _has_installed_file(root)


def _has_installed_file(root: str) -> bool:
    """A module without a file (a part of an extension, or one made at run time) is where its package is."""
    module = sys.modules.get(root)
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and is_installed(file)


def names_of(cls: type) -> set[str]:
    """The names that a class and its bases define, beyond those of every object."""
    return {name for base in cls.__mro__ if base is not object for name in vars(base)}


def name_of(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
