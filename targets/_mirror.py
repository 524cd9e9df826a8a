"""What mirrors have in common: targets that keep each document of a collection as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection

T = TypeVar("T")

WRITING: Final = frozenset({"insert", "update", "replace", "delete"})
"""Operations about one document that a mirror follows."""
OF_COLLECTIONS: Final = frozenset({"drop", "rename"})
LOCAL: Final = frozenset({None, "", "localhost", "127.0.0.1", "::1"})
"""Hosts to which a connection needs no TLS."""
_WHOLE: Final = frozenset({"update_lookup", "required"})
"""With these values of FULL_DOCUMENT an update brings its document, or the document is gone."""


def collections_named(source: Settings) -> list[Namespace]:
    """The collections that a stream watches, as far as their names are known before anything was read."""
    scope = source.scope
    if scope is not None and scope.coll is not None:
        return [scope]
    return [Namespace(*each.split(".", 1)) for each in source.namespaces if "*" not in each and "." in each]


def check_whole(source: Settings | None) -> None:
    """See that a stream's updates bring their documents. Raises ConfigError."""
    if source is not None and source.full_document not in _WHOLE:
        raise ConfigError(
            f"a mirror takes whole documents, and with FULL_DOCUMENT = {source.full_document} updates may bring none",
            hint="set FULL_DOCUMENT = update_lookup or required",
        )


def write_in_order(
    events: Sequence[ChangeEvent],
    name: str,
    change_of: Callable[[ChangeEvent], T | None],
    write: Callable[[Sequence[T]], Sequence[Rejection]],
    follow: Callable[[ChangeEvent], None],
) -> list[Rejection]:
    """Write what events make, and follow what is done with a collection once all that came before it is written.

    Args:
        events: In their order.
        name: The target's.
        change_of: What an event of a document makes; None: nothing. Raises UnrenderableError.
        write: Writes changes; returns what is refused.
        follow: Does what a drop or a rename asks for. Raises UnrenderableError.
    """
    rejections: list[Rejection] = []
    changes: list[T] = []
    for event in events:
        try:
            if event.operation in OF_COLLECTIONS:
                rejections += write(changes)
                changes = []
                follow(event)
            elif (change := change_of(event)) is not None:
                changes.append(change)
        except UnrenderableError as error:
            rejections.append(Rejection(event, name, str(error)))
    return [*rejections, *write(changes)]


def gone_by(event: ChangeEvent) -> Sequence[Namespace]:
    """The collections that are not what they were since a drop or a rename: also one that was replaced by it."""
    to = event.document.get("to") if event.operation == "rename" else None
    return [event.namespace, *([Namespace(to["db"], to["coll"])] if to else ())]


def check_is_gone(event: ChangeEvent) -> None:
    """See that an event without its document says that it is gone: an update's was, when it was looked up, and its
    delete follows.

    Raises:
        UnrenderableError: It does not.
    """
    if event.operation != "update" or "fullDocument" not in event.document:
        raise UnrenderableError(
            "the event has no fullDocument, and a mirror takes whole documents: set FULL_DOCUMENT = update_lookup, "
            "or UpdateLookup in the event source mapping"
        )


def renamed_to(event: ChangeEvent, source: Settings | None) -> Namespace | None:
    """What a collection is called since, where it was renamed to what the stream watches; else what it held is gone."""
    to = event.document.get("to") if event.operation == "rename" else None
    renamed = Namespace(to["db"], to["coll"]) if to else None
    return renamed if renamed is None or source is None or source.watches(renamed) else None
