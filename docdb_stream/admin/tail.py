"""Watches the changes of a stream without any state: no lease, no checkpoint, no target, nothing that is written.

Owns where it stands, in memory alone. What is shown is its caller's; what is waited for, and how long, ``follower``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from docdb_stream import step
from docdb_stream.admin.explain import steps_of
from docdb_stream.context import Deadline, RunContext, current_deadline, running
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.follower import Follower, Patience, Progress, Watcher
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.position import Position
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.settings.types import StartAt
from docdb_stream.source import ChangeSource, ChangeStream

WAIT_S = 1.0
"""How long one call waits for events; a stop is noticed after it at the latest."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a stream would deliver of some events that came together.

    Attributes:
        events: Those that the stream's steps let pass, as they leave them.
        rejected: Those that could not be read, or that a step refuses.
        filtered: How many each step left out, by its name.
    """

    events: Sequence[ChangeEvent] = ()
    rejected: Sequence[Rejection] = ()
    filtered: Mapping[str, int] = field(default_factory=dict)


def tail(
    settings: Settings, since: StartAt, show: Callable[[Seen], bool], *, limit: Deadline, watcher: Watcher
) -> None:
    """Show a stream's changes until ``show`` has enough, or a stop is asked for. A cluster that is away is waited for.

    Args:
        settings: The stream: what is watched, and its steps. It needs no target.
        since: Where to begin. A checkpoint is not looked at.
        show: Takes what came, perhaps nothing: nothing once the stream is open, and then every second while the cluster
            is there. False ends it.
        limit: The stop.
        watcher: Is told of trouble.

    Raises:
        SourceUnavailableError: The cluster refuses, or has no change streams.
        HistoryLostError: The change log does not reach back to ``since``.
        DocdbStreamError: What a step raises.
    """
    with running(RunContext(limit)), Connection(settings) as connection:
        tailing = Tailing(settings, MongoChangeSource(settings, connection), since, show)
        Follower(tailing.attempt, limit, Patience(trouble=True), watcher).run()


class Tailing:
    """Where it stands, from one attempt to the next."""

    def __init__(self, settings: Settings, source: ChangeSource, since: StartAt, show: Callable[[Seen], bool]) -> None:
        self._steps = steps_of(settings)
        self._settings = settings
        self._source = source
        self._since = since
        self._show = show
        self._position: Position | None = None

    def attempt(self, progress: Progress) -> RunResult:
        """Go on where the last attempt stopped; see Follower."""
        limit = current_deadline()
        result = RunResult(self._settings.stream_name)
        if self._position is None:
            self._position = self._source.start_position(self._since)
        stream = self._source.open(self._position)
        try:
            while not limit.stopping and limit.remaining_s > 0:
                if not self._show(Seen() if result.position is None else self._read(stream)):
                    break
                result.position = self._position
                progress(result)
        finally:
            stream.close()
        return result

    def _read(self, stream: ChangeStream) -> Seen:
        batch = stream.read(WAIT_S)
        made = step.apply(self._steps, batch.events)
        self._position = batch.position
        return Seen(made.events, [*step.redacted(self._steps, batch.rejected), *made.rejected], made.filtered)
