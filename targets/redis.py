"""Documents to Redis or Valkey: a key for each, with its version beside it.

Owns what each operation does. In ``_redis``, ``keys`` has keys, ``values`` what is stored, ``script`` what the server
does in one step, ``write`` the changes on their way, ``drop`` what a dropped collection leaves behind, ``held`` what is
there, ``client`` the connection.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from bson import Timestamp
from bson.datetime_ms import DatetimeMS
from pydantic import AfterValidator, Field

from docdb_stream.errors import Caution, ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.plain import PLAIN
from docdb_stream.permissions import Permission
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, SecretReference
from docdb_stream.target import Rejection
from docdb_stream.targets._mirror import (
    LOCAL,
    OF_COLLECTIONS,
    WRITING,
    check_is_gone,
    check_whole,
    collections_named,
    renamed_to,
)
from docdb_stream.targets._redis.client import Client, script
from docdb_stream.targets._redis.drop import delete_older, move_older
from docdb_stream.targets._redis.errors import NAME
from docdb_stream.targets._redis.held import RedisHoldings
from docdb_stream.targets._redis.keys import ID, PREFIX, Keys, Place, version_key
from docdb_stream.targets._redis.script import WRITE, version_text
from docdb_stream.targets._redis.values import Form, value_of
from docdb_stream.targets._redis.write import Pending, Write
from docdb_stream.targets._versioned import document_id, document_version

TOMBSTONE_DAYS = 30
"""As the targets mongodb and postgresql."""
_DAY_MS: Final = 24 * 60 * 60 * 1000
_LEAST_BULK_BYTES: Final = 64 * 1024 * 1024
"""More than a document of 16 MB, MongoDB's limit, becomes as JSON, unless it is full of control characters."""
_LATEST_MS: Final = (1 << 53) - 1
"""The latest time of an end; beyond it there is none. Redis takes 63 bits, and adds to them."""


def _keys(text: str) -> str:
    Keys(text)
    return text


class RedisSettings(TargetSettings):
    """What can be set about the target redis."""

    switch = "redis_uri"

    redis_uri: Annotated[str | None, Address("redis_secret")] = Field(
        default=None,
        description="Address of the Redis (6.0 or later), Valkey, ElastiCache or MemoryDB server, or of a cluster's "
        "node: switches the target on. rediss:// is TLS. Absent: off.",
        examples=["rediss://cache.example:6379/0"],
    )
    redis_secret: SecretReference = Field(
        default=None,
        description="User name and password for it, by reference as documentdb_secret.",
        examples=["redis/writer"],
    )
    redis_key: Annotated[str, AfterValidator(_keys)] = Field(
        default="{db}:{coll}:{id}",
        description="The key of a document, made of {db}, {coll} and {id}, its _id as text.",
        examples=["cart:{id}"],
    )
    redis_value: Form = Field(
        default="json",
        description="How a document is stored: json, a text (GET); or hash, a field for each of its own (HGET), text "
        "as it is and all else as JSON.",
    )
    redis_ttl_seconds: int | None = Field(
        default=None,
        ge=1,
        le=10 * 366 * 24 * 60 * 60,
        description="Seconds after its last change that a document stays. Absent: until it is deleted.",
        examples=["3600"],
    )
    redis_ttl_field: str | None = Field(
        default=None,
        min_length=1,
        description="The field of documents, as a dotted path, whose date says when a document ends; of those without "
        "one redis_ttl_seconds does, if it is set.",
        examples=["expiresAt"],
    )
    redis_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When a collection is dropped or renamed: delete its documents (or move them to the keys of the "
        "new name, if that is watched), or keep them.",
    )
    redis_tombstone_days: int = Field(
        default=TOMBSTONE_DAYS,
        ge=1,
        le=3650,
        description="How many days the version of a document that is deleted, or has ended, stays, so that no replay "
        "brings it back: more than the change log keeps.",
    )
    redis_wait_replicas: int = Field(
        default=0,
        ge=0,
        le=15,
        description="How many replicas have to have a change before it counts as delivered (WAIT); 0: the primary "
        "alone. Not for clusters.",
    )

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        needed = {"db", "coll"} if scope is None else set() if scope.coll is not None else {"coll"}
        if not needed <= Keys(self.redis_key).fields:
            yield "REDIS_KEY: several collections share keys: documents with the same _id take each other's place"
        address = urlsplit(self.redis_uri or "")
        if address.scheme == "redis" and address.hostname not in LOCAL:
            yield "REDIS_URI: the connection is without TLS; say rediss://"


class RedisTarget:
    """Keeps a key for each document of a collection.

    - insert, update, replace: the document is stored as a whole, in place of what was there. An update whose document
      was gone when it was looked up does nothing: its delete follows.
    - delete: the key is deleted, and the document's version stays for ``tombstone_days``.
    - drop, rename: the collection's keys are deleted, or moved to those of its new name, where the stream watches that;
      or nothing, see ``on_drop``. All keys of the server are gone through for that.
    - dropDatabase: nothing, as a drop of every collection comes before it. invalidate and unknown ones: nothing.

    A document has its version, the cluster time, under a second key in the same slot; both change in one script. What
    comes again, or late, never replaces something newer.

    Everything is acknowledged once ``write`` returns: by the primary, and by ``replicas`` of its replicas. Redis itself
    may lose what it has acknowledged: at a failover, and what is not on its disk when it dies (``appendfsync``).

    Args:
        uri: ``redis://host:6379/0``, or ``rediss://`` with TLS. Whether it is a cluster, the server says.
        secret: Where user name and password are (see ``read_credentials``).
        key: Template of a document's key.
        value: ``json`` or ``hash``.
        ttl_s: Seconds after its last change that a document stays; None: until it is deleted.
        ttl_field: The dotted path of the date at which a document ends; without one, ``ttl_s`` says.
        on_drop: ``delete`` or ``keep`` the keys of a dropped or renamed collection.
        tombstone_days: How long versions of documents that are gone are remembered.
        replicas: How many replicas have to have a change.
        source: The stream; None: all that comes is watched.

    Raises:
        ConfigError: redis-py is not installed, or the stream's updates bring no documents.
        ValueError: The key is no template of keys.
    """

    name = NAME
    keyed = True
    settings_model = RedisSettings
    formats = (PLAIN, FACTS)

    def __init__(
        self,
        uri: str,
        *,
        secret: str | None = None,
        key: str = "{db}:{coll}:" + ID,
        value: Form = "json",
        ttl_s: int | None = None,
        ttl_field: str | None = None,
        on_drop: Literal["delete", "keep"] = "delete",
        tombstone_days: int = TOMBSTONE_DAYS,
        replicas: int = 0,
        source: Settings | None = None,
    ) -> None:
        check_whole(source)
        self._client = Client(uri, secret, replicas=replicas)
        self._keys = Keys(key)
        self._form: Form = value
        self._ttl_ms = None if ttl_s is None else 1000 * ttl_s
        self._ttl_path = None if ttl_field is None else ttl_field.split(".")
        self._follows_drops = on_drop == "delete"
        self._tombstone_ms = tombstone_days * _DAY_MS
        self._source = source
        self._places: dict[Namespace, Place] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on. Raises ConfigError."""
        own = settings.of(RedisSettings)
        return cls(
            own.where,
            secret=own.redis_secret,
            key=own.redis_key,
            value=own.redis_value,
            ttl_s=own.redis_ttl_seconds,
            ttl_field=own.redis_ttl_field,
            on_drop=own.redis_on_drop,
            tombstone_days=own.redis_tombstone_days,
            replicas=own.redis_wait_replicas,
            source=settings,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """None of AWS; secrets are seen to for all targets."""
        return []

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Write what brings the keys to where they are after these events. It is acknowledged on return.

        Raises:
            TargetError: The server cannot be reached, is full, or refuses the user.
        """
        pending = Pending(self._client, self._form)
        rejections = []
        for event in events:
            try:
                if event.operation in OF_COLLECTIONS:
                    pending.settle()
                    self._follow(event)
                    pending.forget_floors()
                elif (write := self._write_of(event)) is not None:
                    pending.add(write)
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, str(error)))
        pending.settle()
        return [*rejections, *pending.rejections]

    def flush(self) -> Sequence[Rejection]:
        """Nothing is left to do."""
        return ()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def check(self) -> None:
        """Reach the server, have a script done that changes nothing, and see that it keeps what it is given.

        Raises:
            TargetError: It would not work.
            Caution: The server may throw keys away, or has them in memory alone.
        """
        key = self._key_of_nothing()
        self._client.do([script(WRITE, [key, version_key(key)], version_text(0), "", "gone", "", "1")])
        if self._follows_drops:
            self._client.do([("TYPE", key), ("PTTL", key)], writes=False)
            self._client.try_scan(key)
        policy = self._client.info("memory").get("maxmemory_policy")
        if policy not in (None, "noeviction"):
            raise Caution(
                f"maxmemory-policy is {policy}: a full server throws documents away, and versions with them",
                hint="set maxmemory-policy noeviction",
            )
        largest = self._client.config("proto-max-bulk-len")
        if largest is not None and int(largest) < _LEAST_BULK_BYTES:
            raise Caution(
                f"proto-max-bulk-len is {largest}: a larger document ends the connection, and stops the stream",
                hint=f"set proto-max-bulk-len to {_LEAST_BULK_BYTES} at least",
            )
        saves = self._client.config("appendonly") == "yes" or bool(self._client.config("save"))
        if self._client.config("appendonly") is not None and not saves:
            raise Caution(
                "the server has no persistence: what it holds is gone when it ends",
                hint="set appendonly yes, or have docdb-stream snapshot start fill it again",
            )

    def holdings(self) -> RedisHoldings:
        """See ``Verifiable``.

        Raises:
            ConfigError: The target was made without a stream.
        """
        if self._source is None:
            raise ConfigError("the target was made without a stream, so there is nothing to compare")
        return RedisHoldings(
            self._source,
            self._client,
            self._form,
            write_of=self._write_of,
            place_of=self._place_of,
            is_own=True if self._follows_drops else None,
            may_have_ended=self._ttl_ms is not None,
        )

    def _key_of_nothing(self) -> str:
        """A key that no document has, beside those that the stream's documents have where these can be named."""
        named = collections_named(self._source) if self._source else []
        return self._place_of(named[0]).key("docdb-stream-doctor") if named else f"{PREFIX}doctor"

    def _write_of(self, event: ChangeEvent) -> Write | None:
        """What the event writes; None where it writes nothing.

        Raises:
            UnrenderableError: What it says cannot be told.
        """
        if event.operation not in WRITING:
            return None
        payload = event.render(PLAIN) if event.operation != "delete" else b"null"
        if not event.has_document_key:
            raise UnrenderableError("documentKey: missing in the event")
        if payload == b"null" and event.operation != "delete":
            check_is_gone(event)
            return None
        namespace, place = event.namespace, self._place_of(event.namespace)
        write = Write(
            event,
            place.key(event.object_id or document_id(event.exact_id)),
            place,
            str(namespace),
            document_version(event.cluster_time),
            None if payload == b"null" else value_of(self._form, payload),
        )
        if write.value is None:
            write.forgotten_ms = int(time.time() * 1000) + self._tombstone_ms
        elif (expires_ms := self._end_of(event)) is not None:
            write.expires_ms = expires_ms
            write.forgotten_ms = max(expires_ms, int(time.time() * 1000)) + self._tombstone_ms
        return write

    def _end_of(self, event: ChangeEvent) -> int | None:
        """When a document ends, in milliseconds since 1970; None where it does not."""
        value: Any = event.full_document if self._ttl_path else None
        for name in self._ttl_path or ():
            value = value.get(name) if isinstance(value, Mapping) else None
        found = _milliseconds(value)
        if found is None and self._ttl_ms is not None:
            found = event.cluster_time.time * 1000 + self._ttl_ms
        return None if found is None or found > _LATEST_MS else max(1, found)

    def _follow(self, event: ChangeEvent) -> None:
        """Do with the keys of a collection as was done with the collection. Raises as ``drop``."""
        if not self._follows_drops:
            return
        namespace, at = event.namespace, document_version(event.cluster_time)
        old = self._place_of(namespace), str(namespace)
        renamed = renamed_to(event, self._source)
        if renamed is None:
            delete_older(self._client, *old, at)
        else:
            move_older(self._client, old, (self._place_of(renamed), str(renamed)), at, self._tombstone_ms)

    def _place_of(self, namespace: Namespace) -> Place:
        if namespace not in self._places:
            self._places[namespace] = self._keys.of(namespace)
        return self._places[namespace]


def _milliseconds(value: Any) -> int | None:
    if isinstance(value, DatetimeMS):
        return int(value)
    if isinstance(value, Timestamp):
        return value.time * 1000
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        return (aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
    return None
