"""The command ``intake-idc``.

It ends with 0 when all that was asked is done, 2 when it was asked wrongly, 3 when
a manifest or a plan is refused, 4 when something is missing, 5 when something is
not what it should be or would not stay what it is, 6 when there is no space left, 130
when it was interrupted and 143 when it was told to end.

A room for each family of commands; what they share is in ``options`` and ``output``.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, NoReturn

import click

from intake_idc._version import __version__
from intake_idc.cli.ending import Ended, until_signals
from intake_idc.cli.limits import open_more_files
from intake_idc.errors import EmptySelection, IDCError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error of this package is one line and an exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``intake-idc``; by default those of the process.
    """
    # Who calls it from a program has signals and limits of their own.
    own = arguments is None
    if own:
        open_more_files()
    try:
        with until_signals() if own else nullcontext():
            command.main(arguments, prog_name="intake-idc", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; run it again to go on", err=True)
        _end(130, own=own)
    except Ended as ended:
        click.echo(f"ended by {ended.name}; run it again to go on", err=True)
        _end(ended.exit_code, own=own)
    except EmptySelection as error:
        hint = " (here: --all)" if "all()" in error.message else ""
        click.echo(f"intake-idc: {error}{hint}", err=True)
        sys.exit(error.exit_code)
    except IDCError as error:
        click.echo(f"intake-idc: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"intake-idc: {error}", err=True)
        sys.exit(4)


def _end(code: int, *, own: bool) -> NoReturn:
    """End the process, without the threads that wait for a store that is silent."""
    others = (t for t in threading.enumerate() if t is not threading.main_thread())
    if own and not all(thread.daemon for thread in others):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


class _Rooms(click.Group):
    """Commands, of which each is loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of all, sorted."""
        return sorted({*super().list_commands(ctx), *_ROOMS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a command by its name; None where there is none."""
        room = _ROOMS.get(cmd_name)
        if room is None:
            return super().get_command(ctx, cmd_name)
        found: click.Command
        found = getattr(importlib.import_module(f"intake_idc.cli.{room}"), cmd_name)
        return found


_ROOMS = {
    "api": "bodies",
    "cache": "caches",
    "cite": "cohorts",
    "clinical": "exports",
    "copy": "copies",
    "diff": "releases",
    "export": "exports",
    "headers": "headers",
    "history": "releases",
    "lock": "locks",
    "objects": "exports",
    "releases": "releases",
    "repair": "copies",
    "restore": "locks",
    "select": "cohorts",
    "split": "sets",
    "tables": "tables",
    "verify": "copies",
}
"""Commands, and the modules that they are in."""


@click.group(
    name="intake-idc",
    cls=_Rooms,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="intake-idc")
def command() -> None:
    """Reach the NCI Imaging Data Commons: releases, cohorts, verified copies.

    A cohort is named by FILTERS, each COLUMN=VALUE: several values are divided by
    commas (any of them), several filters all hold, COLUMN=~TEXT is a regular
    expression, COLUMN= is null. The first may be the path of an s5cmd manifest
    (.s5cmd, .s5cmd.gz), of a body of the IDC API (.json) or of a lock (.lock.json),
    whose series are then filtered.

    \b
    Exit codes: 0 done, 2 asked wrongly, 3 manifest or plan refused, 4 something
    is missing, 5 something is not what it should be, 6 no space is left,
    130 interrupted, 143 told to end.
    """  # noqa: D301


@click.command()
@click.option(
    "--mirror",
    metavar="PLACE",
    help="Read real objects from 'aws' or 'gcs' instead of the embedded sample.",
)
def demo(mirror: str | None) -> None:
    """Show the main job, end to end; needs no network."""
    from intake_idc import demo as demonstration

    demonstration.run(mirror, say=click.echo)


command.add_command(demo)
