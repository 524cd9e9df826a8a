"""How a change stream is opened at a position: what the server is asked for, and what for less where it refuses.

Owns the options and stages of the ``aggregate`` command, and what of them a server has turned out not to have.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bson import Timestamp
from pymongo.errors import OperationFailure

from docdb_stream.mongodb.diagnosis import AUTHENTICATION_FAILED, UNAUTHORIZED, server_message
from docdb_stream.mongodb.errors import Verdict, classify, is_unknown_option
from docdb_stream.mongodb.pipeline import ServerFilter, images
from docdb_stream.position import Position
from docdb_stream.settings import Settings

logger = logging.getLogger(__name__)

_ASKED_TOO_MUCH = frozenset({Verdict.FATAL, Verdict.HISTORY_LOST, Verdict.NO_CHANGE_STREAMS})
"""What may come of a filter, or of a secondary: an operator or option that it has not got, a log that is shorter."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the server is asked for.

    Attributes:
        stage: The ``$changeStream`` stage.
        stages: Those after it.
        skip_until: Events up to this time are to be skipped: they are before the position.
        on_primary: Not where the connection string's readPreference says.
    """

    stage: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    skip_until: Timestamp | None
    on_primary: bool


class Opening:
    """The way in which one stream is opened. It asks for less, once, for each thing that is refused, and remembers it.

    Args:
        settings: What is watched, and which images of documents are wanted.
        filter: What the server may leave out.
        on_primary: Whether the stream can be read there alone.

    Attributes:
        filtered: The rules that the server has been given, see ``ChangeStream.filtered_on_server``.
        images: The options for documents' images.
    """

    def __init__(self, settings: Settings, filter: ServerFilter, *, on_primary: bool) -> None:
        self.filtered: tuple[str, ...] = ()
        self.images = images(settings)
        self._settings = settings
        self._filter = filter
        self._on_primary = on_primary
        self._has_start_after = True
        self._lost_time: Timestamp | None = None

    def at(self, position: Position) -> Request:
        """What to ask for."""
        stage, skip_until = self._stage(position)
        return Request(stage, self._filter.stages(position), skip_until, self._on_primary)

    def in_part(self, position: Position, images: Collection[str], stages: Sequence[Mapping[str, Any]]) -> Request:
        """The same with no other images than these, and further stages."""
        found = self.at(position)
        stage = {name: value for name, value in found.stage.items() if name in images or name not in self.images}
        return replace(found, stage=stage, stages=[*found.stages, *stages])

    def opened(self) -> None:
        """The server has opened the stream in this way."""
        self.filtered = tuple(dict.fromkeys([*self.filtered, *self._filter.rules]))

    def asks_for_less(self, error: OperationFailure, request: Request) -> bool:
        """Whether what was refused can be done without; ``at`` asks for so much less then."""
        verdict = classify(error)
        if "startAfter" in request.stage and is_unknown_option(error, "startAfter"):
            self._has_start_after = False
        elif error.code in (AUTHENTICATION_FAILED, UNAUTHORIZED) or verdict not in _ASKED_TOO_MUCH:
            return False
        elif self._filter.rules:
            self._leave_to_the_steps(server_message(error), *self._filter.rules)
        elif not request.on_primary:
            logger.warning("stream %s: read from the primary: %s", self._settings.stream_name, server_message(error))
            self._on_primary = True
        elif verdict is Verdict.HISTORY_LOST and request.skip_until not in (None, self._lost_time):
            # What comes after the position has to be in the log, its own time need not.
            self._lost_time = request.skip_until
        else:
            return False
        return True

    def without_match(self) -> bool:
        """Have the server match no more; whether it did. What it matches depends on the images, which have to be left
        out one after the other to get past a large event."""
        if "match" not in self._filter.rules:
            return False
        self._leave_to_the_steps("an event is too large to be sent whole", "match")
        return True

    def _leave_to_the_steps(self, why: str, *rules: str) -> None:
        name = self._settings.stream_name
        logger.warning("stream %s: %s is left to docdb-stream: %s", name, ", ".join(rules), why)
        self._filter = self._filter.without(*rules)

    def _stage(self, position: Position) -> tuple[dict[str, Any], Timestamp | None]:
        """The ``$changeStream`` stage, and the time up to which its events are to be skipped.

        An option that is not needed is left out: DocumentDB does not take null.
        """
        stage: dict[str, Any] = {**self.images}
        if self._settings.scope is None:
            stage["allChangesForCluster"] = True
        time_ = position.operation_time
        if position.token is not None and not position.after_invalidate:
            return stage | {"resumeAfter": dict(position.token.value)}, None
        if position.token is not None and (self._has_start_after or time_ is None):
            return stage | {"startAfter": dict(position.token.value)}, None
        if position.token is not None and time_ is not None:
            # The invalidate and the drop before it have this very time: starting at it would end the stream again.
            return stage | {"startAtOperationTime": _next(time_)}, None
        if time_ is not None:
            # The server includes the time itself, a position excludes it.
            begins_at = _next(time_) if time_ == self._lost_time else time_
            return stage | {"startAtOperationTime": begins_at}, time_
        return stage, None


def _next(time: Timestamp) -> Timestamp:
    return Timestamp(time.time, time.inc + 1)
