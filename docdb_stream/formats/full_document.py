"""The bare document, for consumers that want to know nothing of change streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.decoded import Decoded, field_of
from docdb_stream.formats.extended import RENDERER

_BEST: Final = ("fullDocument", "documentKey")
_OF_NO_DOCUMENT: Final = ("operationType", "ns", "to")


class FullDocument:
    """What is left of an event when all but the document is taken away, as relaxed MongoDB Extended JSON v2.

    - insert, replace, update: the document after the change.
    - delete, and an update whose document is not there (it was gone, or was not asked for): the document key,
      ``{"_id": ...}``. What tells it from a document of this one field is said beside it, by targets that have headers.
    - what is about no single document (drop, rename, dropDatabase, invalidate, ...): an object of ``operationType``,
      ``ns`` and, of a rename, ``to``.
    """

    name = "full_document"

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``, and ``extended_json`` for what is refused."""
        documents = [_document(event) for event in decoded.documents]
        together = RENDERER.together(documents, decoded.joined) if decoded.is_whole else None
        return together or [_alone(one) for one in decoded.each]


def _document(event: Mapping[str, Any]) -> Any:
    for name in _BEST:
        if (found := event.get(name)) is not None:
            return found
    return {name: event[name] for name in _OF_NO_DOCUMENT if name in event}


def _alone(one: Decoded) -> bytes | UnrenderableError:
    event = one.documents[0]
    name = next((name for name in _BEST if event.get(name) is not None), None)
    raw = None if one.raw is None or name is None else field_of(one.raw, name)
    try:
        return RENDERER.alone(_document(event), raw)
    except UnrenderableError as error:
        return error


FULL_DOCUMENT: Final = FullDocument()
