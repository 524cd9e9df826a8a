"""The command line: what an operator types and sees, and the exit codes. Everything it does, the library does.

A file is a command, or a few that belong together; ``report`` is how results look, ``terminal`` where text leaves.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from docdb_stream import __version__
from docdb_stream.cli import cluster, demo, doctor, positions, run
from docdb_stream.cli.dead_letters import dead_letters_app
from docdb_stream.cli.report import say_error
from docdb_stream.cli.terminal import put, say
from docdb_stream.errors import DocdbStreamError

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells have it (128 + SIGINT)."""


class _Commands(TyperGroup):
    """Says what ended a command, whichever it is, and gives its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DocdbStreamError as error:
            say_error(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="docdb-stream",
    cls=_Commands,
    help="Stream the changes of MongoDB and Amazon DocumentDB to Kinesis, SQS, Kafka, OpenSearch, S3 and others.",
    epilog="Exit codes: 0 done, 1 output or program failed, 2 settings wrong, 3 source unreachable, 4 a target failed, "
    "5 history lost, 6 lease held elsewhere, 130 Ctrl-C. With several streams, the highest of theirs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (
    run.run,
    positions.status,
    positions.reset,
    cluster.enable,
    positions.ledger,
    doctor.doctor,
    demo.demo,
):
    app.command()(_command)
app.add_typer(dead_letters_app, name="dead-letters")


def _version(wanted: bool) -> None:
    if wanted:
        put(f"docdb-stream {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of ``docdb-stream``."""
    _occupy_standard_streams()
    try:
        app()
    except (DocdbStreamError, OSError) as error:  # while options were looked at, or help was shown
        say_error(error if isinstance(error, DocdbStreamError) else DocdbStreamError(str(error)))
        sys.exit(1)
    except KeyboardInterrupt:  # before the command began
        say("interrupted")
        sys.exit(INTERRUPTED)
    finally:
        _flush_standard_streams()


def _occupy_standard_streams() -> None:
    """Where one was closed (``>&-``), the next file or socket would get its number, and what is written to it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _flush_standard_streams() -> None:
    """What cannot be written (``| head``, a full disk) was said already: the interpreter would complain once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
