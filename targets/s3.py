"""Amazon S3: micro-batches of events, as JSON Lines or Parquet, one object per namespace and day and checkpoint.

Why a replay leaves no event twice. An object holds what came for one namespace and one day between two checkpoints,
all of it, and its name derives from the first of these events alone. A run that dies before its checkpoint is saved
is replayed from the same position, so it meets the same first event per namespace and day, gives its object the same
name, and overwrites it. This holds wherever the batches of the replay begin and end, but only because nothing is
uploaded in the middle: an object of the second half of an interval, uploaded by the run that died, would be named
after an event that need not be the first of anything in the replay, and would stay beside the replay's objects. Hence
``wants_flush`` asks for an early checkpoint instead of uploading, and a flush that failed in part keeps every object
it had, the uploaded ones too, until all of them are there.

Overwriting asks for one writer at a time. That is the lease's work: its check goes before every upload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import quote

from pydantic import AfterValidator, Field, model_validator

from docdb_stream import aws
from docdb_stream.context import current_run
from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.format import FileFormat, Format, Nesting, Tabular
from docdb_stream.formats import file_format_named, format_of, known_file_format
from docdb_stream.formats.facts import FACTS, Facts
from docdb_stream.permissions import Permission, to_write_objects
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import OwnFormat, TemplateText, Words
from docdb_stream.snapshot_event import snapshot_of
from docdb_stream.target import Rejection
from docdb_stream.targets._aws.bucket import bucket_destination
from docdb_stream.targets._aws.client import client
from docdb_stream.targets._aws.manifest import put_manifest
from docdb_stream.targets._aws.objects import suffix_of
from docdb_stream.targets._aws.uploads import Uploads
from docdb_stream.targets._names import TargetName, distinct_name, order_cautions, require_allow_list
from docdb_stream.targets._payload import render_all
from docdb_stream.targets._temporary import temporary_files

if TYPE_CHECKING:
    from docdb_stream.targets._aws.record import S3Record

OBJECT_BYTES = 64 * 1024 * 1024
"""Uncompressed bytes held before a checkpoint is asked for. Far below the 5 GB of one PutObject (S3 user guide,
"Uploading objects"), also with one batch on top."""

_DAY_S = 86_400
_KEY_BYTES = 1024
"""S3 user guide, "Naming Amazon S3 objects". A collection's name has up to 255 bytes, and three times that quoted."""


class S3Settings(TargetSettings):
    """What can be set about the target s3."""

    switch = "bucket_name"

    bucket_name: str | None = Field(
        default=None,
        description="S3 bucket for micro-batches under bucket_path/db/coll/YYYY/MM/DD/, as gzip JSON Lines or Parquet: "
        "switches the target on. Absent: off.",
        examples=["shop-changes"],
    )
    bucket_path: str = Field(default="", description="Key prefix of the micro-batches.", examples=["changes"])
    s3_prefix: TemplateText | None = Field(
        default=None,
        description="What stands between bucket_path and the day, as a template: {db} {coll} {operation} {key} "
        "{document.PATH} (docs/targets.md). Absent: db/coll.",
        examples=["region={document.region}/{coll}"],
    )
    s3_prefix_allow: Words = Field(
        default=(),
        description="What s3_prefix may make of data, with commas; * stands for any text. An event for something else "
        "goes to the dead letters. Needed where {key} or {document.PATH} stands in s3_prefix.",
        examples=["region=eu/*, region=us/*"],
    )
    s3_format: Annotated[str, AfterValidator(known_file_format)] = Field(
        default="jsonl",
        description="jsonl: gzip-compressed JSON Lines. parquet: a row for each event, a column for each field of the "
        "documents (docs/tables.md; pip install 'docdb-stream[parquet]'). Or the name of another file format.",
    )
    parquet_nested: Literal["json", "struct"] = Field(
        default="json",
        description="What nested documents and arrays are in Parquet: json: text. struct: structs and lists, made of "
        "what the schema ledger knows (docs/tables.md); docdb-stream load does not take these.",
    )
    s3_object_bytes: int = Field(
        default=OBJECT_BYTES,
        ge=1024,
        description="Uncompressed bytes held before a checkpoint is made early, so about the largest object.",
    )
    s3_payload_format: OwnFormat = None
    s3_manifests: bool | None = Field(
        default=None,
        description="Whether each checkpoint leaves a manifest, a small object under bucket_path/_manifests/STREAM "
        "that says in JSON which objects it made: true or false. Absent: true with parquet, else false.",
        examples=["true"],
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        require_allow_list("s3_prefix", self.s3_prefix, self.s3_prefix_allow)
        if self.s3_format == "parquet" and self.s3_payload_format is not None:
            raise ValueError("s3_payload_format is of no use with s3_format = parquet, whose rows have the whole event")
        if self.parquet_nested != "json" and self.s3_format != "parquet":
            raise ValueError("parquet_nested is of no use without s3_format = parquet")
        return self

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        yield from order_cautions(s3_prefix=self.s3_prefix)

    @property
    def file_format(self) -> FileFormat | str:
        """The format of the objects, or its name."""
        if self.parquet_nested == "json":
            return self.s3_format
        from docdb_stream.formats.parquet import Parquet

        return Parquet(is_nested=True)

    @property
    def makes_tables(self) -> bool:
        """See ``TargetSettings``."""
        return self.s3_format == "parquet"

    @property
    def has_manifests(self) -> bool:
        """Whether checkpoints leave manifests."""
        return self.makes_tables if self.s3_manifests is None else self.s3_manifests


class S3Target:
    """Collects the events, of every operation, and uploads them as JSON Lines or in another file format at each flush.

    Keys are ``[path/]db/coll/YYYY/MM/DD/<seconds>-<increment>-<hash>.jsonl.gz``, after the UTC day and the cluster
    time of the first event in it and the hash of its event_id. The collection is left out where an event has none;
    events without a namespace (invalidate) are under ``_``. Seconds and increment have ten digits, so the objects of a
    namespace and day, sorted by key, have the stream's order, and so have the lines within one. (Two objects that begin
    within one transaction are sorted by their hashes.) The documents of a snapshot have objects of their own, which
    are sorted by the time at which it began: before all that changed since.

    Names that a path could not hold as they are, are percent-encoded; with a hash at its end, a path is cut that would
    make the key longer than S3's 1,024 bytes. There is no Content-Encoding: clients that
    honour it would unpack the object and keep its name, while Athena, Spark and zcat go by the ``.gz``.

    Args:
        bucket: The bucket's name.
        path: Prefix of every key.
        prefix: The template of what stands between ``path`` and the day; None: ``db/coll``. What it makes of values is
            percent-encoded, as names are.
        prefix_allow: What may be made of data; see ``AllowList``.
        payload_format: The format in which an event is written, or its name; of no use with a file format that takes
            rows (see ``Tabular``).
        file_format: The format of the objects, or its name.
        object_bytes: Uncompressed bytes after which ``wants_flush`` asks for a flush.
        manifests_of: The stream for whose checkpoints there are manifests (see ``_aws.manifest``); None: for none.
        lanes: Uploads side by side.
    """

    name = "s3"
    settings_model = S3Settings

    def __init__(
        self,
        bucket: str,
        *,
        path: str = "",
        prefix: str | None = None,
        prefix_allow: Sequence[str] = (),
        payload_format: Format | str = "extended",
        file_format: FileFormat | str = "jsonl",
        object_bytes: int = OBJECT_BYTES,
        manifests_of: str | None = None,
        lanes: int = 8,
    ) -> None:
        aws.load()
        self._bucket = bucket
        self._path = f"{path.strip('/')}/" if path.strip("/") else ""
        self._prefixes = None if prefix is None else TargetName(prefix, "S3_PREFIX_ALLOW", prefix_allow, _quoted)
        found = file_format_named(file_format) if isinstance(file_format, str) else file_format
        self._file_format, self._is_tabular = found, isinstance(found, Tabular)
        self._format = found.takes if isinstance(found, Tabular) else format_of(payload_format)
        self.formats = (self._format, FACTS)
        self._object_bytes = object_bytes
        self._lanes = lanes
        capacity = "spread the load over more prefixes with BUCKET_PATH"
        self._destination = bucket_destination(bucket, capacity)
        self._uploads = Uploads(self._destination, bucket, lambda: self._client, found, lanes)
        self._stream = manifests_of

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(S3Settings)
        return cls(
            own.where,
            path=own.bucket_path,
            prefix=own.s3_prefix,
            prefix_allow=own.s3_prefix_allow,
            payload_format=settings.format_for(own.s3_payload_format),
            file_format=own.file_format,
            object_bytes=own.s3_object_bytes,
            manifests_of=settings.stream_name if own.has_manifests else None,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing takes."""
        own = settings.of(S3Settings)
        return [to_write_objects(own.where, own.bucket_path)]

    def check(self) -> None:
        """See that the bucket exists; needs s3:ListBucket, which writing does not.

        Raises:
            TargetError: It does not exist, is in another region, or may not be looked at.
        """
        with self._destination.errors("s3:ListBucket"):
            self._client.head_bucket(Bucket=self._bucket)

    @property
    def wants_flush(self) -> bool:
        """True when ``object_bytes`` are held."""
        return self._uploads.held_bytes >= self._object_bytes

    @temporary_files("s3")
    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Add the events to the objects to come. Nothing is uploaded before ``flush``."""
        rendered, rejections = render_all(events, self._format, self.name)
        groups: dict[_Group, list[bytes]] = {}
        last: dict[_Group, Facts] = {}
        for event, payload in rendered:
            try:
                facts, name = event.facts, self._name_of(event)
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, str(error)))
                continue
            # A snapshot's documents have the time at which it began: among changes they would spoil the keys' order.
            of = facts.namespace if self._is_tabular else name
            group = _Group(name, of, facts.cluster_time.time // _DAY_S, snapshot_of(facts.event_id))
            lines = groups.get(group)
            if lines is None:
                lines = groups[group] = []
                if not self._uploads.has(group):
                    key = object_key(event, self._path, name, suffix_of(self._file_format))
                    self._uploads.begin(group, key, facts)
            lines.append(payload)
            last[group] = facts
        for group, lines in groups.items():
            self._uploads.add(group, lines, last[group])
        return rejections

    @temporary_files("s3")
    def flush(self) -> Sequence[Rejection]:
        """Upload the objects, and then the manifest of the checkpoint, where there are manifests; returns when all are
        durable. After an error, it can be called again.

        Raises:
            TargetError: The bucket does not take one of them, or not in time.
        """
        uploads = self._uploads.flush()
        if self._stream is not None:
            put_manifest(
                current_run(),
                self._stream,
                self._path,
                uploads,
                destination=self._destination,
                bucket=self._bucket,
                client=lambda: self._client,
                is_nested=isinstance(self._file_format, Nesting) and self._file_format.is_nested,
            )
        self._uploads.forget()
        return ()

    def record(self) -> S3Record:
        """See ``Recorded``. Reading takes s3:ListBucket and s3:GetObject.

        Raises:
            ConfigError: The format has no event id.
        """
        from docdb_stream.targets._aws.record import S3Record

        def folder_of(event: ChangeEvent, payload: bytes) -> str:
            return object_key(event, self._path, self._name_of(event)).rpartition("/")[0]

        reads = (self._destination, self._format, folder_of, lambda: self._client)
        return S3Record(*reads, bucket=self._bucket, file_format=self._file_format)

    def _name_of(self, event: ChangeEvent) -> Namespace | str:
        """Under which an event's object is. Raises UnrenderableError."""
        return event.facts.namespace if self._prefixes is None else self._prefixes.of(event)

    def close(self) -> None:
        """Let go of connections, and of what was not flushed. Safe to call twice."""
        self._uploads.forget()
        if "_client" in self.__dict__:
            self._client.close()

    @cached_property
    def _client(self) -> Any:
        return client("s3", self._lanes)


class _Group(NamedTuple):
    """What is in one object: events of one namespace or prefix, and of one collection where each has columns of its
    own, of one UTC day, and of one snapshot or of none."""

    name: Namespace | str
    of: Namespace | str
    day: int
    snapshot: str | None


def _quoted(text: str) -> str:
    """A name as one part of a path: no slash in it, and neither ``.`` nor ``..``, which mean something else."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def object_key(
    first: ChangeEvent, path: str = "", name: Namespace | str | None = None, suffix: str = ".jsonl.gz"
) -> str:
    """The key of an object whose first event is this one; a name that does not fit is cut (see ``distinct_name``).

    Args:
        first: The event.
        path: The key begins with it.
        name: Under which the object is: a namespace, by default the event's, or a prefix, ready made.
        suffix: The key ends with it.
    """
    time = first.cluster_time
    day = time.as_datetime().strftime("%Y/%m/%d")
    digest = hashlib.sha256(first.event_id.encode()).hexdigest()[:16]
    rest = f"/{day}/{time.time:010}-{time.inc:010}-{digest}{suffix}"
    names = name.strip("/") or "_" if isinstance(name, str) else _names(name or first.namespace)
    return path + distinct_name(names, names, _KEY_BYTES - len(f"{path}{rest}".encode())) + rest


def _names(namespace: Namespace) -> str:
    return "/".join([quote(name, safe="") for name in namespace if name] or ["_"])
