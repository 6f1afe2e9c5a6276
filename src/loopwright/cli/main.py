"""The command. Each subcommand lives in a file of its own and imports what it needs when it runs."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, ClassVar

import click

from loopwright import __version__
from loopwright.errors import LoopwrightError

_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # earlier than click 8.2 it prints by itself


class Lazy(click.Group):
    """A group whose commands are imported when they are called, so that `--help` costs milliseconds."""

    lazy: ClassVar[dict[str, tuple[str, str]]] = {
        "train": ("loopwright.cli.train", "Train a recipe and record it."),
        "resume": ("loopwright.cli.resume", "Go on with a run, or start a child of it with other settings."),
        "evaluate": ("loopwright.cli.evaluate", "Measure a split with a run's weights."),
        "predict": ("loopwright.cli.predict", "Predict with a run's weights."),
        "verify": ("loopwright.cli.verify", "Train a run again and compare bit for bit; or two runs."),
        "sweep": ("loopwright.cli.sweep", "Train many recipes; status, wait or cancel."),
        "search": ("loopwright.cli.search", "Search for the best values of a recipe's keys."),
        "runs": ("loopwright.cli.runs", "List, show or remove runs."),
        "figures": ("loopwright.cli.figures", "Draw a run's figures again."),
        "data": ("loopwright.cli.data", "Make or check data files."),
        "new": ("loopwright.cli.new", "Start a task, a model or another part of your own."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module = importlib.import_module(self.lazy[cmd_name][0])
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from loopwright.cli.nearest import hint

        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}{hint(args[0], self.lazy)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, "--version", message="loopwright %(version)s")
def loopwright() -> None:
    """Train PyTorch models exactly, with a complete record.

    \b
    loopwright train                                        the default experiment, seconds on a laptop
    loopwright train experiment=gru_baseline train.epochs=20
    loopwright train --resume ...                           go on where it was interrupted, or start
    loopwright runs                                         what there is

    Exit codes: 0 done, 2 wrong use, config or data, 3 an asked-for check failed, 4 diverged, 5 the machine gave out,
    75 interrupted after a checkpoint, 1 a bug.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code. User errors are one line each on stderr; bugs keep their traceback."""
    stdout = sys.stdout
    try:
        code = loopwright.main(args=None if arguments is None else list(arguments), standalone_mode=False)
        sys.stdout.flush()
    except LoopwrightError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        code = error.exit_code
    except _NO_ARGUMENTS as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except click.UsageError as error:
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx is not None else ""
        click.echo(f"error: {error.format_message()}{where}", err=True)
        code = 2
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except SystemExit:
        if sys.stdout is stdout:
            raise
        code = 0  # click saw it first, and has put a stream in the way that swallows the rest
    except Exception:
        traceback.print_exc()
        click.echo("error: this is a bug in Loopwright or in code it was given; the traceback is above", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
