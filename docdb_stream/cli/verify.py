"""``docdb-stream verify``: whether targets equal the source."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from docdb_stream.admin.verify import verify as compare
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, JsonOption, VerboseOption, chosen_streams
from docdb_stream.cli.table import print_verified
from docdb_stream.cli.terminal import is_terminal, log_to_stderr, put_json
from docdb_stream.context import Deadline
from docdb_stream.errors import ConfigError, UnequalError
from docdb_stream.verify.verification import Progress

SHOWN_EVERY_S = 0.2


def verify(
    stream: Annotated[str, typer.Argument(help="The stream's name.", show_default=False)],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Only this target.", show_default=False, metavar="NAME")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample",
            help="Compare about so many documents of each collection, by chance, and say how much that proves.",
            show_default=False,
            metavar="N",
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Send once more what is missing or differs, delete what is too much, and compare again."
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Be over within this many seconds.", show_default=False, metavar="SECONDS"),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Compare what targets hold (opensearch, mongodb) with the source, while both are written to.

    The stream has to run beside it, or soon: what differs is only known once the stream has come past it.

    Exits with 0 when they are equal, and with 7 when they are not, or when that could not be proven.
    """
    log_to_stderr(verbose)
    if timeout is not None and not timeout > 0:
        raise ConfigError("--timeout: expected seconds greater than 0")
    (settings,) = chosen_streams(config, stream)
    is_equal = True
    with connecting(settings) as connected, _line(as_json) as progress:

        def told(what: str, documents: int, of: int | None) -> None:
            connected()
            progress(what, documents, of)

        results = compare(
            settings, target=target, sample=sample, repair=repair, limit=Deadline.after(timeout), progress=told
        )
        found = [*results]
    for result in found:
        is_equal = is_equal and result.is_equal
        if as_json:
            put_json(result.as_dict())
        else:
            print_verified(result, with_keys=verbose > 0)
    raise typer.Exit(0 if is_equal else UnequalError.exit_code)


@contextmanager
def _line(as_json: bool) -> Iterator[Progress]:
    """A moving line on standard error, where a person looks at it and nothing else arrives there."""
    if not is_terminal(sys.stderr) or (as_json and is_terminal(sys.stdout)):
        yield lambda *_: None
        return
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
    shown_at_s = 0.0
    with console.status("comparing") as status:

        def show(what: str, documents: int, of: int | None) -> None:
            nonlocal shown_at_s
            if time.monotonic() - shown_at_s < SHOWN_EVERY_S:
                return
            shown_at_s = time.monotonic()
            share = f" of about {of:,}" if of else ""
            with contextlib.suppress(OSError):
                status.update(f"{what}: {documents:,}{share} documents")

        yield show
