"""``docdb-stream tail``: watches changes from the terminal."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from docdb_stream.admin.tail import Seen
from docdb_stream.admin.tail import tail as watch
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.document import cut, document_lines
from docdb_stream.cli.options import ConfigOption, StreamOption, VerboseOption, chosen_streams
from docdb_stream.cli.signals import stop_on_signals
from docdb_stream.cli.terminal import is_terminal, log_to_stderr, put_safe, safe_json, say, shown
from docdb_stream.context import Deadline
from docdb_stream.errors import (
    ConfigError,
    DocdbStreamError,
    SourceUnavailableError,
    StepOutOfTimeError,
    UnrenderableError,
)
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings, StartAt, parse_start_at

COLOURS = {"insert": "green", "update": "yellow", "replace": "cyan", "delete": "red"}
OTHER_COLOUR = "magenta"
"""Of what happens to collections and databases, and of operations that do not exist yet."""

PATIENCE_S = 5.0
"""How long a cluster that is away is asked again before a person is told that it is waited for."""

LAYOUT_COLUMNS = 100
"""How wide lines are laid out where no terminal says how wide it is; there none is cut."""


def tail(
    config: ConfigOption = None,
    stream: StreamOption = None,
    since: Annotated[
        str, typer.Option("--since", help="Where to begin: now, earliest, or an ISO 8601 timestamp.", metavar="WHEN")
    ] = "now",
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after so many events.", show_default=False)
    ] = None,
    operations: Annotated[
        str | None, typer.Option("--operations", help="Instead of OPERATIONS.", show_default=False, metavar="LIST")
    ] = None,
    namespaces: Annotated[
        str | None, typer.Option("--namespaces", help="Instead of NAMESPACES.", show_default=False, metavar="LIST")
    ] = None,
    match: Annotated[
        str | None, typer.Option("--match", help="Instead of MATCH.", show_default=False, metavar="QUERY")
    ] = None,
    all_fields: Annotated[
        bool,
        typer.Option("--all-fields", help="Show the whole document of an update, and lines that are too long whole."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each event as Extended JSON on one line; all else on standard error.")
    ] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Watch a stream's changes, as its rules leave them, until Ctrl-C. Needs no target.

    Keeps no state: no lease, no checkpoint; nothing is written to the cluster, and nothing delivered.
    """
    log_to_stderr(verbose)
    given = {"OPERATIONS": operations, "NAMESPACES": namespaces, "MATCH": match}
    chosen = chosen_streams(config, stream, {name: value for name, value in given.items() if value is not None})
    if len(chosen) > 1:
        names = ", ".join(settings.stream_name for settings in chosen)
        raise ConfigError("the settings have several streams", hint=f"name one with --stream: {names}")
    [settings] = chosen
    screen = _Lines(all_fields) if not as_json else _JsonLines()
    limit = Deadline(patience_s=PATIENCE_S)
    stop_on_signals(limit.stop)
    try:
        with connecting(settings) as connected:
            watching = _Watching(settings, since, screen, count, connected)
            watch(settings, _start_at(since), watching.show, limit=limit, watcher=watching)
    except BrokenPipeError:  # who was reading has seen enough
        return
    except (SourceUnavailableError, StepOutOfTimeError):
        if not limit.stop.is_set():
            raise


def _start_at(value: str) -> StartAt:
    try:
        return parse_start_at(value)  # type: ignore[return-value]
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from None


class _Watching:
    """Shows events, counts them, and says what is waited for. See ``follower.Watcher``."""

    def __init__(self, settings: Settings, since: str, screen: _Lines, count: int | None, connected: Any) -> None:
        self._name = settings.stream_name
        self._since = since
        self._screen = screen
        self._left = count
        self._connected = connected
        self._is_open = False

    def show(self, seen: Seen) -> bool:
        """See ``admin.tail``."""
        if not self._is_open:
            self._is_open = True
            self._connected()
            say(f"watching {self._name} since {self._since}; Ctrl-C ends")
        for event in seen.events:
            self._screen.event(event)
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    return False
        for rejection in seen.rejected:
            self._screen.rejection(rejection)
        return not _is_unread()

    def progress(self, result: RunResult) -> None:
        """See Watcher."""

    def waiting(self, error: DocdbStreamError, for_s: float) -> None:
        """See Watcher."""
        self._connected()
        say(f"{self._name}: waiting for the cluster: {error}" + (f" ({error.hint})" if error.hint else ""))

    def goes_on(self, after_s: float) -> None:
        """See Watcher."""
        say(f"{self._name}: goes on after {after_s:.0f} s")


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more; writing to it would tell, too, but not before the
    next event."""
    if sys.stdout is None or not hasattr(select, "poll"):
        return False
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(state & select.POLLERR for _, state in poll.poll(0))
    except (OSError, ValueError):
        return False


class _Lines:
    """Events as a person reads them: a line that says what happened, and the document or what changed below."""

    def __init__(self, all_fields: bool) -> None:
        self._all_fields = all_fields
        self._is_terminal = is_terminal(sys.stdout)

    def event(self, event: ChangeEvent) -> None:
        """One event. Raises as ``terminal.put``."""
        try:
            lines = [*self._body(json.loads(event.render("extended")), self._width)]
        except (UnrenderableError, ValueError, RecursionError) as error:
            lines = [f"    cannot be shown: {shown(error)}"]
        self._put(event, "", lines)

    def rejection(self, rejection: Rejection) -> None:
        """One event that would go to the dead letters, and why. Raises as ``terminal.put``."""
        self._put(rejection.event, f"  rejected by {rejection.target}: {rejection.reason}", [])

    @property
    def _width(self) -> int:
        return shutil.get_terminal_size().columns if self._is_terminal else LAYOUT_COLUMNS

    def _put(self, event: ChangeEvent, verdict: str, lines: list[str]) -> None:
        time, operation, rest = _head(event)
        lines = [shown(f"{time}  {operation:<8}  {rest}{verdict}"), *lines]
        if self._is_terminal and not self._all_fields:
            lines = [cut(line, self._width) for line in lines]
        if self._is_terminal and not os.environ.get("NO_COLOR"):
            colour = "red" if verdict else COLOURS.get(operation, OTHER_COLOUR)
            lines[0] = typer.style(lines[0], fg=colour, bold=True)
        put_safe("\n".join(lines))

    def _body(self, found: dict[str, Any], width: int) -> Iterator[str]:
        changed = found.get("updateDescription")
        if isinstance(changed, dict) and not (self._all_fields and found.get("fullDocument")):
            if changed.get("updatedFields"):
                yield from document_lines(changed["updatedFields"], width, " " * 4)
            for name in changed.get("removedFields") or ():
                yield f"    {shown(name)} (removed)"
            for each in changed.get("truncatedArrays") or ():
                yield f"    {shown(each.get('field'))} (cut to {shown(each.get('newSize'))} elements)"
        elif found.get("fullDocument"):
            yield from document_lines(found["fullDocument"], width, " " * 4)
        elif "to" in found:
            yield from document_lines({"to": found["to"]}, width, " " * 4)


class _JsonLines(_Lines):
    """Events as Extended JSON, one a line; what would be none is told on standard error."""

    def __init__(self) -> None:
        super().__init__(all_fields=True)

    def event(self, event: ChangeEvent) -> None:
        """See _Lines."""
        try:
            line = event.render("extended").decode()
        except UnrenderableError as error:
            say(f"{'  '.join(_head(event))}  cannot be rendered: {error}")
            return
        put_safe(safe_json(line))

    def rejection(self, rejection: Rejection) -> None:
        """See _Lines."""
        say(f"{'  '.join(_head(rejection.event))}  rejected by {rejection.target}: {rejection.reason}")


def _head(event: ChangeEvent) -> tuple[str, str, str]:
    """When, what, and where: of an event that cannot be decoded, too."""
    try:
        time = f"{event.cluster_time.as_datetime():%Y-%m-%d %H:%M:%S}Z"
        key = event.object_id or event.key or ""
    except UnrenderableError:
        time, key = "-", "?"
    return time, event.operation, f"{event.namespace}  {key}".rstrip()
