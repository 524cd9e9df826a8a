"""The two sides of a comparison, source and target: where their documents are, and how each is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bson import Timestamp

from docdb_stream.errors import TargetError
from docdb_stream.held import Held, Holdings, IncompleteError
from docdb_stream.position import Namespace, SnapshotRange
from docdb_stream.retry import Backoff
from docdb_stream.settings import Settings
from docdb_stream.source import ChangeSource, LookupSource, Page
from docdb_stream.step import Step
from docdb_stream.target import Target
from docdb_stream.verify.changes import check_time
from docdb_stream.verify.claims import Origin
from docdb_stream.verify.result import Progress
from docdb_stream.verify.stream import StreamPosition

PAGE_DOCUMENTS: Final = 1000


class Sides:
    """What is compared.

    Args:
        changes_keys: Whether a step may give a document another key, or make several of one.

    Attributes:
        progress: Told how far it is.
        began: The cluster's operation time before anything was read.
        settings: The stream.
        documents: The source's documents.
        changes: Its change log.
        steps: The stream's steps.
        target: The target.
        holdings: What it holds.
        stream: How far the stream has come.
        namespaces: The collections of the source that there are.
        places: Where the target has documents of which collections.
        is_direct: Whether a document is found by its key alone on the other side: no step and no template has a say in
            it.
    """

    def __init__(
        self,
        settings: Settings,
        documents: LookupSource,
        changes: ChangeSource,
        steps: Sequence[Step],
        target: Target,
        holdings: Holdings,
        stream: StreamPosition,
        *,
        changes_keys: bool = False,
        progress: Progress = lambda *_: None,
    ) -> None:
        self.settings = settings
        self.documents = documents
        self.changes = changes
        self.steps = steps
        self.target = target
        self.holdings = holdings
        self.stream = stream
        self.progress = progress
        self.began = changes.operation_time()
        self.namespaces = [*documents.collections()]
        self.is_direct = not changes_keys and all(map(holdings.place_of, self.namespaces))
        self.places: dict[str, list[Namespace]] = {}
        # Also of collections that the settings name and that are gone: what the target has of them is too much.
        named = [Namespace(*text.split(".", 1)) for text in settings.namespaces if "*" not in text]
        for namespace in dict.fromkeys([*self.namespaces, *named]):
            if place := holdings.place_of(namespace):
                self.places.setdefault(place, []).append(namespace)

    def pages(self, what: str, documents: int, since: Timestamp) -> Iterator[tuple[Namespace, Page]]:
        """All documents of the source, not as they were before a time."""
        done = 0
        for namespace in self.namespaces:
            left = SnapshotRange(namespace)
            while not left.done:
                check_time()
                page = self.documents.read(left, since=since, match=None, limit=PAGE_DOCUMENTS)
                left = page.rest
                if page.documents:
                    yield namespace, page
                done += len(page.documents)
                self.progress(what, done, documents)

    def held(self, what: str, documents: int) -> Iterator[Held]:
        """All documents of the target, where the stream's are.

        Raises:
            IncompleteError: Something was passed over.
        """
        done = 0
        for place, namespaces in self.holdings.places().items():
            self.places.setdefault(place, [*namespaces])
        for place in self.places:
            for held in self.holdings.held(place):
                yield held
                done += 1
                if done % PAGE_DOCUMENTS == 0:
                    check_time()
                    self.progress(what, done, documents)

    def held_or_again(self, what: str, documents: int) -> Iterator[Held]:
        """The same, from the beginning where something was passed over: some come twice then."""
        backoff = Backoff()
        while True:
            try:
                yield from self.held(what, documents)
                return
            except IncompleteError:
                self.again(backoff)

    def again(self, backoff: Backoff) -> None:
        """Wait before what the target holds is read once more.

        Raises:
            TargetError: It was tried for long enough.
        """
        if not backoff.wait():
            raise TargetError(
                self.target.name,
                "what it holds cannot be read whole: requests get lost",
                hint="see to the service; nothing is proven",
            )

    def origins_of(self, held: Held) -> Sequence[Origin]:
        """The documents of the source that one of the target comes of where no step changes keys."""
        id = self.holdings.id_of(held)
        return () if id is None else [(namespace, id) for namespace in self.places.get(held.place, ())]

    def together(self, place: str, origin: Origin) -> Sequence[Origin]:
        """All documents of the source that may be the same one in the target."""
        others = self.places.get(place, ()) if self.is_direct else ()
        return [origin, *((namespace, origin[1]) for namespace in others if namespace != origin[0])]
