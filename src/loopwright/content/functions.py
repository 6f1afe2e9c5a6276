"""Functions and classes: their code, and what they close over, name and inherit."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import linecache
import sys
import textwrap
import types
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.utils.data import BatchSampler, Dataset, IterableDataset, Sampler

from loopwright.content import code as bytecode
from loopwright.content.ownership import is_installed_module, is_own_class, is_own_code, name_of
from loopwright.content.tree import ABSENT, Tree
from loopwright.content.values import Values
from loopwright.record.source import is_installed

_MOST_SOURCE = 2000
_FUNCTIONS = (types.FunctionType, functools.partial, classmethod, staticmethod, property, functools.cached_property)
# Functions that make annotations, from Python 3.14 on.
_ANNOTATIONS = frozenset({"__annotate__", "__annotate_func__"})
# What a module's namespace says about its place.
_OF_FILES = frozenset({"__name__", "__file__", "__package__", "__spec__", "__loader__", "__path__", "__cached__"})
# Bases that call the methods of a class by position, as far as a training goes.
_BY_POSITION = {object, nn.Module, Dataset, IterableDataset, Sampler, BatchSampler}


class Functions(Values):
    """Describes what is called."""

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
            while attributes and isinstance(value, types.ModuleType) and not is_installed_module(value.__name__):
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
        if is_installed_module(name):
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
            return {"class": name_of(cls)}
        if id(cls) in self._seen:
            return {"again": self._seen[id(cls)]}
        self._see(cls, "class")
        tree: dict[str, Any] = {"class": "own", "shown": {"name": cls.__qualname__.rpartition("<locals>.")[2]}}
        bases = [self._class(base) for base in cls.__bases__ if base is not object]
        # Methods are called by name where a base that is installed does the calling.
        by_name = any(not is_own_class(base) and base not in _BY_POSITION for base in cls.__mro__)
        methods, plain = {}, {}
        for name, member in sorted(vars(cls).items()):
            if name in _ANNOTATIONS:
                continue
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


def _defaults(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The defaults of the parameters that can be given by position, with their names."""
    held, code = function.__defaults__ or (), function.__code__
    return list(zip(code.co_varnames[code.co_argcount - len(held) : code.co_argcount], held, strict=True))


def _plain_attributes(value: Any) -> Mapping[str, Any]:
    """The attributes that reading `value.name` simply returns."""
    if isinstance(value, type | types.ModuleType | types.FunctionType | nn.Module):
        return {}
    if isinstance(type(value).__getattribute__, types.FunctionType):
        return {}
    return {name: item for name, item in getattr(value, "__dict__", {}).items() if not hasattr(type(value), name)}


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
