"""`python -m benchmarks.run [--quick]`: measure every claim and write `benchmarks/results/<date>.md` and `.json`.

Exits with 3 when a bound is missed. `--quick` measures fewer pairs and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    checkpoint_hold,
    engine_overhead,
    figures,
    fixed_cost,
    generation,
    gru,
    mlp,
    pruning,
    search_overhead,
    spiking,
    sweep_start,
    transformer,
    walks_data,
)
from benchmarks.measure import Result, hardware

RESULTS = Path(__file__).parent / "results"
CLAIMS = {
    module.__name__.rsplit(".", 1)[1]: module
    for module in (
        mlp,
        gru,
        spiking,
        engine_overhead,
        fixed_cost,
        checkpoint_hold,
        transformer,
        generation,
        walks_data,
        figures,
        pruning,
        search_overhead,
        sweep_start,
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure the claims about speed.")
    parser.add_argument("--quick", action="store_true", help="fewer pairs, and no file written")
    parser.add_argument(
        "--only", choices=CLAIMS, action="append", help="one module (may be given again); no file written"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    facts = hardware()
    results: list[Result] = []
    for name in given.only or CLAIMS:
        for result in CLAIMS[name].benchmark(given.quick):
            print(_line(result), flush=True)
            results.append(result)
    if not given.quick and not given.only:
        _write(facts, results)
    return 3 if any(result.verdict == "MISSED" for result in results) else 0


def _write(facts: Mapping[str, Any], results: Sequence[Result]) -> None:
    day = datetime.now(UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    tree = {"date": day, "hardware": facts, "results": [asdict(r) | {"verdict": r.verdict} for r in results]}
    (RESULTS / f"{day}.json").write_text(json.dumps(tree, indent=2) + "\n")
    lines = [
        f"# Measured on {day}",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()),
        "- other frameworks: not in this run (none was installed)",
        "",
        "Ratios are CPU time against the loop by hand, medians of interleaved pairs; see ../README.md.",
        "",
        "| claim | measured | bound | verdict | range | detail |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(result) for result in results),
    ]
    (RESULTS / f"{day}.md").write_text("\n".join(lines) + "\n")


def _row(result: Result) -> str:
    spread = f"{min(result.values):.3g} to {max(result.values):.3g}" if result.values else ""
    detail = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result.detail.items() if value != [])
    bound = "" if result.bound is None else f"{result.bound:g}"
    return f"| {result.claim} | {_value(result)} | {bound} | {result.verdict} | {spread} | {detail} |"


def _line(result: Result) -> str:
    bound = "" if result.bound is None else f" (bound {result.bound:g})"
    return f"{result.verdict:8} {result.claim}: {_value(result)}{bound}  {result.detail or ''}"


def _value(result: Result) -> str:
    return f"{result.value:.3g} {result.unit}".strip()


if __name__ == "__main__":
    sys.exit(main())
