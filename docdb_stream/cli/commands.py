"""The commands, put together, and what ends each of them whichever it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from docdb_stream import __version__
from docdb_stream.cli import INTERRUPTED
from docdb_stream.cli.config import config
from docdb_stream.cli.dead_letters import dead_letters_app
from docdb_stream.cli.demo import demo
from docdb_stream.cli.doctor import doctor
from docdb_stream.cli.enable import enable
from docdb_stream.cli.explain import explain
from docdb_stream.cli.ledger import ledger
from docdb_stream.cli.load import load
from docdb_stream.cli.outcome import say_error
from docdb_stream.cli.reset import reset
from docdb_stream.cli.restore import restore
from docdb_stream.cli.run import run
from docdb_stream.cli.schema import schema_app
from docdb_stream.cli.snapshot import snapshot_app
from docdb_stream.cli.status import status
from docdb_stream.cli.tail import tail
from docdb_stream.cli.terminal import put, say
from docdb_stream.cli.verify import verify
from docdb_stream.errors import DocdbStreamError


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
    "5 history lost, 6 lease held elsewhere, 7 not equal (verify), 8 a collection stopped for its schema, 130 Ctrl-C. "
    "With several streams, the highest of theirs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (run, tail, explain, status, verify, load, restore, reset, enable, ledger, doctor, config, demo):
    app.command()(_command)
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(schema_app, name="schema")
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


def run_command() -> None:
    """Do what the command line asks for, and exit with its code."""
    try:
        app()
    except (DocdbStreamError, OSError) as error:  # while options were looked at, or help was shown
        say_error(error if isinstance(error, DocdbStreamError) else DocdbStreamError(str(error)))
        raise SystemExit(1) from error
