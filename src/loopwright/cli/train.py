"""`loopwright train`."""

from __future__ import annotations

from pathlib import Path

import click

from loopwright.cli import options
from loopwright.cli.importing import importing


@click.command("train", context_settings={"ignore_unknown_options": False})
@options.overrides
@click.option("--config", "file", type=click.Path(path_type=Path), help="A YAML file laid over the packaged defaults.")
@options.config_dir
@options.allow_import
@options.out
@click.option(
    "--resume", is_flag=True, help="Go on with the newest run of this recipe, or start one; repeat nothing finished."
)
@click.option("--new", is_flag=True, help="Start a new run even where --resume would find one.")
@click.option(
    "--deterministic/--no-deterministic", default=None, help="Refuse operations whose bits may differ.  [default: on]"
)
@options.require_gate
@options.json_line
@click.option("--print-config", is_flag=True, help="Print the resolved recipe as YAML and stop.")
@click.option("--dry-run", is_flag=True, help="Build everything, run one batch and one evaluation, write nothing.")
def command(
    overrides: tuple[str, ...],
    file: Path | None,
    config_dir: Path | None,
    allow_import: tuple[str, ...],
    out: Path | None,
    resume: bool,
    new: bool,
    deterministic: bool | None,
    require_gate: bool,
    json_line: bool,
    print_config: bool,
    dry_run: bool,
) -> int:
    """Train a recipe and record it.

    Overrides are Hydra's: model=gru chooses a group, train.epochs=20 sets a key. docs/reference/config.md has every key.
    """
    with importing():
        from loopwright.config.compose import compose

    if deterministic is not None:
        overrides = (*overrides, f"deterministic={str(deterministic).lower()}")
    composed = compose(overrides, file=file, config_dir=config_dir, allow_import=allow_import)
    recipe = composed.recipe
    if print_config:
        from loopwright.config.schema import plain
        from loopwright.record.run import to_yaml

        click.echo(to_yaml(plain(recipe)), nl=False)
        return 0
    if require_gate and not recipe.stop.gate:
        from loopwright.errors import UserError

        raise UserError("--require-gate: the recipe has no stop.gate; give it one, for example stop.gate.loss=0.1")
    from loopwright.cli.show import observers, start_logging

    start_logging()
    if dry_run:
        from loopwright.rehearsal import rehearse

        for line in rehearse(recipe):
            click.echo(line)
        return 0
    from loopwright.seeds import run_seeds

    outcome = run_seeds(
        recipe,
        out=out,
        resume=resume and not new,
        overrides=composed.overrides,
        hooks=observers(recipe.record.console_every),
    )
    return options.ended(outcome, as_line=json_line, gate_required=require_gate)
