"""The contract between verifying and a target that can say what it holds.

Owns the protocols. Who compares is ``verify``; what a target's documents look like is known beside the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from bson import Timestamp

from docdb_stream.event import ChangeEvent
from docdb_stream.position import Namespace


class Held(NamedTuple):
    """A document as a target has it, or would have it.

    Attributes:
        place: Where it is: an index, a collection.
        key: Which one it is there; equal for what the target takes for one document.
        digest: Of its content, in the one form in which contents of this target are compared; None: it is not there.
        version: The cluster time that it was written with, or deleted; None where the target does not say.
        is_own: Whether the stream wrote it; None where that cannot be told.
        id: The element ``_id`` that it has at the source, in BSON; None where that is not said, see ``Holdings.id_of``.
    """

    place: str
    key: bytes
    digest: bytes | None
    version: Timestamp | None = None
    is_own: bool | None = True
    id: bytes | None = None


class IncompleteError(Exception):
    """What a target holds was not shown whole: it has to be asked again from the beginning."""


class Holdings(Protocol):
    """What a target holds of a stream. One thread at a time asks, and nobody writes through the target meanwhile.

    Every method that asks the service raises TargetError where that does not work now.
    """

    def expected(self, event: ChangeEvent) -> Held | None:
        """What the target has of a document once it was given the event; None where the event writes nothing there.

        Raises:
            UnrenderableError: The target would reject it.
        """
        ...

    def place_of(self, namespace: Namespace) -> str | None:
        """Where the documents of a collection are; None where each document says that."""
        ...

    def places(self) -> Mapping[str, Sequence[Namespace]]:
        """Where documents of the stream may be besides, and of which collections, as far as that is known: of those
        that are gone, and where each document says where it is."""
        ...

    def held(self, place: str) -> Iterator[Held]:
        """All that is there, in any order, a document once; in little memory. It may be some seconds old.

        Raises:
            IncompleteError: Something was passed over.
        """
        ...

    def sample(self, place: str, count: int) -> Sequence[Held]:
        """Up to so many of them, by chance."""
        ...

    def look(self, wanted: Sequence[Held]) -> Sequence[Held]:
        """These documents as they are now, whatever was written before is seen; in their order, one for each."""
        ...

    def id_of(self, held: Held) -> bytes | None:
        """The element ``_id`` that a document has at the source, if no step changes it; None where that cannot be told
        (the target has kept a digest of it)."""
        ...


@runtime_checkable
class AsTheyAre(Protocol):
    """Holdings of a target that keeps documents as the source has them: where no step has a say, no events need be made
    of documents to know what it has of them."""

    def as_they_are(self, namespace: Namespace, documents: Sequence[bytes]) -> Sequence[Held]:
        """What ``Holdings.expected`` says of the inserts of these documents of a collection; it rejects none."""
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A target of which can be said whether it equals the source."""

    def holdings(self) -> Holdings:
        """What it holds. No network traffic; the target's owner closes it.

        Raises:
            ConfigError: With these settings it is not to be equal to the source.
        """
        ...
