"""What a person sees while streams run: what happens to them, and on a terminal a line that tells how far they are."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pymongo.errors import PyMongoError

from docdb_stream.cli.outcome import counted, error_lines
from docdb_stream.cli.table import snapshot_line
from docdb_stream.cli.terminal import is_terminal, json_line, put_json, say, shown
from docdb_stream.errors import CheckpointConflictError, DocdbStreamError, LeaseHeldError, StateStoreError, TargetError
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.streams import Outcome
from docdb_stream.targets.file import FileSettings
from docdb_stream.targets.stdout import StdoutSettings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

RATE_OVER_S = 2.0
"""How long events are counted for the rate that is shown: long enough for the figure to be read."""


class Screen:
    """Standard error and standard output while streams run. A context manager; any thread may call it.

    The rule of what goes where: standard output has either events (of a target that writes there) or the report in
    JSON, which is then sent to standard error. All that is said to people goes to standard error; a moving line only
    where no events or JSON arrive on the same terminal.

    Args:
        streams: Those that run.
        as_json: Whether the report is JSON.
    """

    def __init__(self, streams: list[Settings], as_json: bool) -> None:
        self._as_json = as_json
        self._many = len(streams) > 1
        self._events_on_stdout = any(_writes_to_stdout(settings) for settings in streams)
        shares_terminal = (self._events_on_stdout or as_json) and is_terminal(sys.stdout)
        self._moves = is_terminal(sys.stderr) and not shares_terminal
        self._console: Console | None = None
        self._line: Status | None = None
        self._latest: dict[str, RunResult] = {}
        self._waiting: dict[str, str] = {}
        self._counted_at_s, self._counted, self._rate = time.monotonic(), 0, 0.0

    def __enter__(self) -> Self:
        if self._moves:
            from rich.console import Console

            self._console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
            self._line = self._console.status("connecting")
            self._line.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.stop()
        self._console = self._line = None

    def say(self, line: str) -> None:
        """One line on standard error, above the moving one."""
        if self._console is None:
            say(line)
            return
        with contextlib.suppress(OSError):
            self._console.print(shown(line))

    def ended(self, outcome: Outcome) -> None:
        """A stream has ended: an error is told at once, and reported, for the others may go on. Raises OutputError."""
        if outcome.error is None:
            return
        for line in error_lines(outcome.error, outcome.settings.stream_name if self._many else None):
            self.say(line)
        if self._as_json:
            self.report(outcome.as_dict())

    def report(self, values: Mapping[str, Any]) -> None:
        """What became of a stream, as JSON. Raises OutputError."""
        if self._events_on_stdout:
            self.say(json_line(values))
        else:
            put_json(values)

    def progress(self, result: RunResult) -> None:
        """How far a stream is."""
        self._latest[result.stream] = result
        self._move()

    def waiting(self, stream: str, awaited: str) -> None:
        """What a stream waits for; empty when it goes on."""
        self._waiting[stream] = awaited
        self._move()

    def _move(self) -> None:
        if self._line is not None:
            from rich.text import Text

            awaited = [each for each in self._waiting.values() if each]
            waits = [f"waiting for {shown(each)}" for each in dict.fromkeys(awaited)]
            running = [self._progress()] if self._latest and (self._many or not awaited) else []
            with contextlib.suppress(OSError):
                self._line.update(Text(", ".join([*running, *waits])))

    def _progress(self) -> str:
        results = list(self._latest.values())
        read, now_s = sum(each.read for each in results), time.monotonic()
        if now_s - self._counted_at_s >= RATE_OVER_S:
            self._rate = (read - self._counted) / (now_s - self._counted_at_s)
            self._counted_at_s, self._counted = now_s, read
        # By this machine's clock: asking the cluster for its own would cost a round trip.
        now = dt.datetime.now(dt.UTC)
        times = [each.position.time for each in results if each.position and each.position.time]
        behind_s = max(((now - time_).total_seconds() for time_ in times), default=0.0)
        checkpoints = sum(each.checkpoints for each in results)
        line = (
            f"{counted(read, 'event')} read, {self._rate:,.0f}/s, {counted(checkpoints, 'checkpoint')}, "
            f"{max(0.0, behind_s):,.0f} s behind"
        )
        return ", ".join([line, *self._snapshots(results)])

    def _snapshots(self, results: Sequence[RunResult]) -> Iterator[str]:
        """How far the streams' snapshots are, at the rate of now."""
        under_way = [each.snapshot for each in results if each.snapshot is not None]
        if not under_way:
            return
        if len(under_way) > 1:
            yield f"{len(under_way)} snapshots, {sum(each.documents for each in under_way):,} documents"
            return
        left = (under_way[0].estimate or 0) - under_way[0].documents
        yield snapshot_line(under_way[0], left / self._rate if self._rate and left > 0 else None)


class StreamWatcher:
    """Tells on the screen how one stream fares. See ``follower.Watcher``."""

    def __init__(self, screen: Screen, settings: Settings, notices: bool) -> None:
        self._screen = screen
        self._settings = settings
        self._notices = notices

    def progress(self, result: RunResult) -> None:
        """See Watcher. The first time it is said where the stream began."""
        if self._notices and result.began_at:
            self._notices = False
            if notice := beginning(result, self._settings):
                self._screen.say(notice)
        self._screen.progress(result)

    def waiting(self, error: DocdbStreamError, for_s: float) -> None:
        """See Watcher."""
        self._screen.waiting(self._settings.stream_name, _awaited(error))
        since = dt.datetime.now().astimezone() - dt.timedelta(seconds=for_s)
        self._screen.say(
            f"{self._settings.stream_name}: waiting for {_awaited(error)}; since {since:%H:%M:%S}: {error}"
            + (f" ({error.hint})" if error.hint else "")
        )

    def goes_on(self, after_s: float) -> None:
        """See Watcher."""
        self._screen.waiting(self._settings.stream_name, "")
        self._screen.say(f"{self._settings.stream_name}: goes on after {after_s:.0f} s")


def beginning(result: RunResult, settings: Settings) -> str:
    """What there is to say about where a stream began; nothing where it just went on."""
    name, given = settings.stream_name, "start_at" in settings.model_fields_set
    start_at = settings.start_at if isinstance(settings.start_at, str) else settings.start_at.isoformat()
    if result.began_at == "sample":
        return f"{name}: new stream, goes on where the AWS sample stopped"
    if result.began_at == "start-at":
        past = "; START_AT=earliest for the past" if start_at == "now" else ""
        if start_at == "snapshot":
            return f"{name}: new stream, begins with a snapshot of what there is"
        return f"{name}: new stream, starts {'' if start_at in ('now', 'earliest') else 'at '}{start_at}{past}"
    if result.began_at == "checkpoint" and given:
        return (
            f"{name}: goes on from its checkpoint, START_AT={start_at} is for a new stream only "
            f"({_moves(name, start_at)})"
        )
    return ""


def _moves(name: str, start_at: str) -> str:
    if start_at == "snapshot":
        return f"docdb-stream snapshot start '{name}' delivers what there is"
    return f"docdb-stream reset '{name}' --to {start_at} moves it"


def _awaited(error: DocdbStreamError) -> str:
    if isinstance(error, TargetError):
        return f"target {error.target}"
    if isinstance(error, LeaseHeldError | CheckpointConflictError):
        return "the lease"
    if isinstance(error, StateStoreError) and not isinstance(error.__cause__, PyMongoError):
        return "the dead letters' place"
    return "the cluster"


def _writes_to_stdout(settings: Settings) -> bool:
    file = settings.of(FileSettings).file_path
    return settings.of(StdoutSettings).stdout or file in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
