"""MATCH: only the events that a query in MongoDB's language matches; and what becomes of documents that leave it.

Inserts, updates and replacements are judged. Every other event passes: a target has to hear of deletes, also of those
of documents that it never got.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import bson

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Events, Rejection
from docdb_stream.formats import rawbson
from docdb_stream.formats.decoded import DECODE_OPTIONS, Decoded
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.part import Reading
from docdb_stream.query.parse import Query, parse
from docdb_stream.query.values import as_document, read
from docdb_stream.settings import Settings
from docdb_stream.settings.shaping import STATE
from docdb_stream.target import Target, announced, is_keyed

OnExit = Literal["delete", "ignore"]

_JUDGED: Final = frozenset({"insert", "update", "replace"})
_DOCUMENT: Final = "fullDocument"
_OF_A_DELETE: Final = ("_id", "operationType", "clusterTime", "wallTime", "ns", "documentKey", "lsid", "txnNumber")
"""What a delete has (MongoDB manual, "delete Event"), and what every event has; nothing of the document."""
_RENDERED_SHARE: Final = 0.25
"""Of a batch's events, how many have to pass for rendering them all while they are decoded to be worth it: below that,
decoding those that passed a second time costs less (measured: at 40 % 11 and 13 us an event, at 10 % 11 and 9)."""


def match_step(settings: Settings, targets: Iterable[Target], *, is_last: bool) -> Match:
    """The step that the settings ask for by MATCH.

    Args:
        settings: The stream; its MATCH is set.
        targets: Where the events go.
        is_last: Whether they get what passes as it is; else nothing is rendered before other steps have seen it.
    """
    assert settings.match is not None
    targets = [*targets]
    query = parse(settings.match)
    is_about_state = query.is_about({_DOCUMENT}) and query.is_only_about(STATE)
    on_exit: OnExit = "delete" if is_about_state and any(map(is_keyed, targets)) else "ignore"
    return Match(
        query,
        settings.on_exit or on_exit,
        null_is_gone=settings.full_document == "update_lookup",
        formats=announced(targets) if is_last else (),
    )


class Match:
    """The step. It is also what it reads in events (see ``Reading``): whether each passes.

    Args:
        query: Over the change event.
        on_exit: What becomes of an update or replacement that does not match: a delete of its key, or nothing.
        null_is_gone: Whether an update without its document is one whose document was deleted since; else it is not
            known what the document is.
        formats: What will be asked of the events that pass, if that is known: it is found in the same decoding.
    """

    name = "match"
    finds = bool

    def __init__(
        self,
        query: Query,
        on_exit: OnExit,
        *,
        null_is_gone: bool = True,
        formats: Iterable[Reading[Any]] = (),
    ) -> None:
        self.on_exit = on_exit
        self._matches = query.matches
        self._of_namespaces = [part.matches for part in query.parts if part.is_only_about({"ns"})]
        self._asks_for_the_document = query.is_about({_DOCUMENT})
        self._null_is_gone = null_is_gone
        self._wanted = [FACTS, *formats]
        self._passed_share = 1.0

    def __call__(self, events: Sequence[ChangeEvent]) -> Iterable[ChangeEvent | Rejection]:
        """What passes, and what comes in the place of what does not; see ``Step``."""
        together = events if isinstance(events, Events) else Events(events)
        are_rendered = self._passed_share >= _RENDERED_SHARE
        together.want([self, *(self._wanted if are_rendered else (FACTS,))])
        verdicts = together.find(self)
        self._passed_share = verdicts.count(True) / max(1, len(verdicts))
        if all(verdict is True for verdict in verdicts):
            return together
        found = [
            event if verdict is True else self._instead(event, verdict)
            for event, verdict in zip(together, verdicts, strict=True)
        ]
        return self._together([one for one in found if one is not None], made_anew=not are_rendered)

    def render(self, decoded: Decoded) -> Sequence[bool | UnrenderableError]:
        """Whether each event passes, or why that cannot be told."""
        if decoded.is_whole:
            return [self._verdict(document) for document in decoded.documents]
        return [self._verdict(_exact(one)) for one in decoded.each]

    def _verdict(self, event: Mapping[str, Any]) -> bool | UnrenderableError:
        operation = event.get("operationType")
        if operation not in _JUDGED:
            return True
        try:
            if self._asks_for_the_document and as_document(event.get(_DOCUMENT)) is None:
                return self._without_document(operation)
            return self._matches(event)
        except UnrenderableError as error:
            return error.with_traceback(None)

    def _without_document(self, operation: str) -> bool | UnrenderableError:
        """A document that is not there does not match, whatever the query says of missing fields."""
        if self._null_is_gone or operation != "update":
            return False
        return UnrenderableError("MATCH cannot judge it: the server kept no post-image of the document")

    def _instead(self, event: ChangeEvent, verdict: bool | UnrenderableError) -> ChangeEvent | Rejection | bytes | None:
        """What becomes of an event that does not match, or that cannot be judged; None: nothing."""
        try:
            operation = event.operation
        except UnrenderableError:
            return event  # no change event: each target refuses it
        if operation not in _JUDGED:
            return event
        if isinstance(verdict, UnrenderableError):
            return Rejection(event, self.name, str(verdict))
        if operation == "insert" or self.on_exit == "ignore" or self._is_elsewhere(event):
            return None
        try:
            return _delete(event)
        except UnrenderableError as error:
            return Rejection(event, self.name, str(error))

    def _is_elsewhere(self, event: ChangeEvent) -> bool:
        """Whether no document of its namespace ever matched: a target knows nothing of it, not even by its name."""
        ns = event.namespace
        return not all(matches({"ns": {"db": ns.db, "coll": ns.coll}}) for matches in self._of_namespaces)

    def _together(
        self, found: Sequence[ChangeEvent | Rejection | bytes], *, made_anew: bool
    ) -> Iterable[ChangeEvent | Rejection]:
        """What is made here comes together, so that it is decoded together; of events that were not rendered yet, so
        does what passed, without those that did not."""

        def fresh(one: ChangeEvent | Rejection | bytes) -> bytes | None:
            if isinstance(one, bytes):
                return one
            return one.raw if made_anew and isinstance(one, ChangeEvent) else None

        raws = [*map(fresh, found)]
        made = Events.of([raw for raw in raws if raw is not None])
        made.want(self._wanted)
        rest = iter(made)
        return [next(rest) if raw is not None else one for one, raw in zip(found, raws, strict=True)]  # type: ignore[misc]


def _exact(one: Decoded) -> Mapping[str, Any]:
    """An event with all that decoding may have lost."""
    if one.is_whole:
        return one.documents[0]
    return read(one.raw or bson.encode(one.documents[0], codec_options=DECODE_OPTIONS))


def _delete(event: ChangeEvent) -> bytes:
    """The delete of the event's document, in its place: the same token, time and key, as the very bytes that they are.

    Raises:
        UnrenderableError: The event has no document key.
    """
    parts = rawbson.parts(event.raw or bson.encode(event.document, codec_options=DECODE_OPTIONS))
    if "documentKey" not in parts:
        raise UnrenderableError("documentKey: missing in the event, so that it cannot become a delete")
    parts |= rawbson.parts(bson.encode({"operationType": "delete"}))
    return rawbson.joined(part for name, part in parts.items() if name in _OF_A_DELETE)
