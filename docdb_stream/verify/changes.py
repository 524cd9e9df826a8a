"""What has changed meanwhile: asked of the change log, which alone can tell that nothing has."""

from __future__ import annotations

from collections.abc import Set

from bson import Timestamp

from docdb_stream.context import current_deadline
from docdb_stream.errors import UnequalError, UnrenderableError
from docdb_stream.events import ChangeEvent, Position
from docdb_stream.formats.key import element_key
from docdb_stream.position import Namespace
from docdb_stream.snapshot.pages import is_past
from docdb_stream.source import ChangeSource

READ_WAIT_S = 0.25
_ALL_OF_A_COLLECTION = frozenset({"drop", "rename", "dropDatabase", "invalidate"})


def name_of(namespace: Namespace, id: bytes) -> str:
    """What an event calls the document, by its element ``_id``: see ``ChangeEvent.ordering_key``."""
    return f"{namespace}/{element_key(id)}"


def changed(source: ChangeSource, names: Set[str], since: Timestamp, until: Timestamp) -> Set[str]:
    """Those of the documents, by their names, that the log tells of after ``since`` and up to ``until``; all of them
    where it tells of something else that may have changed them.

    Raises:
        UnequalError: The time was over before.
        SourceUnavailableError, HistoryLostError: As for a run.
    """
    if since >= until:
        return frozenset()
    found: set[str] = set()
    stream = source.open(Position(operation_time=since))
    try:
        while True:
            batch = stream.read(READ_WAIT_S)
            if batch.rejected or any(event.operation in _ALL_OF_A_COLLECTION for event in batch.events):
                return names
            told = {*map(_name, batch.events)}
            if None in told:
                return names
            found.update(name for name in names if name in told)
            if is_past(batch.position, until, is_drained=batch.drained or batch.quiet):
                return found
            check_time()
    finally:
        stream.close()


def check_time() -> None:
    """See that there is time left.

    Raises:
        UnequalError: It is over.
    """
    if current_deadline().remaining_s <= 0 or current_deadline().stopping:
        raise UnequalError(
            "the time was over before all was compared, so nothing is proven", hint="raise --timeout, or use --sample"
        )


def _name(event: ChangeEvent) -> str | None:
    try:
        return event.ordering_key
    except UnrenderableError:
        return None
