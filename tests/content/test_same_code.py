"""What of a function's code counts: what it does; not its names, comments, lines or docstring."""

from __future__ import annotations

from types import CodeType, FunctionType
from typing import Any

import pytest

from loopwright.content.code import names, text


def code(source: str, **namespace: Any) -> CodeType:
    """The code of the one function that a source defines."""
    held: dict[str, Any] = dict(namespace)
    exec(compile(source, "<test>", "exec"), held)
    (function,) = (value for value in held.values() if isinstance(value, FunctionType))
    return function.__code__


PLAIN = """
def loss(p, t):
    d = p - t
    squares = [d * x for x in p]
    for i in range(3):
        try:
            d = d + i
        except ValueError as error:
            print(error)
    def inner(z, k=1):
        return z + d + squares[0] + k
    return inner(d)
"""
DISGUISED = '''
def another(prediction, target):
    """What it is for."""
    # a comment
    zz = prediction - target

    a = [zz * y for y in prediction]  # of lists
    for number in range(3):


        try:
            zz = (zz
                  + number)
        except ValueError as problem:
            print(
                problem
            )
    def b(value, k=1):
        "inside"
        return value + zz + a[0] + k
    return b(zz)
'''


def test_names_of_locals_comments_lines_and_docstrings_do_not_count() -> None:
    assert text(code(PLAIN)) == text(code(DISGUISED))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(p, t): return (p - t).abs()", "def f(p, t): return (p - t).square()"),
        ("def f(p, t): return p - t", "def f(p, t): return t - p"),
        ("def f(p, t): return (p - t) * 2", "def f(p, t): return (p - t) * 2.0"),
        ("def f(p, t): return (p - t) * 1", "def f(p, t): return (p - t) * True"),
        ("def f(p, t): return p * 0.0", "def f(p, t): return p * -0.0"),
        ("def f(p, t): return p if t > 0 else t", "def f(p, t): return p if t >= 0 else t"),
        ("def f(p, t): return [x + 1 for x in p]", "def f(p, t): return [x + 2 for x in p]"),
        ("def f(p, t): return (lambda z: z * p)(t)", "def f(p, t): return (lambda z: z * t)(t)"),
        ("def f(p, t): return p in {'a', 'b'}", "def f(p, t): return p in {'a', 'c'}"),
        ("def f(p, t): return g(p, beta=t)", "def f(p, t): return g(p, gamma=t)"),
        (
            "def f(p, t):\n  a = p; b = t\n  return (lambda: a)()",
            "def f(p, t):\n  a = p; b = t\n  return (lambda: b)()",
        ),
        (
            "def f(p, t):\n  try: return p\n  except ValueError: return t",
            "def f(p, t):\n  try: return p\n  except TypeError: return t",
        ),
        ("def f(p, t):\n  while p: p -= 1\n  return t", "def f(p, t):\n  if p: p -= 1\n  return t"),
        ("def f(p, *t): return t", "def f(p, t): return t"),
        ("def f(p, t): return t", "async def f(p, t): return t"),
        ("def f(p, t):\n  class A:\n    x = 1\n  return A", "def f(p, t):\n  class A:\n    x = 2\n  return A"),
    ],
)
def test_what_a_function_does_counts(one: str, other: str) -> None:
    assert text(code(one)) == text(code(one))
    assert text(code(one)) != text(code(other))


def test_classes_inside_functions_are_the_same_wherever_they_stand() -> None:
    plain = "def f():\n  class A:\n    x = 1\n    def m(self): return self.x\n  return A"
    moved = "\n\ndef g():\n  class A:\n    'a docstring'\n    x = 1\n    def m(this):\n      return this.x\n  return A"
    assert text(code(plain)) == text(code(moved))


def test_parameters_count_by_name_where_they_are_given_by_name() -> None:
    plain, swapped = code("def f(a, b): return a / b"), code("def f(b, a): return b / a")
    assert text(plain) == text(swapped)  # called by position the two do the same
    assert text(plain, frozenset({"a"})) != text(swapped, frozenset({"a"}))
    assert text(plain, None) != text(swapped, None)


def test_what_code_names_is_found() -> None:
    found = names(
        code(
            "def f(p):\n  import os.path\n  from .near import thing\n"
            "  return [helpers.focal(q, gamma=ALPHA, **p) for q in p if print(q)]"
        )
    )
    assert {("helpers", "focal"), ("ALPHA",), ("print",)} <= found.globals.keys()
    assert [*found.imports] == [("os.path", 0, ()), ("near", 1, ("thing",))]
    assert found.any_keyword
    plain = names(code("def f(p): return g(p, gamma=2)"))
    assert "gamma" in plain.keywords and not plain.any_keyword
