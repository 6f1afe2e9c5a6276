"""How many samples of which kind and length: what was asked, and where the share of what cannot exist goes.

Letters of shapes: R kinds (rows), L lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopwright.errors import DataError
from loopwright.tasks.regex.fsm import INCOMPLETE, REJECT
from loopwright.tasks.regex.sampling import REJECT_KINDS, Kind, Sampler

Shares = NDArray[np.float64]
_DEFAULT = {INCOMPLETE: 0.3, REJECT: 0.3}  # the rest is for the accepted classes, in equal parts


@dataclass(frozen=True, eq=False)
class Plan:
    """The probability (R, L) of every kind and length: as asked, and as drawn; both sum to 1.

    `moved` says what was asked and cannot exist: a mapping per kind with its lengths, its share, and where that went.
    """

    kinds: tuple[Kind, ...]
    lengths: tuple[int, ...]
    asked: Shares
    drawn: Shares
    moved: tuple[Mapping[str, Any], ...]


def class_shares(classes: Sequence[str], given: Mapping[str, float] | None) -> dict[str, float]:
    """The share of each class: those given, by default 0.3 incomplete, 0.3 reject and 0.4 for all accepted classes."""
    if given is not None:
        return {name: given.get(name, 0.0) for name in classes}
    rest = (1 - sum(_DEFAULT.values())) / (len(classes) - len(_DEFAULT))
    return {name: _DEFAULT.get(name, rest) for name in classes}


def kind_shares(empty: bool, given: Mapping[str, float] | None) -> dict[str, float]:
    """The share of each kind among the rejected strings: those given, by default equal ones.

    Where the language is `empty`, all are hopeless by default; where it is not, none can be.
    """
    if given is None:
        given = {"hopeless": 1.0} if empty else {kind: 1 / 3 for kind in REJECT_KINDS if kind != "hopeless"}
    return {kind: given.get(kind, 0.0) for kind in REJECT_KINDS}


def plan(
    sampler: Sampler, lengths: Sequence[int], p_class: Mapping[str, float] | None, p_reject: Mapping[str, float] | None
) -> Plan:
    """Every length equally likely, and what has no string given to what is nearest to it and has.

    The share of a kind and length without a string goes to the other kinds of its class and length, in proportion to
    their shares; where these have none, to the other lengths of its class; where there are none, to the other classes.
    Raises DataError where nothing that was asked for exists.
    """
    fsm, kinds = sampler.fsm, sampler.kinds
    of_class, of_kind = class_shares(fsm.classes, p_class), kind_shares(not fsm.live[fsm.start], p_reject)
    share_R = np.array([of_class[k.class_name] * (of_kind[k.reject_kind] if k.reject_kind else 1.0) for k in kinds])
    asked = np.repeat(share_R[:, None] / len(lengths), len(lengths), axis=1)
    exists = np.array([[sampler.count(kind, length) > 0 for length in lengths] for kind in kinds])
    drawn, moved = asked.copy(), []
    names = np.array([kind.class_name for kind in kinds])
    rejected = np.array([bool(kind.reject_kind) for kind in kinds])
    whole = np.ones(len(lengths), dtype=bool)
    groups = [("kinds", np.outer(rejected, np.arange(len(lengths)) == i)) for i in range(len(lengths))]
    groups += [("lengths", np.outer(names == name, whole)) for name in fsm.classes]
    groups += [("classes", np.outer(names == names, whole))]
    left = (drawn > 0) & ~exists
    went = np.full(asked.shape, "", dtype=object)
    for to, group in groups:
        stuck, room = group & left, group & exists
        if stuck.any() and drawn[room].sum() > 0:
            drawn[room] *= 1 + drawn[stuck].sum() / drawn[room].sum()
            drawn[stuck], left[stuck], went[stuck] = 0.0, False, to
    if left.any():
        raise DataError(
            f"task.data.lengths={[lengths[0], lengths[-1]]}: no string that long is of a class and kind with a share "
            "(task.data.p_class, p_reject); allow other lengths, or give other classes a share"
        )
    for row, kind in enumerate(kinds):
        for to in ("kinds", "lengths", "classes"):
            these = went[row] == to
            if these.any():
                moved.append(
                    {
                        "class": kind.class_name,
                        **({"reject_kind": kind.reject_kind} if kind.reject_kind else {}),
                        "lengths": [length for length, is_ in zip(lengths, these, strict=True) if is_],
                        "share": float(asked[row, these].sum()),
                        "to_other": to,
                    }
                )
    return Plan(kinds, tuple(lengths), asked, drawn, tuple(moved))
