"""Documents to MongoDB or Amazon DocumentDB: a collection there holds what the collection holds, and derived updates
are applied to others.

Owns what each operation does. In ``_mongodb``, ``change`` takes it out of the event, ``writer`` has the transactions,
``state`` what is kept for them, ``drop`` what a dropped collection leaves behind, ``held`` what is there, ``watched``
what must not be written to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field
from pymongo.errors import PyMongoError

from docdb_stream.derived_update import checked_namespace, is_derived
from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.formats.facts import FACTS
from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.diagnosis import HELLO
from docdb_stream.mongodb.state import StateCollection
from docdb_stream.permissions import Permission, bucket_arn
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, SecretReference
from docdb_stream.target import Rejection
from docdb_stream.targets._mongodb.change import WRITING, Update, Write, update_of, write_of
from docdb_stream.targets._mongodb.drop import delete_older, move_older
from docdb_stream.targets._mongodb.errors import NAME, RefusedError, no_transactions, trouble
from docdb_stream.targets._mongodb.held import MongoHoldings
from docdb_stream.targets._mongodb.pending import Pending
from docdb_stream.targets._mongodb.watched import Watched
from docdb_stream.targets._mongodb.writer import Writer
from docdb_stream.targets._names import shares_names
from docdb_stream.template import Template

_ANY_EVENT = ChangeEvent(document={})
"""For a template that asks nothing of its event."""
_OF_COLLECTIONS = frozenset({"drop", "rename"})
_WHOLE = frozenset({"update_lookup", "required"})
"""With these values of FULL_DOCUMENT an update brings its document, or the document is gone."""


def _mirror(text: str) -> str:
    template = Template(text)
    if not template.is_of_namespace:
        raise ValueError("the collections of a mirror are named by {db} and {coll} alone")
    checked_namespace(template.render(_ANY_EVENT, Namespace("db", "coll")))
    return text


def _collection(text: str) -> str:
    return str(checked_namespace(text))


class MongoSettings(TargetSettings):
    """What can be set about the target mongodb."""

    switch = "mongodb_target_uri"

    mongodb_target_uri: Annotated[str | None, Address("mongodb_target_secret")] = Field(
        default=None,
        description="Connection string of the MongoDB replica set (4.2 or later) or DocumentDB cluster (4.0 or later) "
        "that is written to: switches the target on. A host name alone is taken as documentdb_uri is. It may be the "
        "source, for collections that the stream does not watch. Absent: off.",
        examples=["mongodb://mirror.example:27017/?replicaSet=rs0"],
    )
    mongodb_target_secret: SecretReference = Field(
        default=None,
        description="User name and password for it, by reference as documentdb_secret.",
        examples=["docdb/mirror-writer"],
    )
    mongodb_target_tls_ca: str | None = Field(
        default=None,
        description="CA bundle of it, as documentdb_tls_ca. Absent: TLS as the connection string says.",
        examples=["s3://my-bucket/global-bundle.pem"],
    )
    mongodb_target_namespace: Annotated[str, AfterValidator(_mirror)] = Field(
        default="{db}.{coll}",
        description="The collection that a collection is mirrored to, made of {db} and {coll}.",
        examples=["mirror_{db}.{coll}"],
    )
    mongodb_target_mirror: bool = Field(
        default=True,
        description="Whether to mirror what is watched; false: only derived updates of a transform function are "
        "written.",
    )
    mongodb_target_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When a collection is dropped or renamed: delete its documents (or move them to where the new name "
        "is mirrored, if that is watched), or keep them.",
    )
    mongodb_target_state: Annotated[str, AfterValidator(_collection)] = Field(
        default="docdb_stream_target.state",
        description="The collection there, as db.coll, that keeps versions of documents and positions of streams. "
        "Removing it lets old changes win, and derived updates be applied twice.",
    )

    @property
    def state(self) -> Sequence[Namespace]:
        """See ``TargetSettings``."""
        return (checked_namespace(self.mongodb_target_state),) if self.is_on else ()

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        if self.mongodb_target_mirror and shares_names(Template(self.mongodb_target_namespace), scope):
            yield (
                "MONGODB_TARGET_NAMESPACE: several collections are mirrored to one: documents with the same _id take "
                "each other's place"
            )


class MongoTarget:
    """Keeps collections equal to those of the source, and applies derived updates (see ``derived_update``).

    - insert, update, replace: the document is written as a whole, in the BSON it came in. An update whose document was
      gone when it was looked up does nothing: its delete follows.
    - delete: the document is deleted.
    - drop, rename: what this target wrote of the collection is deleted, or moved to where the new name is mirrored,
      where the stream watches that; or nothing, see ``on_drop``. Indexes and options are nobody's here.
    - dropDatabase: nothing, as a drop of every collection comes before it. invalidate and unknown ones: nothing.
    - a derived update: applied once, in order, and then never again.

    Everything is written within transactions (snapshot, majority), so it is durable once ``write`` returns. A document
    is written with its version, the cluster time, in a collection of the target's own: what comes again, or late,
    never replaces something newer, and brings nothing back that was deleted. With derived updates goes the stream's
    position, and with everything the epoch of the run's lease: a run that another one has taken over from is refused.

    Args:
        uri: The connection string, or a DocumentDB endpoint.
        secret: Where user name and password are (see ``read_credentials``).
        tls_ca: CA bundle, a path or ``s3://``.
        namespace: Template of the collection that a collection is mirrored to.
        mirror: Whether to mirror at all.
        on_drop: ``delete`` or ``keep`` the documents of a dropped or renamed collection.
        state: The collection of the target's own, as ``db.coll``.
        source: The stream, of which nothing may be written into what it watches. None: nobody sees to that.

    Raises:
        ConfigError: It would write into what the stream watches, or could not mirror what the stream reads.
    """

    name = NAME
    keyed = True
    takes_derived = True
    settings_model = MongoSettings
    formats = (FACTS,)

    def __init__(
        self,
        uri: str,
        *,
        secret: str | None = None,
        tls_ca: str | None = None,
        namespace: str = "{db}.{coll}",
        mirror: bool = True,
        on_drop: Literal["delete", "keep"] = "delete",
        state: str = "docdb_stream_target.state",
        source: Settings | None = None,
        stream: str = "",
    ) -> None:
        self._cluster = Cluster(uri, secret, tls_ca, "mongodb_target_uri")
        self._namespace = Template(namespace)
        self._mirrors = mirror
        self._source = source
        self._follows_drops = on_drop == "delete"
        self._state = checked_namespace(state)
        self._watched = Watched(source, self._cluster, self._state)
        self._stream = stream or (source.stream_name if source else "")
        self._connection: Connection | None = None
        self._writer: Writer | None = None
        self._targets: dict[Namespace, str] = {}
        if mirror:
            if source is not None and source.full_document not in _WHOLE:
                raise ConfigError(
                    f"a mirror takes whole documents, and with FULL_DOCUMENT = {source.full_document} updates may "
                    "bring none",
                    hint="set FULL_DOCUMENT = update_lookup or required, or MONGODB_TARGET_MIRROR = false",
                )
            self._watched.check_mirrors(self._rendered)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(MongoSettings)
        return cls(
            own.where,
            secret=own.mongodb_target_secret,
            tls_ca=own.mongodb_target_tls_ca,
            namespace=own.mongodb_target_namespace,
            mirror=own.mongodb_target_mirror,
            on_drop=own.mongodb_target_on_drop,
            state=own.mongodb_target_state,
            source=settings,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What fetching the CA takes; secrets are seen to for all targets."""
        ca = settings.of(MongoSettings).mongodb_target_tls_ca or ""
        if not ca.startswith("s3://"):
            return []
        return [Permission(("s3:GetObject",), (bucket_arn(ca.removeprefix("s3://")),))]

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Write what brings the collections to where they are after these events. It is durable on return.

        Raises:
            TargetError: The server cannot be reached, has no transactions, refuses the credentials, or a later run of
                the stream has written there.
            ConfigError: It would write into what the stream watches.
            SourceUnavailableError: Whether it would cannot be seen, because the source cannot be reached.
        """
        if not events:
            return ()
        writer = self._opened()
        pending = Pending(writer, self.name)
        rejections = []
        for event in events:
            try:
                if is_derived(event):
                    self._apply(update_of(event), pending)
                elif event.operation in _OF_COLLECTIONS:
                    pending.settle()
                    self._follow(event, writer)
                elif (write := self._write_of(event)) is not None:
                    pending.add(write)
            except (UnrenderableError, RefusedError) as error:
                rejections.append(Rejection(event, self.name, str(error)))
        pending.settle()
        return [*rejections, *pending.rejections]

    def flush(self) -> Sequence[Rejection]:
        """Nothing is left to do."""
        return ()

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection, self._writer = self._connection, None, None
        self._targets.clear()
        if connection is not None:
            connection.close()

    def check(self) -> None:
        """Reach the server, see that it has transactions and may be written to, and that it is not what the stream
        watches.

        Raises:
            TargetError: It would not work.
            ConfigError: It would write into what the stream watches.
        """
        with Connection(self._cluster) as connection:
            try:
                hello = connection.client.admin.command(HELLO)
                if "setName" not in hello and hello.get("msg") != "isdbgrid":
                    raise no_transactions("it is a standalone mongod")
                StateCollection(connection, self._state.db, str(self._state.coll)).rehearse()
            except PyMongoError as error:
                raise trouble(error, connection.uri) from error
            self._watched.look(connection, writes=False)
            if self._mirrors:
                self._watched.check_mirrors(self._rendered)

    def holdings(self) -> MongoHoldings:
        """See ``Verifiable``. Documents are compared byte for byte.

        Raises:
            ConfigError: Nothing is mirrored.
        """
        if not self._mirrors or self._source is None:
            raise ConfigError(
                "the target mongodb mirrors nothing (MONGODB_TARGET_MIRROR = false), so there is nothing to compare"
            )
        is_own = True if self._follows_drops else None
        return MongoHoldings(self._source, self._connected, self._state, self._target_of, is_own=is_own)

    def _connected(self) -> Connection:
        self._connection = self._connection or Connection(self._cluster)
        return self._connection

    def _opened(self) -> Writer:
        """What writes, once it is known where."""
        if self._writer is None:
            connection = self._connected()
            writer = Writer(connection, self._state, self._stream)
            writer.prepare()
            self._watched.look(connection, writes=True)
            self._writer = writer
        return self._writer

    def _apply(self, update: Update, pending: Pending) -> None:
        """Have a derived update applied; one of a collection that may not be written to is refused, and remembered as
        such, so that it counts when it is redriven after the settings were corrected."""
        try:
            self._watched.check_derived(update.event.namespace)
        except UnrenderableError as error:
            pending.refuse(update, str(error))
        else:
            pending.add(update)

    def _write_of(self, event: ChangeEvent) -> Write | None:
        """What the event writes; None where it writes nothing here. Raises UnrenderableError."""
        if not self._mirrors or event.operation not in WRITING:
            return None
        return write_of(event, self._target_of(event.namespace))

    def _follow(self, event: ChangeEvent, writer: Writer) -> None:
        """Do with what is mirrored of a collection as was done with the collection. Raises as ``drop``."""
        if not (self._mirrors and self._follows_drops):
            return
        namespace, at = event.namespace, event.cluster_time
        old = self._target_of(namespace), str(namespace)
        to = event.document.get("to") if event.operation == "rename" else None
        renamed = Namespace(to["db"], to["coll"]) if to else None
        if renamed is None or not self._watched.has(renamed):
            delete_older(writer, *old, at)
        else:
            move_older(writer, old, (self._target_of(renamed), str(renamed)), at)

    def _target_of(self, namespace: Namespace) -> str:
        """The collection that a collection is mirrored to.

        Raises:
            UnrenderableError: There can be none of this name.
            ConfigError: The stream watches it.
        """
        found = self._targets.get(namespace)
        if found is None:
            found = self._rendered(namespace)
            self._watched.check_mirror(namespace, checked_namespace(found))
            self._targets[namespace] = found
        return found

    def _rendered(self, namespace: Namespace) -> str:
        return self._namespace.render(_ANY_EVENT, namespace)
