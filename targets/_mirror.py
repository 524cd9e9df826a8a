"""What mirrors have in common: targets that keep each document of a collection as it is."""

from __future__ import annotations

from typing import Final

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.settings import Settings

WRITING: Final = frozenset({"insert", "update", "replace", "delete"})
"""Operations about one document that a mirror follows."""
OF_COLLECTIONS: Final = frozenset({"drop", "rename"})
LOCAL: Final = frozenset({None, "", "localhost", "127.0.0.1", "::1"})
"""Hosts to which a connection needs no TLS."""
_WHOLE: Final = frozenset({"update_lookup", "required"})
"""With these values of FULL_DOCUMENT an update brings its document, or the document is gone."""


def check_whole(source: Settings | None) -> None:
    """See that a stream's updates bring their documents. Raises ConfigError."""
    if source is not None and source.full_document not in _WHOLE:
        raise ConfigError(
            f"a mirror takes whole documents, and with FULL_DOCUMENT = {source.full_document} updates may bring none",
            hint="set FULL_DOCUMENT = update_lookup or required",
        )


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
