"""What keys hold of a stream, for comparing: see ``held.Holdings``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from docdb_stream.event import ChangeEvent
from docdb_stream.held import Held
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings
from docdb_stream.targets._redis.client import Client
from docdb_stream.targets._redis.keys import SOURCES, Place, field_of, source_of, version_key
from docdb_stream.targets._redis.script import Known
from docdb_stream.targets._redis.values import READS, Form, digest_of, type_of
from docdb_stream.targets._redis.write import Write
from docdb_stream.targets._versioned import document_key, version_time

_PAGE_KEYS: Final = 100


class RedisHoldings:
    """See ``Holdings``.

    Args:
        settings: The stream.
        client: To the server; its owner closes it.
        form: How documents are stored.
        write_of: What an event writes.
        place_of: The keys of a collection.
        is_own: What is said of what the stream has written; None where it may be there on purpose, after a drop.
        may_have_ended: Whether every document ends some time after its last change, which verify does not know: one
            that is not there is taken for ended.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        form: Form,
        *,
        write_of: Callable[[ChangeEvent], Write | None],
        place_of: Callable[[Namespace], Place],
        is_own: bool | None,
        may_have_ended: bool,
    ) -> None:
        self._settings = settings
        self._client = client
        self._form = form
        self._write_of = write_of
        self._place_of = place_of
        self._is_own = is_own
        self._may_have_ended = may_have_ended
        self._places: dict[str, Place] = {}

    def expected(self, event: ChangeEvent) -> Held | None:
        """See Holdings. A document whose time has come is not there."""
        write = self._write_of(event)
        if write is None:
            return None
        place = self._named(event.namespace)
        is_there = write.value is not None and (write.expires_ms is None or write.expires_ms > time.time() * 1000)
        # A hash without fields is not there either.
        digest = digest_of(self._form, write.value) if is_there and write.value else None
        return Held(place, write.key.encode(), digest, event.cluster_time)

    def place_of(self, namespace: Namespace) -> str | None:
        """See Holdings."""
        return self._named(namespace)

    def places(self) -> Mapping[str, Sequence[Namespace]]:
        """See Holdings: what was ever written, also of collections that are gone."""
        [stored] = self._client.do([("HKEYS", SOURCES)], writes=False)
        found: dict[str, list[Namespace]] = {}
        for field in stored:
            namespace = source_of(field)
            if self._settings.watches(namespace) and field_of(self._place_of(namespace), str(namespace)) == field:
                found.setdefault(self._named(namespace), []).append(namespace)
        return found

    def held(self, place: str) -> Iterator[Held]:
        """See Holdings. A document can come twice where the server makes room while it is asked."""
        for keys in self._client.scan(self._places[place].pattern):
            for first in range(0, len(keys), _PAGE_KEYS):
                page = keys[first : first + _PAGE_KEYS]
                yield from (each for each in self._read(place, page) if each.digest is not None)

    def sample(self, place: str, count: int) -> Sequence[Held]:
        """See Holdings. The first ones in the order of the server's table, which is that of a salted hash."""
        return [*islice(self.held(place), count)]

    def look(self, wanted: Sequence[Held]) -> Sequence[Held]:
        """See Holdings."""
        found: dict[tuple[str, bytes], Held] = {}
        for place in dict.fromkeys(each.place for each in wanted):
            keys = [each.key.decode() for each in wanted if each.place == place]
            for first in range(0, len(keys), _PAGE_KEYS):
                for each in self._read(place, keys[first : first + _PAGE_KEYS]):
                    found[place, each.key] = each
        looked = [found[each.place, each.key] for each in wanted]
        if not self._may_have_ended:
            return looked
        return [
            seen._replace(digest=each.digest) if seen.digest is None else seen
            for seen, each in zip(looked, wanted, strict=True)
        ]

    def id_of(self, held: Held) -> bytes | None:
        """See Holdings."""
        id = self._places[held.place].id(held.key.decode())
        return None if id is None else document_key(id)

    def _named(self, namespace: Namespace) -> str:
        place = self._place_of(namespace)
        self._places[place.name] = place
        return place.name

    def _read(self, place: str, keys: Sequence[str]) -> list[Held]:
        ours = [key for key in keys if self._places[place].id(key) is not None]
        found = self._seen(place, ours)
        # A document and its version are two keys: one that is there without a version may just have gone, or moved.
        doubtful = [each.key.decode() for each in found if each.digest is not None and each.version is None]
        again = {each.key: each for each in self._seen(place, doubtful)} if doubtful else {}
        return [again.get(each.key, each) for each in found]

    def _seen(self, place: str, ours: Sequence[str]) -> list[Held]:
        kinds = [*map(type_of, self._client.do([("TYPE", key) for key in ours], writes=False))]
        asked = [(READS.get(kind, "TYPE"), key) for key, kind in zip(ours, kinds, strict=True)]
        values = self._client.do([*asked, *(("GET", version_key(key)) for key in ours)], writes=False)
        return [
            self._held(place, key, kind, value, known)
            for key, kind, value, known in zip(ours, kinds, values, values[len(ours) :], strict=False)
        ]

    def _held(self, place: str, key: str, kind: str, value: Any, stored: bytes | None) -> Held:
        known = Known.of(stored)
        digest: bytes | None = None
        if kind == "hash" and self._form == "hash":
            digest = digest_of(self._form, [part for pair in value.items() for part in pair])
        elif kind == "string" and self._form == "json":
            digest = digest_of(self._form, [value or b""])
        elif kind != "none":
            digest = b"another type"
        is_own = known is not None and digest is not None and self._settings.watches(_namespace(known.source))
        version = None if known is None else version_time(known.version)
        return Held(place, key.encode(), digest, version, self._is_own if is_own else False)


def _namespace(source: str) -> Namespace:
    return Namespace(*source.split(".", 1))
