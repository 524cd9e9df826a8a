"""Dead letters: the contract of where they are kept, and the letter itself.

A letter says which event was refused, by which target and why, in fields that fit everywhere.
An event's token holds its document's ``_id``, so both may have megabytes. A letter is therefore made of texts of a
bounded size, and of the event itself where its place has room for it.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from bson.errors import BSONError

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.formats.reader import to_bson

logger = logging.getLogger(__name__)

Letter = dict[str, Any]
"""A rejection as JSON values: id, stream, target, event_id, reason, operation, namespace, cluster_time, found_at,
document_key (for events about a document), and one of ``event`` (its Extended JSON, as text), ``raw`` (its BSON, as
Base64, where that text would not say all of it) or ``event_omitted`` (why neither is there). A text that is too long
is cut, and ends in ``~sha256:`` and the hash of all of it: see ``bounded``."""


class DeadLetters(Protocol):
    """Where rejections are kept.

    Each method raises StateStoreError when the place cannot be reached or refuses.
    """

    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """Make them durable; called before the checkpoint that passes them. Writing one again changes nothing, or adds
        a letter with the same ``id`` where the place cannot overwrite (an SQS queue, unless FIFO and within five
        minutes).

        Raises:
            StateStoreError: They are not durable; the checkpoint is not moved.
        """
        ...

    def letters(self, stream: str | None = None) -> Iterator[Letter]:
        """Every letter, of one stream or of all, in no particular order."""
        ...

    def remove(self, letter: Letter) -> None:
        """Forget a letter that was delivered after all. It was got from ``letters`` of the same object."""
        ...


TEXT_BYTES = 900
"""Of one text, the id among them: an index entry holds 1,024 bytes in MongoDB before 4.2 ("MongoDB Limits and
Thresholds", Index Key Limit) and 2,048 in Amazon DocumentDB ("Quotas and limits")."""
SHORT_TEXT_BYTES = 80
"""Of one text where letters have to be shorter than usual: hardly more than the hash."""
_KEY_TEXTS = 16
"""A document key may be as long as this many texts: by it the document is found where the event is left out."""

_FIELDS = ("id", "stream", "target", "event_id", "reason", "operation", "namespace", "found_at")
"""What every letter has had since there are letters."""

_OMITTED = "larger than a dead letter holds here; read the document by its document_key"
_OMITTED_WITH_KEY = "larger than a dead letter holds here, and so is its document_key; see what changed at cluster_time"

_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, BSONError)
"""What readers of JSON and BSON raise for what is neither."""


def letter(stream: str, rejection: Rejection, *, content_bytes: float, text_bytes: int = TEXT_BYTES) -> Letter:
    """A rejection as a letter.

    Args:
        stream: The stream's name.
        rejection: The event and the target's verdict.
        content_bytes: What the place takes of the event's content; a larger one is left out.
        text_bytes: What it takes of each text.
    """
    event = rejection.event
    key = _key(event)
    document_key = None if key is None else bounded(key, _KEY_TEXTS * text_bytes)
    texts = {
        "id": f"{stream}/{rejection.target}/{event.event_id}",
        "event_id": event.event_id,
        "reason": rejection.reason,
        "operation": event.operation,
        "namespace": str(event.namespace),
    }
    found: Letter = {name: bounded(text, text_bytes) for name, text in texts.items()}
    found |= {
        "stream": stream,
        "target": rejection.target,
        "cluster_time": event.cluster_time.as_datetime().isoformat(),
        "found_at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
    }
    if document_key is not None:
        found["document_key"] = document_key
    return found | (
        _content(event, content_bytes) or {"event_omitted": _OMITTED if document_key == key else _OMITTED_WITH_KEY}
    )


def bounded(text: str, limit_bytes: int) -> str:
    """``text`` where it is short enough, else its beginning and the SHA-256 of all of it: another one for each text."""
    encoded = text.encode(errors="surrogatepass")
    if len(encoded) <= limit_bytes:
        return text
    end = "~sha256:" + hashlib.sha256(encoded).hexdigest()
    return encoded[: max(0, limit_bytes - len(end))].decode(errors="ignore") + end


def event_of(found: Mapping[str, Any]) -> ChangeEvent | None:
    """The event of a letter, to be delivered again; None where the letter does not hold it, or what cannot be read."""
    try:
        raw = _raw_event(found)
        if raw is None:
            return None
        event = ChangeEvent(raw)
        event.event_id, event.operation  # noqa: B018 - raises where this is no change event
        return event
    except _UNREADABLE as error:
        logger.warning("dead letter %s: its event cannot be read: %s", found.get("id"), type(error).__name__)
    return None


def _raw_event(found: Mapping[str, Any]) -> bytes | None:
    if "raw" in found:
        return base64.b64decode(found["raw"])
    if "event" in found:
        return to_bson(json.loads(found["event"]))
    return None


def letter_from(found: object) -> Letter | None:
    """``found``, which was read from a place of letters, if it is one: others may put things there."""
    is_letter = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in _FIELDS)
    return found if is_letter else None  # type: ignore[return-value]


def letter_from_json(text: str | bytes) -> Letter | None:
    """The letter that ``text`` is; None where it is none."""
    try:
        return letter_from(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _key(event: ChangeEvent) -> str | None:
    try:
        return event.key
    except UnrenderableError:  # which may be why it was rejected
        return None


def _content(event: ChangeEvent, limit_bytes: float) -> Letter | None:
    try:
        rendered = event.render(EXTENDED)
    except UnrenderableError:
        rendered = b""
    if 0 < len(rendered) <= limit_bytes:
        content = {"event": rendered.decode()}
        if _says_all(content, rendered):
            return content
    if event.raw is not None and len(event.raw) * 4 // 3 + 4 <= limit_bytes:
        return {"raw": base64.b64encode(event.raw).decode()}
    return None


def _says_all(content: Letter, rendered: bytes) -> bool:
    """Whether the event read back from its text is the same: not with symbols or a key that occurs twice, say."""
    try:
        raw = _raw_event(content)
        return raw is not None and ChangeEvent(raw).render(EXTENDED) == rendered
    except _UNREADABLE:  # UnrenderableError too
        return False
