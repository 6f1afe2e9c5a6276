"""The keys below `task` of the regex task, and what they have to be."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.node import Node, frozen, setting
from loopwright.config.registry import nearest
from loopwright.tasks.regex.compile import PatternError, compile_fsm
from loopwright.tasks.regex.corpus import Ratios
from loopwright.tasks.regex.fsm import INCOMPLETE, REJECT
from loopwright.tasks.regex.sampling import REJECT_KINDS

ACCEPT = "accept"
Alphabet = str | tuple[str, ...]
Pattern = str | tuple[tuple[str, str], ...]
_Shares = Annotated[dict[str, float], Field(min_length=1), AfterValidator(frozen)]


class RegexData(Node):
    """Which strings are drawn, and how they are split."""

    samples: int = setting(2000, "strings to draw; duplicates are allowed within a split", ge=1, le=1_000_000)
    lengths: tuple[int, int] = setting((1, 20), "shortest and longest string in symbols, each length equally likely")
    p_class: _Shares | None = setting(
        None, "share of each class; null: 0.3 incomplete, 0.3 reject, 0.4 for the accepted classes in equal parts"
    )
    p_reject: _Shares | None = setting(
        None, "share of each kind among the rejected strings, of: " + ", ".join(REJECT_KINDS) + "; null: equal ones"
    )
    split: Ratios = setting((0.8, 0.1, 0.1), "shares of train, val and test among the hashes of all strings")
    seed: int = setting(0, "draws the strings", ge=0)

    @field_validator("lengths")
    @classmethod
    def _lengths_are_a_range(cls, lengths: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= lengths[0] <= lengths[1]:
            raise PydanticCustomError("lengths", "give the shortest, at least 1, then the longest, for example [1, 20]")
        return lengths

    @field_validator("split", "p_class", "p_reject")
    @classmethod
    def _shares_are_whole(
        cls, shares: Mapping[str, float] | Ratios | None, info: ValidationInfo
    ) -> Mapping[str, float] | Ratios | None:
        values = shares.values() if isinstance(shares, Mapping) else shares or ()
        if any(share < 0 or (share == 0 and info.field_name == "split") for share in values):
            raise PydanticCustomError("shares", "a share is below 0, or a split without any; give each a share")
        if shares is not None and abs(sum(values) - 1) > 1e-6:
            raise PydanticCustomError("shares", "the shares sum to {total}; make them sum to 1", {"total": sum(values)})
        return shares

    @field_validator("p_reject")
    @classmethod
    def _kinds_are_known(cls, shares: Mapping[str, float] | None) -> Mapping[str, float] | None:
        return known(shares, REJECT_KINDS, "kind of rejection")


class RegexLoss(Node):
    """total = lambda_next next + lambda_class class + lambda_state state + l1_u |U|_1; cross-entropies in nats."""

    lambda_next: float = setting(1.0, "weight of the next token's cross-entropy", ge=0)
    lambda_class: float = setting(1.0, "weight of the cross-entropy of the state's class", ge=0)
    lambda_state: float = setting(0.0, "weight of the state's cross-entropy; 0: the model has no head for it", ge=0)
    l1_u: float = setting(0.0, "weight of |U|_1 of a factorised embedding (model.embedding_rank)", ge=0)

    @model_validator(mode="after")
    def _something_is_learnt(self) -> RegexLoss:
        if not (self.lambda_next or self.lambda_class or self.lambda_state):
            raise PydanticCustomError("weights", "every cross-entropy has weight 0; give one of them a weight above 0")
        return self

    def weights(self) -> dict[str, float]:
        """The weight of each head's cross-entropy; the heads of the model."""
        state = {"state": self.lambda_state} if self.lambda_state > 0 else {}
        return {"next": self.lambda_next, "class": self.lambda_class, **state}


def pairs_of(pattern: Pattern) -> tuple[tuple[str, str], ...]:
    """The (pattern, class name) pairs; what a single pattern accepts is called `accept`."""
    return ((pattern, ACCEPT),) if isinstance(pattern, str) else pattern


def check_alphabet(alphabet: Alphabet) -> Alphabet:
    """The alphabet itself; PydanticCustomError unless its symbols are single characters, each there once."""
    if not alphabet:
        raise PydanticCustomError("alphabet", "give it at least one symbol")
    for symbol in alphabet:
        shown = {"symbol": repr(symbol)}
        if len(symbol) != 1:
            raise PydanticCustomError("alphabet", "{symbol} is not one character; give a character per symbol", shown)
        if alphabet.count(symbol) > 1:
            raise PydanticCustomError("alphabet", "{symbol} is in it twice; take one out", shown)
    return alphabet


def check_pattern(pattern: Pattern, alphabet: Alphabet | None) -> Pattern:
    """The pattern itself; PydanticCustomError unless its classes have names of their own and it compiles.

    `alphabet` is None where that is wrong already: then only the names are looked at.
    """
    pairs = pairs_of(pattern)
    if not pairs:
        raise PydanticCustomError("pattern", "give it at least one [pattern, class name]")
    names = [name for _, name in pairs]
    for name in names:
        shown = {"name": repr(name)}
        if name in (INCOMPLETE, REJECT, ""):
            raise PydanticCustomError("pattern", "a class cannot be called {name}; give it another name", shown)
        if names.count(name) > 1:
            raise PydanticCustomError("pattern", "two classes are called {name}; give each its own name", shown)
    for each, _ in pairs if alphabet is not None else ():
        try:
            compile_fsm([(each, ACCEPT)], tuple(alphabet or ()))
        except PatternError as error:
            where = "" if isinstance(pattern, str) else f"in {each!r}, "
            raise PydanticCustomError("pattern", "{where}{why}", {"where": where, "why": str(error)}) from None
    return pattern


def check_edges(edges: tuple[int, ...]) -> tuple[int, ...]:
    """The upper edges of length bins themselves; PydanticCustomError unless they rise."""
    if not edges or edges[0] < 1 or any(low >= high for low, high in pairwise(edges)):
        raise PydanticCustomError("length_bins", "give rising upper edges from 1 on, for example [5, 10, 20]")
    return edges


def known(
    shares: Mapping[str, float] | None, names: tuple[str, ...], what: str, where: str = ""
) -> Mapping[str, float] | None:
    """The shares themselves; PydanticCustomError for one of something that is not among `names`."""
    for name in shares or ():
        if name not in names:
            raise PydanticCustomError(
                "shares",
                "{where}{name} is no {what}; use {names}{hint}",
                {
                    "where": where,
                    "name": repr(name),
                    "what": what,
                    "names": ", ".join(names),
                    "hint": nearest(name, names),
                },
            )
    return shares
