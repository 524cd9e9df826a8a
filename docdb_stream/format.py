"""The contracts of what becomes of events: a format makes bytes of one event, a file format a file of many.

The others are what a format may have besides; targets ask for it.

Owns the protocols. Which formats there are, and how they are found by name, is ``formats``'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Protocol, runtime_checkable

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.decoded import Decoded

if TYPE_CHECKING:
    from docdb_stream.event import ChangeEvent


@runtime_checkable
class Format(Protocol):
    """How an event is written for a target. Without state: several threads may use it at once. Hashable, as objects are
    unless they say otherwise: what was rendered is kept under it."""

    @property
    def name(self) -> str:
        """What the settings call it; unique among formats."""
        ...

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """Render change events that came together: up to 64 of them, or one.

        Args:
            decoded: The events; only such as could be decoded faithfully. What is exact is either proven for all of
                them (``decoded.is_whole``), or has to be read from the bytes (``formats.rawbson``). They are others'
                too: nothing of them may be changed or kept.

        Returns:
            For each event its bytes without a final newline, or, where the format cannot say it without altering it,
            the error that names what. The event is rejected then, by every target that asks for this format.

        An exception is taken to be about one event: all are rendered again one by one, and the one it comes from is
        rejected. So is a wrong number of results.
        """
        ...


@runtime_checkable
class Described(Protocol):
    """Of a ``Format``, if it likes: its media types. Without them it is taken for ``application/json``."""

    @property
    def content_type(self) -> str:
        """Of one event's bytes: an HTTP target's or a Kafka record's ``Content-Type``."""
        ...

    @property
    def batch_content_type(self) -> str | None:
        """Of a JSON array of events; None where an array of them says nothing that its reader knows how to take."""
        ...


@runtime_checkable
class Keyed(Protocol):
    """Of a ``Format``, if it likes: what an event's record is keyed by, where its readers expect something else than
    ``ChangeEvent.key``. Only Kafka's records have such keys."""

    def key(self, event: ChangeEvent) -> bytes | None:
        """The key; None where the event is about no single document. It has to be equal for events of one document.

        Raises:
            UnrenderableError: The format cannot say the key without altering it. The event is rejected then.
        """
        ...


@runtime_checkable
class Identified(Protocol):
    """Of a ``Format``, if it likes: that its bytes say which event they are of. ``docdb-stream verify`` asks it of what
    a log holds that has no other place for it."""

    def event_id(self, payload: bytes) -> str | None:
        """The id of the event that was rendered so; None where the bytes are of none."""
        ...


@runtime_checkable
class Tombstoned(Protocol):
    """Of a ``Format``, if it likes: that its readers expect a record without a value after a delete's. Only Kafka has
    such records, and its settings may say otherwise."""

    @property
    def has_tombstones(self) -> bool:
        """Whether they do."""
        ...


@runtime_checkable
class WithAttributes(Protocol):
    """Of a ``Format``, if it likes: what it says beside an event's bytes, for targets that have a place for it.

    Kafka's is a record's headers ``ce_NAME``, HTTP's are a request's ``ce-NAME``. Where a target has none, or sends
    several events at once, they are left out.
    """

    def attributes(self, event: ChangeEvent) -> Mapping[str, str]:
        """Names of lower-case letters and digits -> values, of any characters but control ones: it is for the target
        to encode them as its protocol wants them.

        Raises:
            UnrenderableError: One of them cannot be said. The event is rejected then.
        """
        ...


@runtime_checkable
class WithSchema(Protocol):
    """Of a ``Format`` whose bytes cannot be read without a schema. Kafka's target keeps it in a schema registry, and
    says before the bytes which it is; no other target can."""

    @property
    def schema_type(self) -> str:
        """As the registry calls it: ``AVRO``, ``JSON`` or ``PROTOBUF``."""
        ...

    @property
    def schema(self) -> str:
        """Its text, of which there is one for all events."""
        ...


class FileWriter(Protocol):
    """A file in the making."""

    def append(self, payloads: Sequence[bytes]) -> None:
        """Add events, as their format has rendered them."""
        ...

    def finish(self) -> None:
        """Write what ends a file; nothing is appended afterwards, but where a file is ``Whole``."""
        ...


@runtime_checkable
class FileFormat(Protocol):
    """How many events become one file. Without state."""

    @property
    def name(self) -> str:
        """What the settings call it; unique among file formats."""
        ...

    @property
    def suffix(self) -> str:
        """How the names of such files end, with the dot."""
        ...

    def writer(self, write: Callable[[bytes], object]) -> FileWriter:
        """A new file. ``write`` takes its bytes, one piece after the other; what it raises goes to who appends."""
        ...


@runtime_checkable
class Tabular(Protocol):
    """Of a ``FileFormat``, if it likes: that a file is a table, with columns of its own for each collection, and so
    takes events as rows, whatever payload format there is."""

    @property
    def takes(self) -> Format:
        """The format in which events are given to its writers."""
        ...

    def event_ids(self, file: IO[bytes]) -> Iterator[Sequence[str]]:
        """The ids of the events in a file, in order, some at a time.

        Raises:
            Exception: It is no such file, or not all of it.
        """
        ...


@runtime_checkable
class Nesting(Protocol):
    """Of a ``FileFormat`` that makes columns, if it likes: what nested documents and arrays are in them."""

    @property
    def is_nested(self) -> bool:
        """Whether they are structs and lists; else they are text."""
        ...


@runtime_checkable
class Whole(Protocol):
    """Of a ``FileFormat``, if it likes: how its files are written as a whole, and not one piece after the other. S3's
    target compresses the others on the way, and puts them one after another. A writer of whole files may be finished
    again, after more was appended, and then writes all of it. It has a ``close`` that lets go of what it holds."""

    @property
    def is_whole(self) -> bool:
        """Whether they are."""
        ...
