"""How a sweep is asked for on one line: a file or a name, overrides, and what is confirmed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loopwright.errors import UserError

if TYPE_CHECKING:
    from loopwright.sweeps.plan import Confirm


def source_and_overrides(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """A file or a name (None where there is none), and the overrides: what has a `=` in it, or removes a key.

    Raises UserError.

    >>> source_and_overrides(["compare_latents", "train.epochs=5"])
    ('compare_latents', ['train.epochs=5'])
    """
    overrides = [text for text in given if "=" in text or text.startswith("~")]
    sources = [text for text in given if text not in overrides]
    if len(sources) > 1:
        raise UserError(f"{' and '.join(sources)}: a sweep has one file or name; overrides are written key=value")
    if not given:
        raise UserError("give a sweep's file, its name, or overrides such as optim.lr=1e-3,3e-4")
    return (sources[0] if sources else None), overrides


def parse_confirm(given: Sequence[str]) -> Confirm:
    """`top=3 seeds=3`, in any order. Raises UserError."""
    from loopwright.sweeps.plan import Confirm

    matches = [re.fullmatch(r"(top|seeds)=([1-9]\d{0,5})", text) for text in given]
    found = {match[1]: int(match[2]) for match in matches if match is not None}
    if set(found) != {"top", "seeds"}:
        raise UserError(f"--confirm {' '.join(given)}: write top=K seeds=N, for example --confirm top=3 seeds=3")
    return Confirm(top=found["top"], seeds=found["seeds"])


def check_stages(screen: object, confirm: object) -> None:
    """Raise UserError where one of the two stages is asked for without the other."""
    if (screen is None) != (confirm is None):
        raise UserError("--screen and --confirm belong together, for example --screen 1 --confirm top=3 seeds=3")
