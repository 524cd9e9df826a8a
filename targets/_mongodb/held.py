"""What the target's collections hold of a stream, for comparing: see ``held.Holdings``.

Owns how documents there are read beside their versions, which say what is the stream's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final

from bson import MaxKey, Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from docdb_stream.derived_update import is_derived
from docdb_stream.errors import SourceUnavailableError, TargetError, UnrenderableError
from docdb_stream.event import ChangeEvent
from docdb_stream.formats.key import element_key
from docdb_stream.held import Held
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.documents import MongoDocuments
from docdb_stream.position import Namespace, SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.snapshot_event import id_elements
from docdb_stream.targets._mongodb.change import RAW, WRITING, Value, write_of
from docdb_stream.targets._mongodb.errors import NAME, passes, trouble
from docdb_stream.targets._mongodb.state import key_of, version_id

_DIGEST_BYTES: Final = 16
_PAGE_DOCUMENTS: Final = 1000
_VERSIONS_AT_ONCE: Final = 500
_AFTER_VERSIONS: Final = {"o": ""}
"""Documents are ordered by the type, then the name, then the value of each field: what is {n: text, ...} is before."""


class MongoHoldings:
    """See ``Holdings``.

    Args:
        settings: The stream.
        connection: To the target; called when it is needed, its owner closes it.
        state: The collection of the target's state.
        target_of: The collection that a collection is mirrored to.
        is_own: What is said of what the stream has written; None where it may be there on purpose, after a drop.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Callable[[], Connection],
        state: Namespace,
        target_of: Callable[[Namespace], str],
        *,
        is_own: bool | None,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._state = state
        self._target_of = target_of
        self._is_own = is_own
        self._made: tuple[Connection, MongoDocuments] | None = None

    def expected(self, event: ChangeEvent) -> Held | None:
        """See Holdings."""
        if is_derived(event) or event.operation not in WRITING:
            return None
        write = write_of(event, self._target_of(event.namespace))
        if write is None:
            return None
        element = write.key.named("_id")
        digest = None if write.document is None else _digest(bytes(write.document.raw))
        return Held(write.target, _key(element), digest, write.version, id=element)

    def as_they_are(self, namespace: Namespace, documents: Sequence[bytes]) -> Sequence[Held]:
        """See AsTheyAre."""
        return _all_held(self._target_of(namespace), documents)

    def place_of(self, namespace: Namespace) -> str | None:
        """See Holdings."""
        return self._target_of(namespace)

    def places(self) -> Mapping[str, Sequence[Namespace]]:
        """See Holdings: what the versions tell of, also of collections that are gone."""
        found: dict[str, Sequence[Namespace]] = {}
        after: Mapping[str, Any] = {"n": ""}
        while first := self._asked({"$gt": after, "$lt": _AFTER_VERSIONS}, limit=1):
            place, source = str(first[0]["_id"]["n"]), _namespace(str(first[0].get("s") or "."))
            after = {"n": place, "s": MaxKey()}
            if self._settings.watches(source) and self._target_of(source) == place:
                found[place] = [source]
        return found

    def held(self, place: str) -> Iterator[Held]:
        """See Holdings. By pages, each a query of its own: an election there is waited for as in a run."""
        left = SnapshotRange(_namespace(place))
        while not left.done:
            with _told():
                page = self._documents().read(left, since=None, match=None, limit=_PAGE_DOCUMENTS)
            left = page.rest
            yield from _all_held(place, page.documents)

    def sample(self, place: str, count: int) -> Sequence[Held]:
        """See Holdings."""
        with _told():
            elements = self._documents().sample(_namespace(place), count)
        return [Held(place, _key(element), b"", id=element) for element in elements]

    def look(self, wanted: Sequence[Held]) -> Sequence[Held]:
        """See Holdings."""
        found: dict[tuple[str, bytes], Held] = {}
        for place in dict.fromkeys(each.place for each in wanted):
            elements = [each.id for each in wanted if each.place == place and each.id is not None]
            found |= self._found(place, elements)
            versions = self._versions(place, elements)
            # What is there, and by its version is not this stream's, may have been deleted between the two looks.
            doubtful = [
                element
                for element in elements
                if (place, _key(element)) in found and versions.get(_key(element), (None, False))[1] is False
            ]
            if doubtful:
                again = self._found(place, doubtful)
                found |= {
                    (place, _key(element)): again.get((place, _key(element)))
                    or Held(place, _key(element), None, id=element)
                    for element in doubtful
                }
                versions = {**versions, **self._versions(place, doubtful)}
            for element in elements:
                key = _key(element)
                there = found.get((place, key)) or Held(place, key, None, id=element)
                version, is_own = versions.get(key, (None, False))
                found[place, key] = there._replace(version=version, is_own=is_own)
        return [found[each.place, each.key] for each in wanted]

    def _found(self, place: str, elements: Sequence[bytes]) -> dict[tuple[str, bytes], Held]:
        """The documents of these that are there now."""
        found: dict[tuple[str, bytes], Held] = {}
        with _told():
            for page in self._documents().find(_namespace(place), elements, since=self._now()):
                found |= {(place, each.key): each for each in _all_held(place, page.documents)}
        return found

    def id_of(self, held: Held) -> bytes | None:
        """See Holdings."""
        return held.id

    def _versions(self, place: str, elements: Sequence[bytes]) -> Mapping[bytes, tuple[Timestamp, bool | None]]:
        """By key, when a document was written or deleted last, and whether that was what this stream watches; without
        those of which nothing is known."""
        known: dict[bytes, tuple[Timestamp, bool | None]] = {}
        for first in range(0, len(elements), _VERSIONS_AT_ONCE):
            part = elements[first : first + _VERSIONS_AT_ONCE]
            for version in self._asked({"$in": [version_id(place, Value.of(each)) for each in part]}):
                source = Namespace(*str(version.get("s", ".")).split(".", 1))
                is_own = self._settings.watches(source) and "until" not in version
                known[_key(key_of(version).named("_id"))] = (version["v"], self._is_own if is_own else False)
        return known

    def _asked(self, ids: Mapping[str, Any], limit: int = 0) -> list[RawBSONDocument]:
        """What the state has of these, in order."""
        connection = self._connection()

        def ask() -> list[RawBSONDocument]:
            state = connection.client[self._state.db].get_collection(
                str(self._state.coll),
                codec_options=RAW,
                read_preference=ReadPreference.PRIMARY,
                read_concern=ReadConcern("majority"),
            )
            return [*state.find({"_id": ids}, sort=[("_id", 1)], limit=limit, batch_size=_VERSIONS_AT_ONCE + 1)]

        try:
            return connection.patiently(ask, passes=passes)
        except PyMongoError as error:
            raise trouble(error, connection.uri) from error

    def _now(self) -> Timestamp | None:
        """The operation time of the target: what is read not before it shows all that was written."""
        connection = self._connection()
        try:
            found = connection.patiently(
                lambda: connection.client.admin.command("ping", read_preference=ReadPreference.PRIMARY), passes=passes
            ).get("operationTime")
        except PyMongoError as error:
            raise trouble(error, connection.uri) from error
        return found if isinstance(found, Timestamp) else None

    def _documents(self) -> MongoDocuments:
        connection = self._connection()
        if self._made is None or self._made[0] is not connection:
            self._made = connection, MongoDocuments(self._settings, connection)
        return self._made[1]


def _all_held(place: str, documents: Sequence[bytes]) -> list[Held]:
    return [
        Held(place, _key(element), _digest(document), None, True, element)
        for element, document in zip(id_elements(documents), documents, strict=True)
    ]


def _digest(document: bytes) -> bytes:
    return blake2b(document, digest_size=_DIGEST_BYTES).digest()


_OTHER_FORMS: Final = frozenset({0x01, 0x03, 0x0E, 0x0F, 0x10, 0x12, 0x13})
"""Types of BSON whose values may have others that are the same ``_id``, or hold such: numbers, documents, symbols."""


def _key(element: bytes) -> bytes:
    """The same for what the server takes for one ``_id``, as 1 and 1.0."""
    if element[0] not in _OTHER_FORMS:
        return element
    try:
        return element_key(element).encode()
    except UnrenderableError:  # it has one form only that could be meant
        return element


def _namespace(place: str) -> Namespace:
    return Namespace(*place.split(".", 1))


@contextmanager
def _told() -> Iterator[None]:
    """Trouble with the target, in the name of the target."""
    try:
        yield
    except SourceUnavailableError as error:
        raise TargetError(NAME, str(error), hint=error.hint) from error
