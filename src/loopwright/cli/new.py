"""`loopwright new`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from loopwright.scaffold.kinds import KINDS


@click.command("new")
@click.argument("kind", metavar="KIND", type=click.Choice(list(KINDS)))
@click.argument("name", metavar="NAME")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The project's directory.  [default: here]",
)
@click.option("--package", metavar="PACKAGE", help="The package to add to, where the project has several.")
def command(kind: str, name: str, folder: Path, package: str | None) -> int:
    """Start a part of your own that trains at once: KIND is task, model, encoder, latent, loss or data.

    Writes a module, its config group, a test and a README. A project that is there is added to, no file is overwritten.
    """
    from loopwright.scaffold.write import write_part

    written = write_part(kind, name, folder, package)
    here = Path.cwd()
    for path in written.files:
        click.echo(f"wrote {path.relative_to(here) if path.is_relative_to(here) else path}")
    click.echo("next:")
    enter = "" if folder.absolute() == here else f"cd {shlex.quote(str(folder))} && "
    for line in written.commands:
        click.echo(f"  {enter}{line}")
    return 0
