"""What a corpus is made of: the file `task/corpus.json` of a run's record, and what to warn of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from loopwright.engine.task import Split
from loopwright.tasks.regex.bins import Bin
from loopwright.tasks.regex.corpus import SPLITS, Corpus
from loopwright.tasks.regex.fsm import Ints

_SHOWN = 20


def corpus_report(
    corpus: Corpus,
    bins: Sequence[Bin],
    ceilings: Mapping[Split, float],
    tables: Mapping[Split, float],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The whole report as plain values. Shares are of all samples; `asked` is before what cannot exist was moved."""
    classes, plan = corpus.fsm.classes, corpus.plan
    everything = np.arange(len(corpus))
    class_of_kind = np.array([classes.index(kind.class_name) for kind in plan.kinds])
    asked, drawn = (np.bincount(class_of_kind, table.sum(1), len(classes)) for table in (plan.asked, plan.drawn))
    got = np.bincount(corpus.class_N, minlength=len(classes))
    length_got = np.bincount(corpus.length_N, minlength=plan.lengths[-1] + 1)[list(plan.lengths)]
    rejects = np.bincount(corpus.kind_N, minlength=len(plan.kinds))
    return {
        "samples": len(corpus),
        "distinct_strings": len(np.unique(corpus.string_N)),
        "classes": {
            name: {"asked": _share(asked[i]), "planned": _share(drawn[i]), "got": int(got[i]) / len(corpus)}
            for i, name in enumerate(classes)
        },
        "lengths": {
            str(length): {
                "asked": _share(plan.asked[:, i].sum()),
                "planned": _share(plan.drawn[:, i].sum()),
                "got": int(length_got[i]) / len(corpus),
            }
            for i, length in enumerate(plan.lengths)
        },
        "rejects": {k.reject_kind: int(rejects[i]) for i, k in enumerate(plan.kinds) if k.reject_kind},
        "redistributed": [{**moved, "share": _share(moved["share"])} for moved in plan.moved],
        "failed_attempts": failed_attempts(corpus),
        "coverage": _coverage(corpus, everything),
        "splits": {split: _split_report(corpus, split, bins, ceilings[split], tables[split]) for split in SPLITS},
        "warnings": list(warnings),
    }


def failed_attempts(corpus: Corpus) -> int:
    """Samples whose last state is not of the class they were drawn for; drawing by counts makes none."""
    asked = np.array([corpus.fsm.classes.index(kind.class_name) for kind in corpus.plan.kinds])
    return int((asked[corpus.kind_N] != corpus.class_N).sum())


def missing_classes(corpus: Corpus) -> Iterator[str]:
    """A line for each accepted class that no string of these lengths has, and for each class that a split has none of."""
    exists = {kind.class_name for kind, row in zip(corpus.plan.kinds, corpus.plan.drawn, strict=True) if row.any()}
    lengths = corpus.plan.lengths
    for name in corpus.fsm.classes[: corpus.fsm.num_accepting]:
        if name not in exists:
            yield f"no string of {lengths[0]} to {lengths[-1]} symbols is of class {name!r}; is the pattern what was meant?"
    for split in SPLITS:
        held = set(corpus.class_N[corpus.rows(split)].tolist())
        for number, name in enumerate(corpus.fsm.classes):
            if name in exists and number not in held:
                yield (
                    f"the {split} split has no string of class {name!r}; give more samples or lengths, or another "
                    "split, if its metrics are to tell of that class"
                )


def _share(sum_of_shares: float) -> float:
    """Without the last digits, which adding up has spoilt: 0.3 rather than 0.30000000000000004."""
    return round(float(sum_of_shares), 12)


def _split_report(corpus: Corpus, split: Split, bins: Sequence[Bin], ceiling: float, table: float) -> dict[str, Any]:
    rows = corpus.rows(split)
    length_N, class_N = corpus.length_N[rows], corpus.class_N[rows]
    counts = np.bincount(class_N, minlength=len(corpus.fsm.classes)).tolist()
    return {
        "samples": len(rows),
        "tokens": int(length_N.sum()),
        "distinct_strings": len(np.unique(corpus.string_N[rows])),
        "classes": dict(zip(corpus.fsm.classes, counts, strict=True)),
        "distinct_strings_by_class": {
            name: len(np.unique(corpus.string_N[rows[class_N == i]])) for i, name in enumerate(corpus.fsm.classes)
        },
        "length_bins": {
            f"{low}-{high}": {"samples": int(inside.sum()), "tokens": int(length_N[inside].sum())}
            for low, high in bins
            for inside in [(length_N >= low) & (length_N <= high)]
        },
        "best_token_accuracy": ceiling,
        "table_token_accuracy": table,
        "coverage": _coverage(corpus, rows),
    }


def _coverage(corpus: Corpus, rows: Ints) -> dict[str, Any]:
    """How many of the machine's states and edges (state, symbol) these samples visit, and the first that they do not."""
    fsm = corpus.fsm
    num_symbols = len(fsm.alphabet)
    symbols_NL, after_NL = corpus.symbols_NL[rows], corpus.states_NL[rows]
    before_NL = np.concatenate([np.full((len(rows), 1), fsm.start), after_NL[:, :-1]], axis=1)
    real_NL = symbols_NL >= 0
    edges = np.bincount((before_NL * num_symbols + symbols_NL)[real_NL], minlength=fsm.num_states * num_symbols)
    states = np.bincount(after_NL[real_NL], minlength=fsm.num_states)
    states[fsm.start] += 1  # where every string begins
    missing = [[int(edge) // num_symbols, fsm.alphabet[int(edge) % num_symbols]] for edge in np.flatnonzero(edges == 0)]
    return {
        "states": int((states > 0).sum()),
        "of_states": fsm.num_states,
        "edges": int((edges > 0).sum()),
        "of_edges": len(edges),
        "states_not_visited": np.flatnonzero(states == 0).tolist()[:_SHOWN],
        "edges_not_visited": missing[:_SHOWN],
    }
