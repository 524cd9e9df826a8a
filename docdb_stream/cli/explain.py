"""``docdb-stream explain``: what would become of an event?"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from docdb_stream.admin.explain import Explanation, Judgement, Payload, events_in, explained
from docdb_stream.cli.document import document_lines
from docdb_stream.cli.options import ConfigOption, JsonOption, StreamOption, VerboseOption, chosen_streams
from docdb_stream.cli.terminal import log_to_stderr, put, put_json, shown
from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent

PATHS_SHOWN = 20


def explain(
    event: Annotated[
        str,
        typer.Option(
            "--event",
            "-e",
            help="The file with the events, as Extended JSON: one, one a line, or an array; dead letters, too. "
            "-: standard input.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    config: ConfigOption = None,
    stream: StreamOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Say which of the stream's rules does what with an event, and what each target would get.

    Asks no cluster and no service, and delivers nothing. -vv shows what a function of yours (TRANSFORM) raised.
    """
    log_to_stderr(verbose)
    chosen = chosen_streams(config, stream)
    events = events_in(_text(event), "standard input" if event == "-" else event)
    for settings in chosen:
        for number, found in enumerate(explained(settings, events), 1):
            if as_json:
                put_json({"stream": settings.stream_name, **found.as_dict()})
            else:
                put(f"{settings.stream_name}  event {number}: {_named(found.event)}")
                _tell(found)


def _text(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" and sys.stdin else Path(name).read_bytes()
        return raw.decode()
    except (OSError, ValueError) as error:  # ValueError: it is no UTF-8, or the path holds a NUL
        told = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(
            f"--event {name}: {told}", hint="name a file that holds a change event, or - for input"
        ) from None


def _tell(found: Explanation) -> None:
    several = len({each.event_id for each in found.judgements}) > 1
    width = max((len(each.step) for each in found.judgements), default=0)
    for each in found.judgements:
        put(f"  {each.step:<{width}}  {_outcome(each)}" + (f"  ({each.event_id})" if several else ""))
    if not found.judgements:
        put("  there is no rule: every event is delivered as it is")
    for event, payloads in found.delivered:
        put(f"  delivered: {_named(event)}")
        for payload in payloads:
            _tell_payload(payload)
        if not payloads:
            put("    to no target: the settings switch none on")
    if not found.delivered:
        put("  nothing is delivered")


def _outcome(judgement: Judgement) -> str:
    if judgement.outcome == "changed":
        more = len(judgement.paths) - PATHS_SHOWN
        paths = ", ".join(judgement.paths[:PATHS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        told = f"changed: {paths}"
    elif judgement.outcome == "became several":
        told = f"became {judgement.count} events"
    else:
        told = judgement.outcome
    if not judgement.reason:
        return told
    return f"{told}: {judgement.reason}" if judgement.count == 0 else f"{told}; rejected: {judgement.reason}"


def _tell_payload(payload: Payload) -> None:
    names = ", ".join(payload.targets)
    if not names:
        put(f"    to no target: {payload.problem}")
        return
    if payload.content is None:
        why = f"rejected: {payload.problem}" if payload.problem else "in a format of its own"
        put(f"    {names}: {why}")
        return
    if payload.content == b"null":
        put(f"    {names} ({payload.format}): no document")
        return
    put(f"    {names} ({payload.format}):")
    try:
        lines = [*document_lines(json.loads(payload.content), shutil.get_terminal_size().columns, " " * 6)]
    except (ValueError, RecursionError):
        lines = ["      " + shown(payload.content.decode(errors="backslashreplace"))]
    for line in lines:
        put(line)


def _named(event: ChangeEvent) -> str:
    return f"{event.operation} {event.namespace}  {event.event_id}"
