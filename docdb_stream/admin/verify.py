"""Compares the targets of a stream with its source, and repairs them if asked for.

Owns what is compared, and what cannot be. How it is done is ``verify``'s.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from docdb_stream.checkpoint import CheckpointStore
from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import ConfigError
from docdb_stream.held import Verifiable
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.documents import MongoDocuments
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.settings import Settings
from docdb_stream.step import Step
from docdb_stream.steps import steps_for
from docdb_stream.stores.mongodb import MongoCheckpointStore
from docdb_stream.target import Target
from docdb_stream.targets import build_targets
from docdb_stream.verify.result import VerifyResult
from docdb_stream.verify.stream import StreamPosition
from docdb_stream.verify.verification import Progress, Sides, Verification

_STATES = ("insert", "update", "replace")
"""Operations without which a target is not to be equal to the source."""


def verify(
    settings: Settings,
    *,
    target: str | None = None,
    repair: bool = False,
    sample: int | None = None,
    limit: Deadline | None = None,
    steps: Sequence[Step] = (),
    progress: Progress = lambda *_: None,
) -> Iterator[VerifyResult]:
    """What is found of each target that keeps documents, one after the other. Nothing is written to the source.

    Needs no lease: the stream may run, and should, as differences are only known once it has come past them.

    Args:
        settings: The stream.
        target: Only this target.
        repair: Make equal what is not, see ``verify.repair``.
        sample: Compare about so many documents of each collection, by chance.
        limit: The deadline, and the event by which to ask for a stop. Default: none.
        steps: After those that the settings ask for, as for a Poller.
        progress: Told how far it is.

    Raises:
        ConfigError: There is nothing to compare, or it cannot be.
        UnequalError: The time was over before all was compared.
        SourceUnavailableError, StateStoreError, TargetError, StepError: As for a run.
    """
    _check(settings, sample)
    # The stream may be running: a transaction here would end its own.
    built = build_targets(settings.model_copy(update={"kafka_transactions": "off"}))
    try:
        chosen = _chosen(settings, built, target)
        all_steps = [*steps_for(settings, built), *steps]
        with running(RunContext(limit or Deadline())), Connection(settings) as connection:
            store = MongoCheckpointStore(settings, connection)
            note = _note(settings, store)
            # What is asked of the log is which documents have changed, and nothing of how.
            plain = settings.model_copy(
                update={"full_document": "default", "full_document_before_change": "off", "match": None}
            )
            for each in chosen:
                assert isinstance(each, Verifiable)
                position = StreamPosition(store, settings.stream_name)
                sides = Sides(
                    settings,
                    MongoDocuments(settings, connection),
                    MongoChangeSource(plain, connection),
                    all_steps,
                    each,
                    each.holdings(),
                    position.is_past,
                    changes_keys=bool(settings.transform or steps),
                )
                result = Verification(sides, repairs=repair, sample=sample, progress=progress).run()
                result.notes += note
                if position.is_behind:
                    result.notes.append(_behind(settings))
                if sample is None:
                    store.note_verified(settings.stream_name, each.name, result.verified(dt.datetime.now(dt.UTC)))
                yield result
    finally:
        for each in built:
            each.close()


def _check(settings: Settings, sample: int | None) -> None:
    """See that a target of the stream is to be equal to its source at all."""
    name = settings.stream_name
    if sample is not None and sample < 1:
        raise ConfigError("--sample: expected a number of documents, 1 or more")
    if missing := [each for each in _STATES if settings.operations and each not in settings.operations]:
        raise ConfigError(
            f"OPERATIONS of stream {name} leaves out {', '.join(missing)}: no target is to be equal to the source",
            hint="verify is for streams that deliver what documents are",
        )
    if settings.full_document == "default":
        raise ConfigError(
            f"FULL_DOCUMENT of stream {name} is default: updates bring no documents that could be compared",
            hint="set FULL_DOCUMENT = update_lookup (or when_available, required)",
        )


def _chosen(settings: Settings, built: Sequence[Target], name: str | None) -> Sequence[Target]:
    """The targets to compare."""
    on = ", ".join(each.name for each in built)
    can = [each for each in built if isinstance(each, Verifiable)]
    if name is None:
        if not can:
            raise ConfigError(
                f"stream {settings.stream_name} has no target that can be compared with its source",
                hint=f"opensearch and mongodb can, which keep documents; it has {on}",
            )
        return can
    if name not in [each.name for each in built]:
        raise ConfigError(f"--target {name}: stream {settings.stream_name} has no such target", hint=f"it has {on}")
    chosen = [each for each in can if each.name == name]
    if not chosen:
        raise ConfigError(
            f"--target {name}: it keeps events and no documents, so it is never equal to a collection",
            hint="opensearch and mongodb can be compared",
        )
    return chosen


def _note(settings: Settings, store: CheckpointStore) -> list[str]:
    """What has to be known of the stream beside the figures.

    Raises:
        ConfigError: It has not run yet.
    """
    found = store.load(settings.stream_name)
    if found is None or found.position is None:
        raise ConfigError(
            f"stream {settings.stream_name} has not run yet, so its targets hold nothing of it",
            hint=f"docdb-stream run --stream '{settings.stream_name}'",
        )
    snapshot = found.position.snapshot
    if snapshot is None:
        return []
    return [
        f"the snapshot {snapshot.id} is under way: what it has not delivered yet is missing, or not what it should be"
    ]


def _behind(settings: Settings) -> str:
    return (
        f"stream {settings.stream_name} did not come past what was read, so nothing is said of what differs: see that "
        f"a run works on it (docdb-stream run --follow --stream '{settings.stream_name}'), and verify again"
    )
