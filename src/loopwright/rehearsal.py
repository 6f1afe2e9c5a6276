"""A dry run: everything is built, one batch is trained on and one evaluated, nothing is written."""

from __future__ import annotations

from itertools import islice

from loopwright.building import build, plan
from loopwright.config.schema import Recipe
from loopwright.engine.compute import computing, resolve_device
from loopwright.engine.evaluate import measured
from loopwright.engine.steps import steps
from loopwright.engine.task import At, Totals, dealt, num_batches
from loopwright.mistakes import mistakes_explained
from loopwright.streams import isolated


def rehearse(recipe: Recipe) -> list[str]:
    """Lines that say what was built and measured. Raises whatever the training would raise."""
    device = resolve_device(recipe.device)
    with isolated(), computing(device, recipe.threads, recipe.deterministic):
        built = build(recipe, device)
        wanted = plan(built)
        task, state = built.task, built.state
        loader = task.loader("train")
        lines = [
            f"recipe {built.recipe_id}, seed {recipe.seed}, on {device} with {recipe.threads} thread(s)",
            f"model: {sum(p.numel() for p in state.model.parameters()):,} parameters",
        ]
        for split in ("train", "val", "test"):
            held = task.loader(split)
            if held is not None:
                lines.append(f"{split}: {_some(held.num_samples, 'samples')}, {_some(num_batches(held), 'batches')}")
        advice = "try train.accumulate=2 or a smaller batch"
        with mistakes_explained(built), built.memory_explained("in one step or evaluation", advice):
            if loader is not None and recipe.train.epochs:
                train = recipe.train
                one = steps(
                    task,
                    state,
                    loader,
                    built.streams,
                    lr=wanted.lr,
                    clip_norm=train.clip_norm,
                    accumulate=train.accumulate,
                )
                for info in islice(one, 1):
                    loss = "of nothing" if info.loss is None else f"{info.loss:.6g}"
                    lines.append(f"one training step: loss {loss}")
            val = task.loader("val")
            if val is not None:
                at = At(built.streams, 1, 1, device)
                batch, at.num_samples = next(dealt(val, 0))
                totals = Totals()
                totals.add(measured(lambda: task.measure(state.model, batch, at), state.model, task.loss_module))
                shown = ", ".join(f"{k} {v:.6g}" for k, v in task.finish(totals.read()).items() if v is not None)
                lines.append(f"one evaluation batch: {shown}")
    return [*lines, "nothing was written"]


def _some(number: int | None, what: str) -> str:
    return f"an unknown number of {what}" if number is None else f"{number:,} {what}"
