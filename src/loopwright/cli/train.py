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
@click.option(
    "-m", "--multirun", is_flag=True, help="Train every combination of comma lists and ranges: a sweep without a file."
)
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
    multirun: bool,
    print_config: bool,
    dry_run: bool,
) -> int:
    """Train a recipe and record it.

    Overrides are Hydra's: model=gru chooses a group, train.epochs=20 sets a key. docs/reference/config.md has every key.
    """
    if deterministic is not None:
        overrides = (*overrides, f"deterministic={str(deterministic).lower()}")
    if multirun:
        _check_multirun(new=new, require_gate=require_gate, print_config=print_config, dry_run=dry_run)
        from loopwright.cli.sweep import sweep

        return sweep(
            None,
            overrides,
            file=file,
            config_dir=config_dir,
            allow_import=allow_import,
            out=out,
            json_line=json_line,
        )
    with importing():
        from loopwright.config.compose import compose
    _check_one_run(overrides)
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
    from loopwright.console import observers, start_logging

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


def _check_multirun(**given: bool) -> None:
    """Refuse what only one training can be asked for."""
    for name, is_given in given.items():
        if is_given:
            from loopwright.errors import UserError

            instead = {
                "new": "a sweep goes on with what there is; choose another --out",
                "require_gate": "the summary of a sweep tells which gates were passed",
                "print_config": "`loopwright sweep ... --plan` shows its points",
                "dry_run": "`loopwright sweep ... --plan` tries one of its points",
            }[name]
            raise UserError(f"--{name.replace('_', '-')} is not for --multirun; {instead}")


def _check_one_run(overrides: tuple[str, ...]) -> None:
    """Refuse a launcher for a training that runs here."""
    for text in overrides:
        if text.partition("=")[0].replace("/", ".").split(".")[0] == "launcher":
            from loopwright.errors import UserError

            raise UserError(f"`{text}`: one training runs in this process; with --multirun (-m) a launcher starts it")
