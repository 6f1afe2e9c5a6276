"""What a code object does, as text, and what it names outside itself.

Two functions of one text do the same: docstrings, comments, line numbers, the module and the names of locals are not in
it. It is made of bytecode, so texts can be compared within one minor version of Python only.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any

# They do nothing, or say what the names of the variables say already.
_SILENT = frozenset({"NOP", "RESUME", "CACHE", "EXTENDED_ARG", "MAKE_CELL", "COPY_FREE_VARS", "NOT_TAKEN"})
# What the body of a class says about its place in the source.
_PLACE = frozenset({"__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"})
_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_KINDS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)
_STEP = re.compile(r"(?:LOAD|STORE)_FAST(?:_BORROW)?")
# One list in some versions of Python, two in others.
_JUMPS = frozenset(code for kind in ("hasjump", "hasjrel", "hasjabs") for code in getattr(dis, kind, ()))
# The flag of CALL_FUNCTION_EX that says there is a mapping of keywords.
_WITH_MAPPING = 1


@dataclass
class Names:
    """What code names outside itself.

    `globals` are chains: ("helpers", "focal") for `helpers.focal`. `imports` are (module, level, names) of imports inside
    the code. `keywords` are names that calls may pass arguments by; `any_keyword` where a call takes them from a mapping.
    """

    globals: dict[tuple[str, ...], None] = field(default_factory=dict)
    imports: dict[tuple[str, int, tuple[str, ...]], None] = field(default_factory=dict)
    keywords: set[str] = field(default_factory=set)
    any_keyword: bool = False


@lru_cache(maxsize=4096)
def _instructions(code: CodeType) -> tuple[dis.Instruction, ...]:
    """Taking an instruction apart costs 4 us, and each is looked at several times."""
    return tuple(dis.get_instructions(code))


def names(code: CodeType) -> Names:
    """What a code object and those inside it name."""
    found = Names()
    _collect(code, found)
    return found


def free_variables(code: CodeType) -> list[str]:
    """What a function closes over, in the order in which it is used (Python orders them by name)."""
    root = _Scope(code, frozenset(), None)
    _lines(root)
    return [*root.free, *(name for name in code.co_freevars if name not in root.free)]


@lru_cache(maxsize=4096)
def text(code: CodeType, keywords: frozenset[str] | None = frozenset()) -> str:
    """What a code object does. Names of parameters are in it where they are among `keywords`; all of them with None."""
    return "\n".join(_lines(_Scope(code, keywords, None)))


@dataclass
class _Scope:
    """The variables of one code object, numbered in the order of their use."""

    code: CodeType
    keywords: Collection[str] | None
    outer: _Scope | None
    local: dict[str, str] = field(default_factory=dict)
    free: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for position, name in enumerate(self.parameters):
            self.local[name] = f"p{position}"

    @property
    def parameters(self) -> tuple[str, ...]:
        code = self.code
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        return code.co_varnames[:count]

    def variable(self, name: str) -> str:
        if name not in self.code.co_freevars:
            return self.local.setdefault(name, f"v{len(self.local)}")
        if name == "__class__":
            return "__class__"
        if self.outer is not None:
            return f"outer {self.outer.variable(name)}"
        return self.free.setdefault(name, f"f{len(self.free)}")


def _lines(scope: _Scope) -> list[str]:
    code = scope.code
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _KINDS)
    called = [name for name in scope.parameters if scope.keywords is None or name in scope.keywords]
    by_name = " ".join(f"{scope.variable(name)}={name}" for name in called)
    lines = [f"parameters {counts} {by_name}"]
    kept: list[dis.Instruction] = []
    number_at: dict[int, int] = {}
    number = 0
    for instruction in _instructions(code):
        number_at[instruction.offset] = number
        if instruction.opname in _SILENT or _makes_closure(instruction, code):
            continue
        if instruction.opname == "STORE_NAME" and instruction.argval in _PLACE and kept:
            number -= len(_steps(kept.pop()))  # with what is stored
            continue
        kept.append(instruction)
        number += len(_steps(instruction))
    for instruction in kept:
        steps = _steps(instruction)
        if len(steps) == 1:
            lines.append(f"{instruction.opname} {_operand(instruction, scope, number_at)}")
        else:
            named = zip(steps, _variables(instruction), strict=True)
            lines += [f"{step} {scope.variable(name)}" for step, name in named]
    entries: Any = dis.Bytecode(code).exception_entries if code.co_exceptiontable else ()  # type: ignore[attr-defined]
    for entry in entries:
        places = [number_at.get(offset, number) for offset in (entry.start, entry.end, entry.target)]
        lines.append(f"except {places} {entry.depth} {entry.lasti}")
    return lines


def _steps(instruction: dis.Instruction) -> list[str]:
    """The names of an instruction, two where it does the work of two: Python joins them where they stand in one line."""
    joined = isinstance(instruction.argval, tuple) and instruction.opcode in dis.haslocal
    return _STEP.findall(instruction.opname) if joined else [instruction.opname]


def _makes_closure(instruction: dis.Instruction, code: CodeType) -> bool:
    """Whether it loads a cell for an inner function, which happens in the order of names; the inner text says which."""
    if instruction.opname == "LOAD_CLOSURE":
        return True
    if not instruction.opname.startswith("LOAD_FAST"):
        return False
    cells = {*code.co_cellvars, *code.co_freevars}
    return all(name in cells for name in _variables(instruction))


def _variables(instruction: dis.Instruction) -> tuple[str, ...]:
    """One name, or two of an instruction that loads or stores two."""
    value: Any = instruction.argval
    return value if isinstance(value, tuple) else (value,)


def _operand(instruction: dis.Instruction, scope: _Scope, number_at: dict[int, int]) -> str:
    opcode, value = instruction.opcode, instruction.argval
    if opcode in dis.hasconst:
        return _constant(_constant_of(instruction, scope.code), scope)
    if opcode in dis.haslocal or opcode in dis.hasfree:
        return " ".join(scope.variable(name) for name in _variables(instruction))
    if opcode in dis.hasname:
        return str(value)
    if opcode in _JUMPS:
        return f"to {number_at.get(value, -1)}"
    return "" if instruction.arg is None else str(instruction.arg)


def _constant_of(instruction: dis.Instruction, code: CodeType) -> Any:
    """The constant of an instruction; `dis` leaves out the names of keywords."""
    return code.co_consts[instruction.arg or 0] if instruction.opname == "KW_NAMES" else instruction.argval


def _constant(value: Any, scope: _Scope) -> str:
    if isinstance(value, CodeType):
        inner = "\n".join(_lines(_Scope(value, scope.keywords, scope)))
        return f"code {{\n{inner}\n}}"
    if isinstance(value, tuple):
        return f"({', '.join(_constant(item, scope) for item in value)})"
    if isinstance(value, frozenset):  # in an order that does not depend on the seed of string hashes
        return f"frozenset({', '.join(sorted(_constant(item, scope) for item in value))})"
    return f"{type(value).__name__} {value!r}"


def _collect(code: CodeType, found: Names) -> None:
    instructions = [one for one in _instructions(code) if one.opname not in _SILENT]
    for place, instruction in enumerate(instructions):
        name = instruction.opname
        if name in _GLOBALS:
            found.globals[(instruction.argval, *_attributes(instructions, place + 1))] = None
        elif name == "IMPORT_NAME":
            # In front of it stand the level of a relative import and the names that are imported.
            level, wanted = instructions[place - 2].argval, instructions[place - 1].argval
            found.imports[(instruction.argval, level if isinstance(level, int) else 0, wanted or ())] = None
        elif name == "CALL_FUNCTION_EX":
            # Since 3.14 there is always a place for the mapping; in doubt there is one.
            found.any_keyword |= instruction.arg is None or bool(instruction.arg & _WITH_MAPPING)
        elif instruction.opcode in dis.hasconst:
            value = _constant_of(instruction, code)
            if isinstance(value, tuple) and value and all(isinstance(item, str) for item in value):
                found.keywords.update(value)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _collect(constant, found)


def _attributes(instructions: list[dis.Instruction], start: int) -> Iterator[str]:
    for instruction in instructions[start:]:
        if instruction.opname not in _ATTRIBUTES:
            return
        yield instruction.argval
