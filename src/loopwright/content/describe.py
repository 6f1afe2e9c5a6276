"""`Describer`: Python objects as trees of plain values that say what they are by content.

A tree holds what decides what an object does: of functions their code, defaults, what they close over and the globals they
name; of objects their class (with methods and bases, where it is not installed) and attributes; of tensors and arrays
type, shape and a hash of all their values. What belongs to an installed package is known by its name: the version is
recorded elsewhere. A key `shown` is for people alone and takes no part in hashes and comparisons.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import sys
import threading
import types
import weakref
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from loopwright.content.objects import Objects
from loopwright.content.ownership import is_own_class
from loopwright.content.tree import Tree, digest
from loopwright.content.values import MOST_TEXT, PLAIN, long_text

# What is nested deeper is held by a hash: trees stay shallow enough for any recursive function.
_MOST_DEPTH = 50
_RECURSION = 10_000
_LOCKS = (type(threading.Lock()), type(threading.RLock()))


class Describer(Objects):
    """Describes the arguments of one training.

    `moved` knows what earlier trainings in this process have changed. `before` is an earlier description of the same
    objects: what has changed since is remembered in `moved`. `hashed` is one whose hashes of data still hold.
    `source=False` leaves out the source text.
    """

    def describe(self, name: str, value: Any) -> Tree:
        """The tree of one argument."""
        self._begin()
        return self._whole(name, value)

    def model(self, name: str, model: nn.Module) -> Tree:
        """The tree of a module whose first weights are identified by a hash of their own: theirs are left out.

        The engine puts a module that is in evaluation mode into training mode, with all that is in it.
        """
        self._begin()
        self._weights |= {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
        self._modes = bool(self.place(model, ".training", model.training))
        return self._whole(name, model)

    def _whole(self, name: str, value: Any) -> Tree:
        self._path = [name]
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _RECURSION))
        try:
            tree = self._describe(value)
        except RecursionError:
            self._pending, tree = [(name, "nested too deeply")], {"unknown": True}
        finally:
            sys.setrecursionlimit(limit)
        self._settle(0)
        self._finish()
        return tree

    def _describe(self, value: Any) -> Tree:
        if value is None or type(value) in PLAIN:
            return value if not isinstance(value, str) or len(value) <= MOST_TEXT else long_text(value)
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        self._count += 1
        if self._depth >= _MOST_DEPTH:
            depth, self._depth = self._depth, 0
            try:
                return {"nested": type(value).__name__, "sha256": digest(self._at_once(value)[1].encode())}
            finally:
                self._depth = depth
        self._depth += 1
        try:
            return self._other(value)
        except RecursionError:
            raise
        except Exception:  # a class of one's own may raise anything when it is looked at
            return self._unknown(value)
        finally:
            self._depth -= 1

    def _other(self, value: Any) -> Tree:
        if isinstance(value, Tensor):
            with torch._C.DisableTorchFunctionSubclass():
                return self._tensor(value)
        if isinstance(value, np.ndarray):
            return self._array(value)
        if type(value) in (list, tuple, torch.Size):
            return self._list(value)
        if type(value) in (dict, types.MappingProxyType):
            return self._mapping(value)
        if type(value) in (set, frozenset):
            with self._once(value) as again:
                return again or self._set(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return {"method": self._describe(value.__func__), "of": self._describe(value.__self__)}
        if isinstance(value, types.BuiltinFunctionType):
            of = value.__self__
            named = {"function": f"{getattr(value, '__module__', None) or 'builtins'}.{value.__qualname__}"}
            return named if of is None or isinstance(of, types.ModuleType) else {**named, "of": self._describe(of)}
        if isinstance(value, torch.jit.ScriptFunction):
            return {"function": "script", "code": digest(str(value.code).encode())}
        if inspect.isroutine(value) and hasattr(value, "__qualname__") and not is_own_class(type(value)):
            if hasattr(value, "__wrapped__"):  # a cache
                return {"cached": self._describe(value.__wrapped__)}
            # Of an extension: a descriptor, a Cython function.
            return {"function": f"{getattr(value, '__module__', None) or 'builtins'}.{value.__qualname__}"}
        if isinstance(value, types.ModuleType):
            return self._module_file(value.__name__) or {"module": value.__name__}
        if isinstance(value, functools.partial):
            self._keywords.update(value.keywords)
            return {
                "partial": self._describe(value.func),
                "arguments": [self._describe(item) for item in value.args],
                "keywords": {key: self._describe(item) for key, item in sorted(value.keywords.items())},
            }
        if isinstance(value, complex | bytes | bytearray | np.generic | types.EllipsisType | PurePath):
            return self._scalar(value)
        if isinstance(value, torch.dtype | torch.device | torch.layout):
            return {"torch": str(value)}
        if isinstance(value, torch.Generator):
            return {"generator": str(value.device), "sha256": digest(value.get_state().numpy().tobytes())}
        if isinstance(value, RemovableHandle):
            return {"object": "handle of a hook"}  # a number that counts all hooks of a process
        if isinstance(value, weakref.ref):
            return {"weak": self._describe(value())}
        if isinstance(value, _LOCKS):
            return {"object": "lock"}
        if isinstance(value, logging.Logger | logging.LoggerAdapter):  # named after the module it stands in
            return {"object": "logger"}
        return self._object(value)
