"""Compute the golden values of every shipped experiment on this machine, print what changed, and write them.

    python tests/golden/regenerate.py            (or: make golden)

Bits depend on torch's version and on the processor: its vendor and family choose the kernels of the matrix libraries,
its instruction set those of torch. These make the key. A variable that asks a library for other kernels makes another
processor of it, so it is in the key as well. A commit that changes values says why. Values of other machines
cannot be computed here: where this machine's have changed, theirs are of another program and are removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from loopwright import compose
from loopwright.config.compose import PACKAGED
from loopwright.experiment import run
from loopwright.record.provenance import numerics
from loopwright.tasks.autoencoder.write import write_events

FILE = Path(__file__).with_name("golden.json")
STEPS = 20
SHOWN = (1, 2, 5, 10, 20)
GIVEN = {
    "walks_anchor": ("task.evaluation.walks=2",),  # judging its walks takes a minute and moves no weight
    "autoencoder_events": ("task.data.path={file}",),
}
# Variables that choose the kernels of torch, MKL, oneDNN and OpenBLAS. None of them is set where values are written.
KERNELS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
EXPERIMENTS = tuple(sorted(path.stem for path in (PACKAGED / "experiment").glob("*.yaml")))

Values = dict[str, Any]


def version() -> str:
    """Torch's release; builds of one release (+cpu, +cu128) share their CPU kernels."""
    return f"torch-{torch.__version__.split('+')[0]}"


def key() -> str:
    """This machine: torch's version, vendor and family of the processor, the instruction set torch uses, and the
    variables that choose other kernels than this processor's."""
    facts = numerics()
    name = facts["cpu"]["model_name"]
    vendor = next((vendor for vendor in ("AMD", "Intel") if vendor in name), name.split()[0])
    chosen = "".join(f"+{name}={value}" for name, value in chosen_kernels().items())
    return f"{version()}/{vendor}-{facts['cpu']['family'] or 'unknown'}-{facts['cpu_capability']}{chosen}"


def chosen_kernels() -> dict[str, str]:
    """The variables of KERNELS that are set to something."""
    return {name: os.environ[name] for name in KERNELS if os.environ.get(name)}


def compute(experiment: str) -> Values:
    """The losses of some of the first 20 steps, to the bit, and the hash of the weights after them."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "events.h5"
        if experiment == "autoencoder_events":  # which brings no data along
            write_events(file, 2000, 0)
        outcome = run(
            compose(
                f"experiment={experiment}",
                *(text.format(file=file) for text in GIVEN.get(experiment, ())),
                "device=cpu",
                "record.save=false",
                f"stop.budget={STEPS} steps",
            )
        )
    losses = outcome.curves["train_loss"]
    assert outcome.steps == len(losses) == STEPS
    return {
        "losses": {str(step): float(losses[step - 1] or 0.0).hex() for step in SHOWN},
        "weights_sha256": outcome.weights_sha256,
    }


def read() -> dict[str, dict[str, Values]]:
    found: dict[str, dict[str, Values]] = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return found


def differences(old: Mapping[str, Values], new: Mapping[str, Values]) -> list[str]:
    """A line for each value that is not as it was."""
    lines = []
    for experiment in sorted({*old, *new}):
        if experiment not in old or experiment not in new:
            lines.append(f"{experiment}: {'new' if experiment in new else 'gone'}")
            continue
        before, after = old[experiment], new[experiment]
        for step in after["losses"]:
            one, two = (values["losses"].get(step) for values in (before, after))
            if one != two:
                was = "none" if one is None else f"{float.fromhex(one):.9g}"
                lines.append(f"{experiment}: loss of step {step}: {was} -> {float.fromhex(two):.9g}")
        if before["weights_sha256"] != after["weights_sha256"]:
            lines.append(f"{experiment}: weights {before['weights_sha256'][:12]} -> {after['weights_sha256'][:12]}")
    return lines


def updated(
    held: Mapping[str, dict[str, Values]], here: str, computed: dict[str, Values]
) -> dict[str, dict[str, Values]]:
    """The file with this machine's values; those of other machines stay while this machine's are what they were."""
    changed = here in held and bool(differences(held[here], computed))
    kept = {} if changed else {name: values for name, values in held.items() if name != here}
    return dict(sorted({**kept, here: computed}.items()))


def main() -> None:
    if chosen := chosen_kernels():
        settings = ", ".join(f"{name}={value}" for name, value in chosen.items())
        raise SystemExit(
            f"{settings}: golden values are those of the processor's own kernels; unset it and start again"
        )
    here, held = key(), read()
    computed = {experiment: compute(experiment) for experiment in EXPERIMENTS}
    lines = differences(held.get(here, {}), computed)
    after = updated(held, here, computed)
    print(f"{here}:" if lines else f"{here}: nothing changed")
    for line in lines:
        print(f"  {line}")
    for name in held.keys() - after.keys():
        print(f"{name}: removed, compute it again on such a machine")
    FILE.write_text(json.dumps(after, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
