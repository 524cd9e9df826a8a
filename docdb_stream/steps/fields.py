"""The step that takes fields out of documents, or hides their values: FIELDS_KEEP, _DROP, _MASK and _HASH.

Owns that no event goes on whose fields cannot be told apart, and when the key is read. What becomes of an event is
``_redaction``'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import bson
from bson.errors import BSONError

from docdb_stream.errors import ConfigError, DocdbStreamError, UnrenderableError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.formats.decoded import DECODE_OPTIONS, Decoded, Document, decode_all
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.part import Part, parts
from docdb_stream.secret import read_text
from docdb_stream.settings import Settings
from docdb_stream.steps._paths import Rules
from docdb_stream.steps._redaction import Redaction

LEAST_KEY_BYTES = 16
"""A shorter key is guessed before the values are: NIST SP 800-107 (Revision 1, 5.3.2) wants 112 bits at least."""

_HEAD: Final = ("_id", "operationType", "clusterTime", "ns")
"""What is left of an event that cannot be decoded, besides the ``_id`` of its document key: it says which event it is,
and holds nothing that rules could be about."""

_UNREADABLE: Final = "it is no valid BSON, so its fields cannot be told apart; read the document by its document_key"


def read_key(reference: str) -> bytes:
    """The key that values are hashed with: the text that a secret holds, without a line's end after it.

    Raises:
        ConfigError: It cannot be read, or is too short.
    """
    key = read_text(reference).rstrip("\r\n").encode()
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigError(
            f"the key for FIELDS_HASH at {reference} has {len(key)} bytes, fewer than {LEAST_KEY_BYTES}",
            hint="make one with: openssl rand -hex 32",
        )
    return key


class Fields:
    """Applies rules to the documents in events. Events that no rule is about go on as they are.

    One that cannot be decoded is rejected, with no more than what says which it is.

    Args:
        rules: What becomes of which fields.
        read_key: Gives the key for hashes, or raises ConfigError. Called with the first events, and not again once it
            gave one: within a process, equal values have equal hashes.
    """

    name = "fields"

    @classmethod
    def from_settings(cls, settings: Settings) -> Fields:
        """The step of a stream. Reads nothing yet."""
        rules = Rules(settings.fields_keep, settings.fields_drop, settings.fields_mask, settings.fields_hash)
        reference = settings.fields_hash_key
        return cls(rules, None if reference is None else lambda: read_key(reference))

    def __init__(self, rules: Rules, read_key: Callable[[], bytes] | None = None) -> None:
        self._names = rules.first_names
        self._top = rules.compile()
        self._read_key = read_key
        self._redaction: Redaction | None = None

    def __call__(self, events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent | Rejection]:
        """See ``Step``.

        Raises:
            ConfigError: The key cannot be read.
        """
        redaction = self._ready()
        found: list[ChangeEvent | Rejection] = [*events]
        concerned = dict[int, bytes]()
        for place, event in enumerate(events):
            try:
                raw = _raw(event)
            except Exception:  # noqa: BLE001 - whatever an event that came as JSON holds which BSON cannot
                found[place] = Rejection(_head(dict(event.document)), self.name, _UNREADABLE)
            else:
                if self._may_concern(raw):
                    concerned[place] = raw
        redacted = self._redacted(redaction, [*concerned.values()])
        for place, new in zip(concerned, redacted, strict=True):
            if new is not None:
                found[place] = new
        return found

    def redact(self, event: ChangeEvent) -> ChangeEvent:
        """See ``Redacting``. Where the key cannot be read, values are masked that would be hashed."""
        try:
            redaction = self._ready()
        except DocdbStreamError:
            redaction = Redaction(self._top)
        try:
            raw = _raw(event)
            [new] = self._redacted(redaction, [raw])
        except Exception:  # noqa: BLE001 - whatever it is, the event must not leave as it is
            return _head({})
        return event if new is None else new.event if isinstance(new, Rejection) else new

    def check(self) -> None:
        """Read the key, as the first events would have it. Raises ConfigError."""
        self._ready()

    def _ready(self) -> Redaction:
        if self._redaction is None:
            self._redaction = Redaction(self._top, None if self._read_key is None else self._read_key())
        return self._redaction

    def _may_concern(self, raw: bytes) -> bool:
        """Whether rules may be about something in the event: a look at its bytes costs less than one at its fields."""
        return not self._names or any(name in raw for name in self._names)

    def _redacted(self, redaction: Redaction, raws: Sequence[bytes]) -> Iterator[ChangeEvent | Rejection | None]:
        """What becomes of each event; None where it stays what it is."""
        for part in parts(raws):
            for decoded in decode_all(part.raws):
                yield from _together(redaction, decoded)


def _together(redaction: Redaction, decoded: Decoded) -> Iterator[ChangeEvent | Rejection | None]:
    """The same for events that were decoded together. So are the new ones, and what every target asks of them is known
    already: rules change nothing of it."""
    if decoded.problem:
        yield Rejection(_head(decoded.documents[0]), Fields.name, _UNREADABLE)
        return
    try:
        made = [redaction.event(raw) for raw in decoded.raws]
    except Exception:  # noqa: BLE001 - whatever one holds that was decoded, and yet cannot be rewritten
        if len(decoded.raws) > 1:
            for alone in decoded.each:
                yield from _together(redaction, alone)
            return
        yield Rejection(_head(decoded.documents[0]), Fields.name, _UNREADABLE)
        return
    is_new = [new is not raw for new, raw in zip(made, decoded.raws, strict=True)]
    if not any(is_new):
        yield from [None] * len(made)
        return
    part = Part([raw for raw, new in zip(made, is_new, strict=True) if new])
    part.facts = [facts for facts, new in zip(FACTS.render(decoded), is_new, strict=True) if new]
    events = iter(ChangeEvent.all_in(part))
    for new in is_new:
        yield next(events) if new else None


def _raw(event: ChangeEvent) -> bytes:
    return bson.encode(event.document, codec_options=DECODE_OPTIONS) if event.raw is None else event.raw


def _head(document: Document) -> ChangeEvent:
    """What may leave of an event that cannot be decoded, or of which an approximation is all there is."""
    head: Document = {name: document[name] for name in _HEAD if name in document}
    key = document.get("documentKey")
    with contextlib.suppress(BSONError, UnrenderableError, RecursionError):
        if isinstance(key, dict) and "_id" in key:
            return ChangeEvent(bson.encode({**head, "documentKey": {"_id": key["_id"]}}, codec_options=DECODE_OPTIONS))
    with contextlib.suppress(BSONError, UnrenderableError, RecursionError):
        return ChangeEvent(bson.encode(head, codec_options=DECODE_OPTIONS))
    return ChangeEvent(bson.encode({}))
