"""``docdb-stream verify``: whether targets equal the source."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from docdb_stream.admin.verify import WINDOW_S
from docdb_stream.admin.verify import verify as compare
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import (
    ConfigOption,
    JsonOption,
    TimeoutOption,
    VerboseOption,
    chosen_streams,
    deadline_after,
)
from docdb_stream.cli.table import print_verified
from docdb_stream.cli.terminal import is_terminal, log_to_stderr, put_json
from docdb_stream.errors import ConfigError, UnequalError
from docdb_stream.verify.result import Progress

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
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            help="Of targets that keep events: compare those of so long, as 90s, 15m, 6h, 2d. By default an hour.",
            show_default=False,
            metavar="TIME",
        ),
    ] = None,
    timeout: TimeoutOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Compare what targets hold with the source, while both are written to.

    Of opensearch, mongodb, postgresql, redis and dynamodb, the documents: the stream has to run beside it, or soon, as
    what differs is only known once the stream has come past it. Of kafka, kinesis and s3, the events of a time, by
    their ids.

    Exits with 0 when they are equal, and with 7 when they are not, or when that could not be proven.
    """
    log_to_stderr(verbose)
    limit = deadline_after(timeout)
    (settings,) = chosen_streams(config, stream)
    is_equal = True
    with connecting(settings) as connected, _line(as_json) as progress:

        def told(what: str, documents: int, of: int | None) -> None:
            connected()
            progress(what, documents, of)

        results = compare(
            settings,
            target=target,
            sample=sample,
            repair=repair,
            window_s=WINDOW_S if window is None else _seconds(window),
            limit=limit,
            progress=told,
        )
        found = [*results]
    for result in found:
        is_equal = is_equal and result.is_equal
        if as_json:
            put_json(result.as_dict())
        else:
            print_verified(result, with_keys=verbose > 0)
    raise typer.Exit(0 if is_equal else UnequalError.exit_code)


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(text: str) -> float:
    """The length of a window. Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip())
    if found is None or not int(found[1]):
        raise ConfigError(f"--window {text!r:.40}: expected a length, such as 90s, 15m, 6h or 2d")
    return float(int(found[1]) * _UNITS_S[found[2] or "s"])


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
                status.update(f"{what}: {documents:,}{share}")

        yield show
