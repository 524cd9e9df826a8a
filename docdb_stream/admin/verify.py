"""Compares the targets of a stream with its source, and repairs them if asked for.

Owns what is compared, and what cannot be. How it is done is ``verify``'s.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from bson import Timestamp

from docdb_stream.checkpoint import Checkpoint
from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import ConfigError
from docdb_stream.event import ChangeEvent
from docdb_stream.held import Verifiable
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.documents import MongoDocuments
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.query.parse import parse
from docdb_stream.recorded import Recorded
from docdb_stream.settings import Settings
from docdb_stream.step import Step
from docdb_stream.steps import steps_for
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.target import Target
from docdb_stream.targets import build_targets
from docdb_stream.verify.events import EventsVerification
from docdb_stream.verify.result import Progress, VerifyResult
from docdb_stream.verify.sides import Sides
from docdb_stream.verify.stream import StreamPosition
from docdb_stream.verify.verification import Verification

WINDOW_S = 3600.0
"""The window of events that is compared by default."""

_CAN = (
    "opensearch, mongodb, postgresql, redis and dynamodb can be compared by their documents, kafka, kinesis and s3 by "
    "their events"
)
_UNDER_WAY = "the snapshot {} is under way: what it has not delivered yet is missing, or not what it should be"
_OF_DOCUMENTS = ("fullDocument", "documentKey", "ns")
"""Fields of an event that are the same whichever change brings the document."""
_STATES = ("insert", "update", "replace")
"""Operations without which a target is not to be equal to the source."""


def verify(
    settings: Settings,
    *,
    target: str | None = None,
    repair: bool = False,
    sample: int | None = None,
    window_s: float = WINDOW_S,
    limit: Deadline | None = None,
    steps: Sequence[Step] = (),
    progress: Progress = lambda *_: None,
) -> Iterator[VerifyResult]:
    """What is found of each target that can be compared, one after the other. Nothing is written to the source.

    Needs no lease: the stream may run. For targets that keep documents it should, as differences are only known once it
    has come past them; of those that keep events, the window ends where the stream is.

    Args:
        settings: The stream.
        target: Only this target.
        repair: Make equal what is not, see ``verify.repair``; of targets that keep documents alone.
        sample: Compare about so many documents of each collection, by chance; of the same ones.
        window_s: Of targets that keep events: those of so many seconds.
        limit: The deadline, and the event by which to ask for a stop. Default: none.
        steps: After those that the settings ask for, as for a Poller.
        progress: Told how far it is.

    Raises:
        ConfigError: There is nothing to compare, or it cannot be.
        UnequalError: The time was over before all was compared.
        SourceUnavailableError, StateStoreError, TargetError, StepError: As for a run.
    """
    if sample is not None and sample < 1:
        raise ConfigError("--sample: expected a number of documents, 1 or more")
    # The stream may be running: a transaction here would end its own.
    built = build_targets(settings.model_copy(update={"kafka_transactions": "off"}))
    try:
        chosen = _chosen(settings, built, target, of_documents=repair or sample is not None)
        all_steps = [*steps_for(settings, built), *steps]
        with running(RunContext(limit or Deadline())), Connection(settings) as connection:
            comparing = _Comparing(settings, connection, all_steps, bool(settings.transform or steps), progress)
            for each in chosen:
                if isinstance(each, Verifiable):
                    yield comparing.documents(each, repair=repair, sample=sample)
                elif isinstance(each, Recorded):
                    yield comparing.events(each, window_s)
    finally:
        for each in built:
            each.close()


class _Comparing:
    """Compares targets of one stream, over one connection."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        steps: Sequence[Step],
        has_functions: bool,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._store = MongoCheckpointStore(settings, connection)
        self._steps = steps
        self._has_functions = has_functions
        self._progress = progress
        self._checkpoint = self._saved()

    def documents(self, target: Target, *, repair: bool, sample: int | None) -> VerifyResult:
        """Of a target that keeps documents."""
        assert isinstance(target, Verifiable)
        settings = self._settings
        # What is asked of the log is which documents have changed, and nothing of how.
        plain = settings.model_copy(
            update={"full_document": "default", "full_document_before_change": "off", "match": None}
        )
        position = StreamPosition(self._store, settings.stream_name)
        sides = Sides(
            settings,
            MongoDocuments(settings, self._connection),
            MongoChangeSource(plain, self._connection),
            self._steps,
            target,
            target.holdings(),
            position,
            changes_keys=self._has_functions,
            progress=self._progress,
        )
        result = Verification(sides, repairs=repair, sample=sample).run()
        snapshot = self._checkpoint.position.snapshot if self._checkpoint.position else None
        if snapshot is not None:
            result.notes.append(_UNDER_WAY.format(snapshot.id))
        if position.is_behind:
            result.notes.append(_behind(settings))
        return self._noted(target, result)

    def events(self, target: Target, window_s: float) -> VerifyResult:
        """Of a target that keeps events."""
        assert isinstance(target, Recorded)
        settings = self._settings
        changes = MongoChangeSource(settings, self._connection)
        position = self._checkpoint.position
        until = position.operation_time if position else None
        if until is None:
            raise ConfigError(
                f"the position of stream {settings.stream_name} does not say its time, where the window would end",
                hint="verify again once the stream has gone on",
            )
        begun = self._checkpoint.created_at
        begun_s = int(begun.timestamp()) if begun else 0
        since = Timestamp(max(until.time - int(window_s), min(begun_s, until.time)), 0)
        is_by_lookup = settings.full_document == "update_lookup" and bool(settings.match or self._has_functions)

        def is_sure(event: ChangeEvent) -> bool:
            """What was before the stream began was not to be delivered, and when that was is known to the second."""
            return event.cluster_time.time > begun_s and not (is_by_lookup and event.operation == "update")

        result = EventsVerification(
            settings.stream_name,
            changes,
            self._steps,
            target,
            target.record(),
            since=since,
            until=until,
            is_sure=is_sure,
            progress=self._progress,
        ).run()
        result.notes.append(f"events from {_time(since)} to {_time(until)}, where the stream is")
        return self._noted(target, result)

    def _noted(self, target: Target, result: VerifyResult) -> VerifyResult:
        if result.sample is None:
            now = dt.datetime.now(dt.UTC)
            self._store.note_verified(self._settings.stream_name, target.name, result.verified(now))
        return result

    def _saved(self) -> Checkpoint:
        name = self._settings.stream_name
        found = self._store.load(name)
        if found is None or found.position is None:
            raise ConfigError(
                f"stream {name} has not run yet, so its targets hold nothing of it",
                hint=f"docdb-stream run --stream '{name}'",
            )
        return found


def _chosen(settings: Settings, built: Sequence[Target], name: str | None, *, of_documents: bool) -> Sequence[Target]:
    """The targets to compare.

    Raises:
        ConfigError: There is none, or the one that is named cannot be.
    """
    if name is not None and name not in [each.name for each in built]:
        on = ", ".join(each.name for each in built)
        raise ConfigError(f"--target {name}: stream {settings.stream_name} has no such target", hint=f"it has {on}")
    found, reasons = [], []
    for each in built:
        if name in (None, each.name):
            try:
                _check(settings, each, of_documents)
                found.append(each)
            except ConfigError as error:
                reasons.append(error)
    if not found:
        if len(reasons) == 1:
            raise reasons[0]
        why = "; ".join(map(str, reasons))
        raise ConfigError(f"no target of stream {settings.stream_name} can be compared: {why}", hint=_CAN)
    return found


def _check(settings: Settings, target: Target, of_documents: bool) -> None:
    """See that a target can be compared at all."""
    if isinstance(target, Verifiable):
        target.holdings()
        _check_shaping(settings)
    elif not isinstance(target, Recorded):
        raise ConfigError(f"{target.name}: what it was given cannot be read back", hint=_CAN)
    elif of_documents:
        raise ConfigError(
            f"{target.name} keeps events, of which there is nothing to repair and no sample",
            hint=f"docdb-stream reset '{settings.stream_name}' to a time before delivers again what is missing",
        )
    else:
        target.record()


def _check_shaping(settings: Settings) -> None:
    """See that a target that keeps documents is to be equal to the source."""
    name = settings.stream_name
    if missing := [each for each in _STATES if settings.operations and each not in settings.operations]:
        raise ConfigError(
            f"OPERATIONS of stream {name} leaves out {', '.join(missing)}: no target is to be equal to the source",
            hint="verify is for streams that deliver what documents are",
        )
    if settings.match and not parse(settings.match).is_only_about(_OF_DOCUMENTS):
        raise ConfigError(
            f"MATCH of stream {name} judges changes, and not only what documents are: no target is to be equal to the "
            "source",
            hint=f"verify is for a MATCH over {', '.join(_OF_DOCUMENTS)}",
        )
    if settings.full_document == "default":
        raise ConfigError(
            f"FULL_DOCUMENT of stream {name} is default: updates bring no documents that could be compared",
            hint="set FULL_DOCUMENT = update_lookup (or when_available, required)",
        )


def _behind(settings: Settings) -> str:
    return (
        f"stream {settings.stream_name} did not come past what was read, so nothing is said of what differs: see that "
        f"a run works on it (docdb-stream run --follow --stream '{settings.stream_name}'), and verify again"
    )


def _time(time: Timestamp) -> str:
    return f"{time.as_datetime():%Y-%m-%dT%H:%M:%SZ}"
