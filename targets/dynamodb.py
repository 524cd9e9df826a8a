"""Documents to Amazon DynamoDB: a table there holds an item for each document of the collection.

Owns what each operation does. ``_aws.attributes`` has how values are written; in ``_dynamodb``, ``item`` has what is
written on which condition, ``tables`` the tables, ``drop`` what a dropped collection leaves behind, ``held`` what is
there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field

from docdb_stream import aws
from docdb_stream.errors import Caution, ConfigError, TargetError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.formats.facts import FACTS
from docdb_stream.permissions import Permission, named_arn
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.target import Rejection
from docdb_stream.targets._aws.sender import BatchSender, Refusal
from docdb_stream.targets._dynamodb.drop import dropped, moved, older
from docdb_stream.targets._dynamodb.held import DynamoHoldings
from docdb_stream.targets._dynamodb.item import (
    LIMITS,
    OWN,
    PREFIX,
    Item,
    attributes_of,
    floor_id,
    floors_of,
    newest,
    version_of,
)
from docdb_stream.targets._dynamodb.tables import NAME, Tables, destination_of, table_name
from docdb_stream.targets._mirror import (
    OF_COLLECTIONS,
    WRITING,
    check_is_gone,
    check_whole,
    collections_named,
    renamed_to,
)
from docdb_stream.targets._names import shares_names
from docdb_stream.targets._versioned import document_id, document_version
from docdb_stream.template import Template

TOMBSTONE_DAYS: Final = 30
"""As the target mongodb: it has to outlive every change log that could bring a document back."""
_DAY_S: Final = 86_400
_READ_TIMEOUT_S: Final = 5.0
"""An item is at most 400 KB, and a healthy table answers within some milliseconds."""

_STALE: Final = "ConditionalCheckFailedException"
_REFUSED: Final = "ValidationException"
_CONFLICTS: Final = frozenset({"TransactionConflictException", "ReplicatedWriteConflictException"})
"""API reference, PutItem, "Errors": another's transaction, or another region, is writing the item just now."""


def _table(text: str) -> str:
    if not Template(text).is_of_namespace:
        raise ValueError("tables are named by {db} and {coll} alone: a delete says nothing else of its document")
    return text


def _key(text: str) -> str:
    if text in OWN:
        raise ValueError(f"the target itself has an attribute {text}")
    return text


class DynamoSettings(TargetSettings):
    """What can be set about the target dynamodb."""

    switch = "dynamodb_table"

    dynamodb_table: Annotated[str | None, AfterValidator(lambda text: text and _table(text))] = Field(
        default=None,
        description="The DynamoDB table of a collection, made of text, {db} and {coll}: switches the target on. "
        "Absent: off.",
        examples=["{db}-{coll}"],
    )
    dynamodb_key_name: Annotated[str, AfterValidator(_key)] = Field(
        default="_id",
        min_length=1,
        max_length=255,
        description="Name of the table's partition key, of type S: it holds the document's _id as text.",
        examples=["pk"],
    )
    dynamodb_create: bool = Field(
        default=False,
        description="Whether missing tables are made: on-demand, with TTL on. For trying it, and for small use.",
    )
    dynamodb_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When a collection is dropped or renamed: delete its items (or move them to the table of the new "
        "name, if that is watched), which reads all of the table; or keep them.",
    )
    dynamodb_tombstone_days: int = Field(
        default=TOMBSTONE_DAYS,
        ge=1,
        le=3650,
        description="How many days the item of a deleted document stays, without its document, so that no replay "
        "brings it back: more than the change log keeps. Then the table's TTL on _expires deletes it.",
    )
    dynamodb_lanes: int = Field(default=8, ge=1, le=64, description="Requests side by side, at most; one item each.")

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        if self.dynamodb_table is not None and shares_names(Template(self.dynamodb_table), scope):
            yield (
                "DYNAMODB_TABLE: several collections share a table: documents with the same _id take each other's place"
            )


class DynamoTarget:
    """Keeps a table per collection equal to the collection.

    - insert, update, replace: the document's item is written as a whole. An update whose document was gone when it was
      looked up does nothing: its delete follows.
    - delete: the item becomes a tombstone, with ``_deleted``, without the document, and with ``_expires`` for the TTL.
    - drop, rename: the collection's items become tombstones, or are moved to the table of its new name, where the
      stream watches that; or nothing, see ``on_drop``.
    - dropDatabase: nothing, as a drop of every collection comes before it. invalidate and unknown ones: nothing.

    Every write is a PutItem on condition that no newer version, the cluster time, is there: what comes again, or late,
    changes nothing. Requests go side by side, those of one document in order. ``flush`` returns when every event is
    durable or rejected.

    Args:
        table: Template of a collection's table.
        key: The name of the tables' partition key.
        create: Whether missing tables are made.
        on_drop: ``delete`` or ``keep`` the items of a dropped or renamed collection.
        tombstone_days: How long deleted documents are remembered.
        lanes: Requests side by side.
        source: The stream; None: all that comes is watched.

    Raises:
        ConfigError: The stream's updates bring no documents.
    """

    name = NAME
    keyed = True
    settings_model = DynamoSettings
    formats = (FACTS,)

    def __init__(
        self,
        table: str,
        *,
        key: str = "_id",
        create: bool = False,
        on_drop: Literal["delete", "keep"] = "delete",
        tombstone_days: int = TOMBSTONE_DAYS,
        lanes: int = 8,
        source: Settings | None = None,
    ) -> None:
        check_whole(source)
        aws.load()
        self._template = Template(table)
        self._key = key
        self._tables = Tables(key, creates=create)
        self._follows_drops = on_drop == "delete"
        self._tombstone_s = tombstone_days * _DAY_S
        self._lanes = lanes
        self._source = source
        self._destination = destination_of(table, key)
        self._sender = BatchSender(self._destination, "dynamodb:PutItem", self._send, lanes)
        self._names: dict[Namespace, str] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on. Raises ConfigError."""
        own = settings.of(DynamoSettings)
        return cls(
            own.where,
            key=own.dynamodb_key_name,
            create=own.dynamodb_create,
            on_drop=own.dynamodb_on_drop,
            tombstone_days=own.dynamodb_tombstone_days,
            lanes=own.dynamodb_lanes,
            source=settings,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing and ``check`` take."""
        own = settings.of(DynamoSettings)
        actions = ["dynamodb:PutItem", "dynamodb:DescribeTable", "dynamodb:DescribeTimeToLive"]
        if own.dynamodb_on_drop == "delete":
            actions += ["dynamodb:Scan", "dynamodb:BatchGetItem"]
        if own.dynamodb_create:
            actions += ["dynamodb:CreateTable", "dynamodb:UpdateTimeToLive"]
        fields = Template(own.where).fields
        pattern = own.where
        for field in fields:
            pattern = pattern.replace(f"{{{field}}}", "*")
        why = "Each collection has a table, named after it." if fields else ""
        return [Permission(tuple(actions), (named_arn("dynamodb", "table/", pattern),), why)]

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Send what brings the tables to where they are after these events; durable after ``flush``.

        A drop or rename waits for all that was before it, and is done on return.

        Raises:
            TargetError: DynamoDB cannot be reached, refuses the role, lacks a table, or takes nothing for too long.
        """
        pending: list[Item] = []
        rejections: list[Rejection] = []
        for event in events:
            try:
                if event.operation in OF_COLLECTIONS:
                    if self._follows_drops:
                        rejections += [*self._put(self._newer(pending)), *self.flush(), *self._follow(event)]
                        pending = []
                elif (item := self._item_of(event)) is not None:
                    pending.append(item)
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, str(error)))
        return [*rejections, *self._put(self._newer(pending))]

    def flush(self) -> Sequence[Rejection]:
        """Return when everything written is durable or rejected. Raises as ``write`` does."""
        return self._sure(self._sender.flush())

    def close(self) -> None:
        """End the requests and close the connections. Safe to call twice."""
        self._sender.close()
        self._tables.forget()
        if "_client" in self.__dict__:
            self._client.close()

    def check(self) -> None:
        """See that the tables that can be named are there, fit, and have TTL on. Changes nothing.

        Raises:
            TargetError: One is missing and is not to be made, or has another key.
            Caution: One keeps its tombstones for ever.
        """
        tables = self._known_tables()
        if not tables:  # which there are shows at their events: here, that DynamoDB answers, and who may ask
            self._tables.describe(self._table_of(Namespace("docdb-stream", "doctor")))
        cautions = []
        for table in tables:
            try:
                self._tables.check(table)
            except Caution as caution:
                cautions.append(caution)
        if cautions:
            raise cautions[0]

    def holdings(self) -> DynamoHoldings:
        """See ``Verifiable``. Documents are compared as items.

        Raises:
            ConfigError: The target was made without a stream.
        """
        if self._source is None:
            raise ConfigError("the target was made without a stream, so there is nothing to compare")
        return DynamoHoldings(
            self._source,
            self._tables,
            item_of=self._item_of,
            table_of=self._table_of,
            is_own=True if self._follows_drops else None,
        )

    @cached_property
    def _client(self) -> Any:
        return aws.client(
            NAME, read_timeout_s=_READ_TIMEOUT_S, max_pool_connections=self._lanes, parameter_validation=False
        )

    def _item_of(self, event: ChangeEvent) -> Item | None:
        """What the event writes; None where it writes nothing.

        Raises:
            UnrenderableError: What it says cannot be told, or has no place in an item.
        """
        operation = event.operation
        if operation not in WRITING:
            return None
        if not event.has_document_key:
            raise UnrenderableError("documentKey: missing in the event")
        attributes = None
        if operation != "delete":
            attributes = attributes_of(event, self._key)
            if attributes is None:
                check_is_gone(event)
                return None
        id_text = event.object_id or document_id(event.exact_id)
        if id_text.startswith(PREFIX):
            raise UnrenderableError(f"_id: what begins with {PREFIX} is the target's own")
        return self._item(event, event.namespace, id_text, attributes)

    def _item(self, event: ChangeEvent, namespace: Namespace, id_text: str, attributes: Any = None) -> Item:
        return Item(
            event,
            self._table_of(namespace),
            self._key,
            id_text,
            document_version(event.cluster_time),
            str(namespace),
            attributes,
            int(time.time()) + self._tombstone_s,
        )

    def _newer(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those that are not older than what was done with their collections as a whole."""
        if not self._follows_drops:
            return items
        known: dict[tuple[str, str], int] = {}
        for table, ids in floors_of(items).items():
            self._tables.make_ready(table)
            try:
                found = self._tables.get(table, ids)
            except TargetError:
                self._tables.forget()
                self._tables.make_ready(table)  # says so if it was made anew with another key
                raise
            known |= {(table, item[self._key]["S"]): version_of(item) for item in found}
        if not known:
            return items
        return [each for each in items if each.version >= known.get((each.table, floor_id(each.source)), 0)]

    def _put(self, items: Sequence[Item]) -> list[Rejection]:
        """Send items, of each document the last; see ``BatchSender.send``."""
        if not items:
            return []
        with self._destination.errors("dynamodb:PutItem"):
            self._client  # noqa: B018 - made here, before there are several threads
        for table in dict.fromkeys(each.table for each in items):
            self._tables.make_ready(table)
        return self._sure(self._sender.send([each.record for each in newest(items)], LIMITS))

    def _sure(self, rejections: Sequence[Rejection]) -> list[Rejection]:
        """See that it is the items that are refused, and not each item of a table that was made anew with another key.
        Raises TargetError."""
        if rejections:
            self._tables.forget()
            for table in dict.fromkeys(self._table_of(each.event.namespace) for each in rejections):
                self._tables.make_ready(table)
        return [*rejections]

    def _send(self, entries: list[dict[str, Any]]) -> list[Refusal]:
        try:
            self._client.put_item(**entries[0])
        except aws.request_errors() as error:
            code = aws.error_code(error)
            if code == _STALE:
                return []
            # The table fits, as is seen afterwards: it is the item, as with a value that an index cannot have.
            if code == _REFUSED or code in _CONFLICTS:
                return [Refusal(0, code, permanent=code == _REFUSED)]
            raise
        return []

    def _follow(self, event: ChangeEvent) -> list[Rejection]:
        """Do with the items of a collection as was done with the collection; safe to repeat. Raises as ``write``.

        Returns:
            The event itself, once, where an item could not be written.
        """
        old = self._item(event, event.namespace, "")
        renamed = renamed_to(event, self._source)
        if renamed is None:
            return self._bury(old)[:1]
        # What was there under the new name is replaced: by tombstones that are older than what comes there, so that one
        # that is late takes nothing away.
        new = self._item(event, renamed, "")
        return [*self._bury(new, new.version - 1), *self._move(old, new)][:1]

    def _bury(self, old: Item, version: int | None = None) -> list[Rejection]:
        """Write tombstones of a version, that of the drop itself if none is given."""
        rejections = self._forbid_older(old)
        for page in older(self._tables, old):
            rejections += self._written(replace(dropped(each, old), version=version or old.version) for each in page)
        return rejections

    def _move(self, old: Item, new: Item) -> list[Rejection]:
        rejections = self._forbid_older(old)
        for page in older(self._tables, old):
            rejections += self._written(moved(each, new) for each in page)
            if old.table != new.table:  # the collection is gone, whatever of it the new table takes
                rejections += self._written(dropped(each, old) for each in page)
        return rejections

    def _forbid_older(self, old: Item) -> list[Rejection]:
        """Let nothing of the collection come any more that is older than the drop."""
        is_there = self._tables.describe(old.table) is not None
        return self._written([replace(old, id=floor_id(old.source))]) if is_there else []

    def _written(self, items: Iterable[Item]) -> list[Rejection]:
        """Write items; they are durable, or rejected, on return."""
        return [*self._put([*items]), *self.flush()]

    def _table_of(self, namespace: Namespace) -> str:
        if namespace not in self._names:
            self._names[namespace] = table_name(self._template, namespace)
        return self._names[namespace]

    def _known_tables(self) -> list[str]:
        """Those of which the names are known before anything was read."""
        if not self._template.fields:
            return [self._table_of(Namespace(""))]
        named = collections_named(self._source) if self._source else []
        return [*dict.fromkeys(self._table_of(each) for each in named)]
