"""`Describer`: Python objects as trees of plain values that say what they are by content.

A tree holds what decides what an object does: of functions their code, defaults, what they close over and the globals they
name; of objects their class (with methods and bases, where it is not installed) and attributes; of tensors and arrays
type, shape and a hash of all their values. What belongs to an installed package is known by its name: the version is
recorded elsewhere. A key `shown` is for people alone and takes no part in hashes and comparisons.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import hashlib
import importlib.util
import inspect
import json
import linecache
import logging
import math
import re
import sys
import textwrap
import threading
import types
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)
from torch.utils.hooks import RemovableHandle

from loopwright.content import code as bytecode
from loopwright.content.moved import Moved
from loopwright.content.tree import ABSENT, canonical, digest, same
from loopwright.record.source import is_installed

# Longer texts and collections are held by a hash and their first values.
_MOST_TEXT = 200
_MOST_ITEMS = 32
_MOST_VALUES = 16
_MOST_SOURCE = 2000
_MOST_NAMED = 200
# What is nested deeper is held by a hash: trees stay shallow enough for any recursive function.
_MOST_DEPTH = 50
_RECURSION = 10_000
# A collection with more in it than that is described at the first of its places only.
_LARGE = 64
_PLAIN = (bool, int, str)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_FUNCTIONS = (types.FunctionType, functools.partial, classmethod, staticmethod, property, functools.cached_property)
# What every module has; hooks among it are looked at by themselves.
_OF_MODULES = frozenset(vars(nn.Module())) | {"_forward_hooks_with_kwargs"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# What a module's namespace says about its place.
_OF_FILES = frozenset({"__name__", "__file__", "__package__", "__spec__", "__loader__", "__path__", "__cached__"})
# What every loader has; what decides its batches is looked at by itself.
_OF_LOADERS = frozenset(vars(DataLoader(TensorDataset(torch.zeros(1)))))
# Bases that call the methods of a class by position, as far as a training goes.
_BY_POSITION = {object, nn.Module, Dataset, IterableDataset, Sampler, BatchSampler}
Tree = Any


class Describer:
    """Describes the arguments of one training.

    `moved` knows what earlier trainings in this process have changed. `before` is an earlier description of the same
    objects: what has changed since is remembered in `moved`. `hashed` is one whose hashes of data still hold.
    `source=False` leaves out the source text.
    """

    def __init__(
        self,
        moved: Moved,
        *,
        before: Describer | None = None,
        hashed: Describer | None = None,
        source: bool = True,
    ) -> None:
        self.places: dict[int, dict[str, Tree]] = {}
        self.unknown: dict[str, str] = {}
        self._pending: list[tuple[str, str]] = []
        self._moved, self._source = moved, source
        self._before = None if before is None else before.places
        # Data are hashed once, although several arguments hold them, and are not hashed again after training.
        self._digests: dict[int, tuple[Any, Any, str]] = {} if hashed is None else hashed._digests
        self._keep: list[Any] = []
        self._homes: dict[int, str] = {}
        self._is_alone = False
        self._path: list[str] = []
        self._begin()

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

    def place(self, owner: Any, name: str, tree: Tree) -> Tree:
        """What stands at a place of an owner, or stood there before an earlier training."""
        tree = self._moved.before(owner, name, tree)
        if self._before is not None:
            before = self._before.get(id(owner), {}).get(name, ABSENT)
            if not same(before, tree):
                self._moved.remember(owner, name, tree, before)
            tree = before
        self.places.setdefault(id(owner), {})[name] = tree
        self._keep.append(owner)
        return tree

    def _begin(self) -> None:
        self._seen: dict[int, str] = {}
        self._kinds: Counter[str] = Counter()
        self._files: set[str] = set()
        self._open: dict[int, int] = {}
        self._depth = self._count = 0
        self._weights: set[int] = set()
        self._functions: list[tuple[dict[str, Any], types.CodeType, bool]] = []
        self._keywords: set[str] = set()
        self._any_keyword = False
        self._modes = True

    def _finish(self) -> None:
        """Fill in the code of every function, now that the keywords by which their parameters are passed are known."""
        self._fill_in(0, None if self._any_keyword else frozenset(self._keywords))

    def _fill_in(self, start: int, keywords: frozenset[str] | None) -> None:
        for node, code, by_name in self._functions[start:]:
            text = bytecode.text(code, None if by_name else keywords)
            node["code"] = digest(text.encode())
        del self._functions[start:]

    def _at_once(self, value: Any) -> tuple[Tree, str]:
        """A tree that is held by its text, so that its code cannot wait: names of all parameters count there."""
        start = len(self._functions)
        tree = self._describe(value)
        self._fill_in(start, None)
        return tree, canonical(tree)

    def _ordered(self, values: Iterable[Any]) -> list[Any]:
        """What has no order of its own, by what each is when nothing else is there."""
        return sorted(values, key=self._alone)

    def _alone(self, value: Any) -> str:
        plain = self._plain_text(value)
        if plain is not None or self._is_alone:  # within another one that is enough
            return plain or _name_of(type(value))
        alone = Describer(Moved(), hashed=self, source=False)
        alone._is_alone = True
        return canonical(alone._whole(self._path[0], value))

    @contextmanager
    def _at(self, name: str) -> Iterator[None]:
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    def _place(self, owner: Any, name: str, value: Any) -> Tree:
        with self._at(name):
            return self.place(owner, name, self._describe(value))

    def _places(self, owner: Any, values: Mapping[str, Any]) -> dict[str, Tree]:
        """Named places of one owner; those that a training has added are left out, those it removed are there."""
        trees = {name: self._place(owner, name, value) for name, value in sorted(values.items())}
        known = [*self._moved.names(owner), *(() if self._before is None else self._before.get(id(owner), ()))]
        for name in known:
            if name not in trees and not name.startswith("."):
                trees[name] = self.place(owner, name, ABSENT)
        return {name: tree for name, tree in sorted(trees.items()) if tree is not ABSENT}

    def _unknown(self, value: Any) -> dict[str, Tree]:
        self._pending.append((".".join(self._path), _name_of(type(value))))
        return {"unknown": True}

    def _settle(self, start: int) -> None:
        """What is unknown since `start` is to be named; objects of installed classes around it do not take it away."""
        self.unknown |= dict(self._pending[start:])
        del self._pending[start:]

    def _describe(self, value: Any) -> Tree:
        if value is None or type(value) in _PLAIN:
            return value if not isinstance(value, str) or len(value) <= _MOST_TEXT else _long_text(value)
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

    # Numbers and collections

    def _scalar(self, value: Any) -> Tree:
        if isinstance(value, bytes | bytearray):
            return {"bytes": len(value), "sha256": digest(bytes(value))}
        if isinstance(value, np.generic):
            return {"number": value.dtype.str, "value": str(value), "sha256": digest(value.tobytes())}
        return {"value": str(value) if isinstance(value, PurePath) else repr(value)}

    def _list(self, value: Any) -> Tree:
        with self._once(value) as again:
            if again:
                return again
            if len(value) <= _MOST_ITEMS:
                return [self._describe(item) for item in value]
            plain = self._plain_text(value)
            if plain is not None:
                shown = [item if type(item) in _PLAIN else repr(item)[:_MOST_TEXT] for item in value[:8]]
                return {"list": len(value), "shown": {"first": shown}, "sha256": digest(plain.encode())}
            content = hashlib.sha256()
            first = []
            for position, item in enumerate(value):
                tree, text = self._at_once(item)
                content.update(text.encode() + b",")
                if position < 2:
                    first.append(tree)
            return {"list": len(value), "shown": {"first": first}, "sha256": content.hexdigest()[:16]}

    def _plain_text(self, value: Any) -> str | None:
        """A long collection of plain values, nested or not, as JSON; None where it holds anything else."""
        try:
            text = json.dumps(value, sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            return None
        self._count += len(value) if isinstance(value, list | tuple | dict) else 1
        return text

    def _set(self, value: Iterable[Any]) -> Tree:
        items = self._ordered(value)
        if len(items) <= _MOST_ITEMS:
            return {"set": [self._describe(item) for item in items]}
        content = hashlib.sha256()
        for item in items:
            content.update(self._at_once(item)[1].encode() + b",")
        return {"set": len(items), "sha256": content.hexdigest()[:16]}

    def _mapping(self, value: Mapping[Any, Any]) -> Tree:
        with self._once(value) as again:
            if again:
                return again
            if all(type(key) is str for key in value):
                plain = self._plain_text(dict(value)) if len(value) > _MOST_NAMED else None
                if plain is not None:
                    return {"mapping": len(value), "sha256": digest(plain.encode())}
                named = {}
                for key in sorted(value):
                    with self._at(key):
                        named[key] = (
                            self._at_once(value[key])[1] if len(value) > _MOST_NAMED else self._describe(value[key])
                        )
                if len(named) > _MOST_NAMED:
                    return {"mapping": len(named), "sha256": digest(canonical(named).encode())}
                return {"mapping": named}
            texts = {key: self._plain_text(key) for key in value}
            # Keys that are objects stay in the order in which they were put there.
            keys = list(value) if None in texts.values() else sorted(value, key=lambda key: str(texts[key]))
            if len(keys) <= _MOST_ITEMS:
                return {"mapping": [[self._describe(key), self._describe(value[key])] for key in keys]}
            pairs = [[self._at_once(part)[1] for part in (key, value[key])] for key in keys]
            return {"mapping": len(pairs), "sha256": digest(canonical(pairs).encode())}

    @contextmanager
    def _once(self, value: Any) -> Iterator[Tree | None]:
        """A collection is described at each of its places, unless it is large, or holds itself."""
        kind, key = type(value).__name__, id(value)
        if key in self._seen:
            yield {"again": self._seen[key]}
            return
        if key in self._open:
            yield {"again": f"{kind} {len(self._open) - self._open[key]} up"}
            return
        self._open[key] = len(self._open)
        start = self._count
        try:
            yield None
        finally:
            del self._open[key]
        if self._count - start > _LARGE:
            self._see(value, kind)

    # Tensors and arrays

    def _tensor(self, value: Tensor) -> Tree:
        kind = str(value.dtype).removeprefix("torch.")
        if isinstance(value, UninitializedBuffer | UninitializedParameter):
            return {"tensor": "not initialised"}
        tree: dict[str, Any] = {"tensor": f"{kind}{list(value.shape)}"}
        hooks = [*(value._backward_hooks or {}).values()]
        hooks += [*(getattr(value, "_post_accumulate_grad_hooks", None) or {}).values()]
        hooks_tree = self.place(value, ".hooks", [self._describe(function) for function in hooks])
        if hooks_tree:
            tree["hooks"] = hooks_tree
        if type(value) not in _TENSORS:
            tree |= {"subclass": self._class(type(value)), "attributes": self._places(value, vars(value))}
        if isinstance(value, nn.Parameter):
            if id(value) in self._seen:  # tied: a step moves both
                return {"again": self._seen[id(value)]}
            self._see(value, "parameter")
            tree["requires_grad"] = value.requires_grad
            home = self._homes.setdefault(id(value), self._path[0])
            if home != self._path[0]:  # what training moves in one argument moves in the other
                tree["shared with"] = home
        if id(value) in self._weights or value.is_meta:
            return tree
        if value.layout is not torch.strided:
            dense = value.detach().cpu()
            parts = (
                (dense.coalesce().indices(), dense.coalesce().values())
                if value.layout is torch.sparse_coo
                else (dense.to_dense(),)
            )
            return {**tree, "layout": str(value.layout), "parts": [self._tensor(part) for part in parts]}
        return {**tree, **self._values(value, _version(value), lambda: _bytes_of(value), value.numel())}

    def _array(self, value: np.ndarray[Any, Any]) -> Tree:
        if isinstance(value, np.ma.MaskedArray):
            return {"masked": [self._array(np.asarray(value.data)), self._array(np.ma.getmaskarray(value))]}
        if value.dtype.hasobject:
            return {"array": f"{value.dtype}{list(value.shape)}", "items": self._list(value.reshape(-1).tolist())}
        # Of the same kind as a tensor, where there is such a tensor: it is the same data.
        kind = str(value.dtype) if value.dtype.names else value.dtype.name
        tree: dict[str, Any] = {"tensor": f"{kind}{list(value.shape)}"}
        if is_own_class(type(value)):
            tree |= {"subclass": self._class(type(value)), "attributes": self._places(value, vars(value))}
        return {**tree, **self._values(value, _checksum(value), lambda: np.ascontiguousarray(value), value.size)}

    def _values(self, value: Any, version: Any, data: Callable[[], Any], count: int) -> dict[str, Any]:
        known = self._digests.get(id(value))
        if known is None or known[0] is not value or known[1] != version:
            held = data()
            content = memoryview(held.reshape(-1).view(np.uint8)) if count else b""
            known = self._digests[id(value)] = (value, version, hashlib.sha256(content).hexdigest())
        tree: dict[str, Any] = {"sha256": known[2]}
        if 0 < count <= _MOST_VALUES:
            tree["shown"] = {"values": _listed(value)}
        return tree

    # Functions and classes

    def _function(self, function: types.FunctionType) -> Tree:
        if is_own_code(function):
            return self._own_function(function)
        tree: dict[str, Any] = {"function": f"{function.__globals__.get('__name__')}.{function.__code__.co_qualname}"}
        if id(function) in self._seen:
            return {"again": self._seen[id(function)]}
        compiled = getattr(function, "_torchdynamo_orig_callable", None)
        if compiled is not None:
            return {**tree, "of": self._describe(compiled)}
        if function.__closure__:
            self._see(function, "function")
        closed = self._closure(function)
        return {**tree, "closes_over": closed} if closed else tree

    def _own_function(self, function: types.FunctionType, by_name: bool = False) -> Tree:
        name = function.__qualname__.rpartition("<locals>.")[2]
        if id(function) in self._seen:
            return {"again": self._seen[id(function)]}
        self._see(function, "function")
        code = function.__code__
        tree: dict[str, Any] = {"function": "own", "code": None, "shown": {"name": name}}
        if self._source and (source := _source(code)):
            tree["shown"]["source"] = source
        self._functions.append((tree, code, by_name))
        found = bytecode.names(code)
        self._keywords |= found.keywords
        self._any_keyword |= found.any_keyword
        more = {
            "defaults": [
                {"value": self._place(function, f".default {position}", value), "shown": {"name": parameter}}
                for position, (parameter, value) in enumerate(_defaults(function))
            ],
            "keyword_defaults": {
                key: self._place(function, f".default {key}", item)
                for key, item in sorted((function.__kwdefaults__ or {}).items())
            },
            "closes_over": self._closure(function),
            "globals": self._globals(function.__globals__, found),
            "attributes": self._places(function, {k: v for k, v in vars(function).items() if k != "__wrapped__"}),
        }
        tree |= {key: value for key, value in more.items() if value}
        return tree

    def _closure(self, function: types.FunctionType) -> list[Tree]:
        """What a function closes over, in the order of its use."""
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        closed: list[Tree] = []
        for name in bytecode.free_variables(function.__code__):
            if name == "__class__" or name not in cells:
                continue
            try:
                value = cells[name].cell_contents
            except ValueError:
                closed.append({"unbound": True})
                continue
            with self._at(name):
                tree = self.place(cells[name], ".value", self._describe(value))
            closed.append({"value": tree, "shown": {"name": name}})
        return closed

    def _globals(self, namespace: dict[str, Any], found: bytecode.Names) -> dict[str, Tree]:
        """The globals that code names: those it reads from modules of one's own by attribute, too."""
        trees: dict[str, Tree] = {}
        for chain in found.globals:
            name, *attributes = chain
            if name in _OF_FILES:
                continue
            if name not in namespace:
                if not hasattr(builtins, name) and not name.startswith("__"):
                    trees[name] = {"unbound": True}
                continue
            owner: Any = namespace
            value, path = namespace[name], [name]
            while attributes and isinstance(value, types.ModuleType) and not _is_installed_module(value.__name__):
                path.append(attributes.pop(0))
                owner, value = value, getattr(value, path[-1], ABSENT)
            if attributes and attributes[0] in _plain_attributes(value):
                path.append(attributes.pop(0))
                owner, value = value, vars(value)[path[-1]]
            key = ".".join(path)
            if key not in trees:
                trees[key] = {"unbound": True} if value is ABSENT else self._place(owner, path[-1], value)
        for name, level, wanted in found.imports:
            package = namespace.get("__package__") or ""
            base = importlib.util.resolve_name("." * level + name, package) if level and package else name
            for module in (base, *(f"{base}.{inner}" for inner in wanted or ())):
                tree = self._module_file(module)
                if tree is not None:
                    trees[f"import {module}"] = tree
        return dict(sorted(trees.items()))

    def _module_file(self, name: str) -> Tree | None:
        """A module of one's own by the code of its file and of those that it imports; None for any other."""
        if _is_installed_module(name):
            return None
        try:
            module = sys.modules.get(name)
            file = module.__file__ if module is not None else getattr(importlib.util.find_spec(name), "origin", None)
            if not file or not file.endswith(".py") or is_installed(file):
                return None
            with open(file, encoding="utf-8") as source:
                code = compile(source.read(), file, "exec", dont_inherit=True)
        except (OSError, SyntaxError, ValueError, ImportError, AttributeError):
            return None
        if name in self._files:
            return {"again": name}
        self._files.add(name)
        tree: dict[str, Any] = {"module": name, "code": None}
        self._functions.append((tree, code, True))
        imported = {}
        for inner, level, wanted in bytecode.names(code).imports:
            base = importlib.util.resolve_name("." * level + inner, name.rpartition(".")[0] or name) if level else inner
            for each in (base, *(f"{base}.{one}" for one in wanted or ())):
                found = self._module_file(each)
                if found is not None:
                    imported[each] = found
        if imported:
            tree["imports"] = imported
        return tree

    def _class(self, cls: type) -> Tree:
        if not is_own_class(cls):
            return {"class": _name_of(cls)}
        if id(cls) in self._seen:
            return {"again": self._seen[id(cls)]}
        self._see(cls, "class")
        tree: dict[str, Any] = {"class": "own", "shown": {"name": cls.__qualname__.rpartition("<locals>.")[2]}}
        bases = [self._class(base) for base in cls.__bases__ if base is not object]
        # Methods are called by name where a base that is installed does the calling.
        by_name = any(not is_own_class(base) and base not in _BY_POSITION for base in cls.__mro__)
        methods, plain = {}, {}
        for name, member in sorted(vars(cls).items()):
            if isinstance(member, _FUNCTIONS):
                with self._at(name):
                    methods[name] = self._method(member, by_name)
            elif not (name.startswith("__") and name.endswith("__")) and not isinstance(
                member, types.MemberDescriptorType | types.GetSetDescriptorType
            ):
                plain[name] = member
        plain.pop("_abc_impl", None)
        more = {"bases": bases, "methods": methods, "attributes": self._places(cls, plain)}
        if not isinstance(cls, type) or type(cls) is not type:
            more["metaclass"] = self._class(type(cls))
        return {**tree, **{key: value for key, value in more.items() if value}}

    def _method(self, member: Any, by_name: bool) -> Tree:
        if isinstance(member, types.FunctionType):
            return self._own_function(member, by_name) if is_own_code(member) else self._function(member)
        if isinstance(member, staticmethod | classmethod):
            return {type(member).__name__: self._method(member.__func__, by_name)}
        if isinstance(member, property):
            parts = {"get": member.fget, "set": member.fset, "delete": member.fdel}
            return {"property": {key: self._method(part, by_name) for key, part in parts.items() if part is not None}}
        if isinstance(member, functools.cached_property):
            return {"cached_property": self._method(member.func, by_name)}
        return self._describe(member)

    # Objects

    def _object(self, value: Any) -> Tree:
        cls = type(value)
        name = cls.__qualname__.rpartition("<locals>.")[2]
        if id(value) in self._seen:
            return {"again": self._seen[id(value)]}
        own = is_own_class(cls)
        self._see(value, "object" if own else name)
        tree: dict[str, Any] = {"object": "own" if own else _name_of(cls)}
        if own:
            tree["class"] = self._class(cls)
            tree["shown"] = {"name": name}
        if type(value) is TensorDataset:
            return [self._describe(tensor) for tensor in value.tensors]  # the same data as a tuple of tensors
        if isinstance(value, nn.Module):
            start = len(self._pending)
            tree |= self._module(value)
            self._settle(start)
            return tree
        if isinstance(value, DataLoader):
            return {**tree, "attributes": self._loader(value)}
        state = self._state(value, own)
        return {**tree, **state}

    def _module(self, module: nn.Module) -> dict[str, Tree]:
        if isinstance(module, torch.jit.ScriptModule):
            return self._script(module)
        compiled = vars(module)["_modules"].get("_orig_mod")
        if compiled is not None and not is_own_class(type(module)):
            return {"compiled": self._describe(compiled)}
        held = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
        for kind in ("_parameters", "_buffers", "_modules"):
            held |= vars(module)[kind]
        tree: dict[str, Tree] = {"attributes": self._places(module, held)}
        hooks = [function for kind in _HOOKS for function in vars(module).get(kind, {}).values()]
        if hooks:
            tree["hooks"] = [self._describe(function) for function in hooks]
        children = list(vars(module)["_modules"])
        if children != sorted(children):  # the order in which a Sequential calls them
            tree["order"] = self.place(module, ".order", children)
        training = self.place(module, ".training", module.training)
        if not training and self._modes:
            tree["training"] = False
        return tree

    def _script(self, module: torch.jit.ScriptModule) -> dict[str, Tree]:
        texts: list[str] = []
        held: dict[str, Any] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for path, part in module.named_modules():
            if not isinstance(part, torch.jit.ScriptModule):
                continue
            texts.append(_MANGLED.sub("", part.code if hasattr(part, "forward") else ""))
            for name in _SCRIPT_ATTRIBUTE.findall(part._c.dump_to_str(False, True, False)):
                value = part._c.getattr(name)
                if name != "training" and isinstance(value, bool | int | float | str | list | tuple | dict):
                    held[f"{path}.{name}" if path else name] = value
        return {"code": digest("\n".join(texts).encode()), "attributes": self._places(module, held)}

    def _loader(self, loader: DataLoader[Any]) -> dict[str, Tree]:
        """What decides the batches; workers and memory do not, and the order of torch's own samplers is ours."""
        parts: dict[str, Any] = {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        if loader.worker_init_fn is not None:
            parts["worker_init_fn"] = loader.worker_init_fn
        parts |= {name: item for name, item in vars(loader).items() if name not in _OF_LOADERS}
        if isinstance(loader.dataset, IterableDataset):  # each worker reads a stream of its own
            parts |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
            parts |= {"num_workers": loader.num_workers} if loader.num_workers else {}
        elif loader.batch_size is None and loader.batch_sampler is not None:
            parts["batch_sampler"] = loader.batch_sampler
        else:
            parts |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
            parts["sampler"] = loader.sampler
        trees = {}
        for name, value in parts.items():
            with self._at(name):
                trees[name] = self._describe(value)
        sampler: Any = loader.sampler
        plain = type(sampler) in (RandomSampler, SequentialSampler) and len(sampler) == _length(loader.dataset)
        if "sampler" in parts and plain and not getattr(sampler, "replacement", False):
            del trees["sampler"]
            trees["shuffle"] = type(sampler) is RandomSampler
        return trees

    def _state(self, value: Any, own: bool) -> dict[str, Tree]:
        """The attributes of an object, or what pickling would say of it."""
        start = len(self._pending)
        if own or _has_plain_state(value):
            # An own class may stand on one of C, whose content is no attribute.
            tree = (self._reduced(value) if own and _is_reduced_by_a_base(type(value)) else None) or self._attributes(
                value
            )
            self._settle(start)
            return tree
        reduced = self._reduced(value)
        if reduced is None or len(self._pending) > start:
            # All is known of an object of an installed class, or nothing: half of what a tracker holds says little.
            del self._pending[start:]
            return self._unknown(value)
        return reduced

    def _attributes(self, value: Any) -> dict[str, Tree]:
        cls = type(value)
        state: Any = None
        if getattr(cls, "__getstate__", None) is not getattr(object, "__getstate__", None):
            try:
                state = value.__getstate__()  # what the class itself says its state is
            except Exception:
                state = None
        if not isinstance(state, dict) or not all(type(key) is str for key in state):
            state = dict(getattr(value, "__dict__", {}))
            for base in cls.__mro__:
                slots = base.__dict__.get("__slots__", ())
                for slot in (slots,) if isinstance(slots, str) else slots:
                    if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                        state[slot] = getattr(value, slot)
        if isinstance(value, Sampler):
            if isinstance(state.get("generator"), torch.Generator):  # the engine seeds it for each epoch
                del state["generator"]
            if type(value) in (RandomSampler, SequentialSampler):  # they ask for its length alone
                state["data_source"] = len(state["data_source"])
        tree: dict[str, Tree] = {"attributes": self._places(value, state)}
        if isinstance(value, dict):
            tree["items"] = self._mapping(dict(value))
        elif isinstance(value, list | tuple):
            tree["items"] = self._list(list(value))
        elif isinstance(value, set | frozenset):
            tree["items"] = self._set(value)
        elif isinstance(value, int | float | complex | str | bytes):
            tree["value"] = repr(value.__reduce_ex__(2)[1][1:]) if isinstance(value, bytes) else str(value)
        return tree

    def _reduced(self, value: Any) -> dict[str, Tree] | None:
        """An object of an installed class by its reduced form; None where it has none (a file, a connection)."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                registered = copyreg.dispatch_table.get(type(value))
                reduced = value.__reduce_ex__(4) if registered is None else registered(value)
        except Exception:
            return None
        if isinstance(reduced, str):
            return {"named": reduced}
        made, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        tree: dict[str, Tree] = {}
        given = [argument for argument in arguments if argument is not type(value)]
        if not getattr(made, "__name__", "").startswith("__newobj"):
            tree["made_by"] = self._describe(made)
        if given:
            tree["arguments"] = [self._describe(argument) for argument in given]
        if isinstance(state, dict) and all(type(key) is str for key in state):
            tree["attributes"] = self._places(value, state)
        elif state is not None:
            tree["state"] = self._describe(state)
        if items is not None:
            tree["items"] = self._list(list(items))
        if pairs is not None:
            ordered = isinstance(value, OrderedDict)
            tree["items"] = self._list([[*pair] for pair in pairs]) if ordered else self._mapping(dict(pairs))
        return tree

    def _see(self, value: Any, kind: str) -> None:
        """Give it a name for the places at which it stands again: which of two alike it is counts."""
        self._kinds[kind] += 1
        self._seen[id(value)] = f"{kind} {self._kinds[kind]}"
        self._keep.append(value)  # so that its id stays its own


_TENSORS = (Tensor, nn.Parameter, nn.Buffer, torch.nn.parameter.Buffer)
# Numbers that TorchScript adds to names, which count all that was compiled in a process; and the attributes of a dump.
_MANGLED = re.compile(r"___torch_mangle_\d+\.")
_SCRIPT_ATTRIBUTE = re.compile(r"^    (\w+) = ", re.MULTILINE)


def _defaults(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The defaults of the parameters that can be given by position, with their names."""
    held, code = function.__defaults__ or (), function.__code__
    return list(zip(code.co_varnames[code.co_argcount - len(held) : code.co_argcount], held, strict=True))


def is_own_code(function: types.FunctionType) -> bool:
    """Whether a function is the user's: neither installed, nor part of Python or of this package."""
    file = function.__code__.co_filename
    if file.startswith("<frozen"):
        return False
    if file.startswith("<") or not file.endswith(".py"):
        # A notebook, the interpreter, or code that a library generated: its globals say whose it is.
        return not _is_installed_module(str(function.__globals__.get("__name__")))
    return not is_installed(file)


def is_own_class(cls: type) -> bool:
    """Whether a class, or one that it stands on, is the user's: libraries make classes from those they are given."""
    # Of some types of extensions the module is a descriptor.
    return any(isinstance(base.__module__, str) and not _is_installed_module(base.__module__) for base in cls.__mro__)


def _is_installed_module(name: str) -> bool:
    root = name.partition(".")[0]
    if root in sys.builtin_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if isinstance(file, str):
        return is_installed(file)
    if name == "__main__":
        return False
    return root in sys.stdlib_module_names or _has_installed_file(root)


def _has_installed_file(root: str) -> bool:
    """A module without a file (a part of an extension, or one made at run time) is where its package is."""
    module = sys.modules.get(root)
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and is_installed(file)


def _has_plain_state(value: Any) -> bool:
    """Whether the attributes of an installed class's object are all there is to it, as pickling would have it."""
    cls = type(value)
    return isinstance(value, Dataset | Sampler) and "__reduce_ex__" not in _names_of(cls)


def _is_reduced_by_a_base(cls: type) -> bool:
    """Whether a base that is installed says by itself how its objects are pickled."""
    if issubclass(cls, Dataset | Sampler):
        return False
    installed = [base for base in cls.__mro__ if base is not object and not is_own_class(base)]
    return any(not {"__reduce__", "__reduce_ex__"}.isdisjoint(vars(base)) for base in installed)


def _plain_attributes(value: Any) -> Mapping[str, Any]:
    """The attributes that reading `value.name` simply returns."""
    if isinstance(value, type | types.ModuleType | types.FunctionType | nn.Module):
        return {}
    if isinstance(type(value).__getattribute__, types.FunctionType):
        return {}
    return {name: item for name, item in getattr(value, "__dict__", {}).items() if not hasattr(type(value), name)}


def _names_of(cls: type) -> set[str]:
    """The names that a class and its bases define, beyond those of every object."""
    return {name for base in cls.__mro__ if base is not object for name in vars(base)}


def _name_of(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _length(dataset: Any) -> int:
    return len(dataset) if hasattr(dataset, "__len__") else -1


def _version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except RuntimeError:  # a tensor of inference mode does not count its changes
        return None


def _bytes_of(tensor: Tensor) -> Any:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy()


def _checksum(array: np.ndarray[Any, Any]) -> int | None:
    """Says at a tenth of the cost of a hash whether training has changed an array, which counts no changes itself."""
    if not array.flags.writeable or not array.size:
        return None
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = len(data) // 8 * 8
    return int(data[:whole].view(np.uint64).sum(dtype=np.uint64)) + int(data[whole:].sum(dtype=np.uint64))


def _listed(value: Any) -> Any:
    """The values of a small tensor or array, for people."""
    plain = value.detach().cpu().tolist() if isinstance(value, Tensor) else value.tolist()
    return _finite(json.loads(json.dumps(plain, default=str)))


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _long_text(text: str) -> dict[str, Any]:
    return {"text": text[:80], "length": len(text), "sha256": digest(text.encode(errors="surrogatepass"))}


def _source(code: types.CodeType) -> str:
    """The lines of a function, for people; nothing where they are gone."""
    lines = linecache.getlines(code.co_filename)
    if not lines:
        return ""
    last = max(_last_lines(code), default=code.co_firstlineno)
    text = textwrap.dedent("".join(lines[code.co_firstlineno - 1 : last])).strip()
    return text if len(text) <= _MOST_SOURCE else text[:_MOST_SOURCE] + " ..."


def _last_lines(code: types.CodeType) -> Iterable[int]:
    yield from (place[1] for place in code.co_positions() if place[1] is not None)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _last_lines(constant)
