"""A range of a shared snapshot, from its reading to its checkpoint.

Owns when that is saved, and what it rests on. The stream's run reads no pages of a shared snapshot, and nothing waits
for the stream: a target that keeps versions is left with what is newer, whoever comes first. A document that changed
since the snapshot began is told of by the stream, with a later version; one that was deleted has left a version, too.
What has no version, a collection that is dropped or renamed while its documents are under way, is found out before a
range's checkpoint passes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NoReturn

from bson import Timestamp

from docdb_stream import step
from docdb_stream.context import current_run
from docdb_stream.delivery import Delivery
from docdb_stream.errors import OUT_OF_TIME, CheckpointConflictError
from docdb_stream.events import Events, Namespace
from docdb_stream.lease import LeaseKeeper
from docdb_stream.pace import Pace
from docdb_stream.position import SnapshotProgress, SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.snapshot.keys import Key, keys_of
from docdb_stream.snapshot.shares import Shares, delivered
from docdb_stream.snapshot_event import SnapshotEvents, delete_event, id_elements
from docdb_stream.source import LookupSource, Page
from docdb_stream.step import Step

logger = logging.getLogger(__name__)

LATE_S: Final = 20.0
"""Documents that are longer on their way are looked at again: OpenSearch remembers a delete for 60 s (its reference,
``index.gc_deletes``), and they may have been read some seconds before it. What is read is as new as when its reading
began, from whatever node."""


class HeldRange:
    """A range in a worker's hands. Used once, while its lease is held.

    Args:
        settings: The stream.
        snapshot: What the range is of.
        index: Its place there.
        keeper: Of the range's lease.
        documents: Where it is read from.
        shares: Names its checkpoint.
        steps: The stream's.
        delivery: Where it goes.
        pace: Of the worker.
        shared: Tells the snapshot that there is to work on now, as the stream's checkpoint has it.
        now: Tells the cluster's operation time.
        saved: Told with each checkpoint: documents, rejections, and whether the range is done.
    """

    def __init__(
        self,
        settings: Settings,
        snapshot: SnapshotProgress,
        index: int,
        *,
        keeper: LeaseKeeper,
        documents: LookupSource,
        shares: Shares,
        steps: Sequence[Step],
        delivery: Delivery,
        pace: Pace,
        shared: Callable[[], SnapshotProgress | None],
        now: Callable[[], Timestamp],
        saved: Callable[[int, int, bool], object],
    ) -> None:
        time = snapshot.time_of(snapshot.ranges[index])
        assert time is not None
        self._settings = settings
        self._snapshot = snapshot
        self._time = time
        self._index = index
        self._keeper = keeper
        self._documents = documents
        self._shares = shares
        self._steps = steps
        self._delivery = delivery
        self._pace = pace
        self._shared = shared
        self._now = now
        self._saved = saved
        self._elements: list[bytes] = []
        self._pages = 0
        self._read_at_s: float | None = None
        self._since = time

    def deliver(self) -> None:
        """Deliver what is left of it, as far as the time reaches.

        Raises:
            CheckpointConflictError: Another worker has it, or the snapshot is over.
        """
        checkpoint = self._keeper.load()
        left = delivered(self._snapshot.ranges[self._index], checkpoint.position if checkpoint else None)
        if not self._is_the_same(left):
            logger.warning(
                "%s is not the collection that snapshot %s is of: once the stream tells of a drop or a rename, the "
                "range ends or goes on; if nothing does (a collection that was resharded), cancel the snapshot and "
                "start it again",
                left.namespace,
                self._snapshot.id,
            )
            return
        try:
            while not left.done and not self._is_over():
                self._keeper.check()
                limit = self._settings.batch_size
                if self._read_at_s is None:
                    self._read_at_s = current_run().deadline.clock()
                    self._since = self._now()
                page = self._documents.read(left, since=self._since, match=self._snapshot.match, limit=limit)
                self._hand_over(page)
                left = replace(page.rest, documents=left.documents + len(page.documents))
                if left.done or self._is_due():
                    self._save(left)
            if self._elements:
                self._save(left)
        except OUT_OF_TIME:
            if not self._is_over():
                raise

    def _is_over(self) -> bool:
        return current_run().deadline.stopping or self._pace.is_over

    def _is_due(self) -> bool:
        many = self._pages >= self._settings.state_sync_count
        return many or self._delivery.wants_flush or self._pace.is_checkpoint_due

    def _hand_over(self, page: Page) -> None:
        elements = id_elements(page.documents)
        raws = SnapshotEvents(self._snapshot.id, self._time, page.rest.namespace).all_of(page.documents, elements)
        self._elements += elements
        self._pages += 1
        self._send(raws)

    def _send(self, raws: Sequence[bytes]) -> None:
        if not raws:
            return
        with self._pace.writing():
            events = Events.of(raws)
            made = step.apply(self._steps, events)
            if made.events:
                self._delivery.write(made.events, made.size_bytes, self._snapshot.targets)
            self._delivery.reject(made.rejected)

    def _is_the_same(self, left: SnapshotRange) -> bool:
        """Whether the collection's name stands for the one that the snapshot is of, as far as that is told."""
        found = self._documents.identity(left.namespace)
        return found is not None and (found == left.identity or not found or not left.identity)

    def _save(self, left: SnapshotRange) -> None:
        """Make durable what was handed over, then save how far the range has come.

        Raises:
            CheckpointConflictError: The range is another one by now, or the collection is gone.
        """
        with self._pace.saving():
            rejections = len(self._delivery.settle())
            if not self._is_the_same(left):
                self._take_back(left.namespace)
            if self._read_at_s is not None and current_run().deadline.clock() - self._read_at_s > LATE_S:
                self._look_again(left.namespace)
            self._check(left)
            self._keeper.save(self._shares.position(self._snapshot, left), len(self._elements))
        self._pace.saved()
        self._saved(len(self._elements), rejections, left.done)
        self._elements.clear()
        self._pages, self._read_at_s = 0, None

    def _look_again(self, namespace: Namespace) -> None:
        """Delete what was deleted at the source meanwhile: the stream may have told of it so long before the documents
        came that a target has forgotten it."""
        logger.info("%s: pages were long on their way, and are looked at again", namespace)
        there: set[Key] = set()
        since = self._now()
        for first in range(0, len(self._elements), self._settings.batch_size):
            part = self._elements[first : first + self._settings.batch_size]
            for page in self._documents.find(namespace, part, since=since):
                there.update(keys_of(id_elements(page.documents)))
        known = zip(self._elements, keys_of(self._elements), strict=True)
        self._delete(namespace, [element for element, key in known if key not in there])

    def _delete(self, namespace: Namespace, elements: Sequence[bytes]) -> None:
        """Delete documents at the snapshot's own time, which takes away nothing newer."""
        for first in range(0, len(elements), self._settings.batch_size):
            part = elements[first : first + self._settings.batch_size]
            self._send([delete_event(self._snapshot.id, namespace, each, self._time) for each in part])
        self._delivery.settle()

    def _take_back(self, namespace: Namespace) -> NoReturn:
        """The collection was dropped or renamed while its documents were under way. The stream may have told of that
        before they came: then nothing else would ever take them away.

        Raises:
            CheckpointConflictError: Always.
        """
        logger.warning("%s is no more what it was: what was read of it is taken back", namespace)
        self._delete(namespace, self._elements)
        raise CheckpointConflictError(f"the collection {namespace} of the range is gone")

    def _check(self, left: SnapshotRange) -> None:
        """See that the snapshot is still under way, and that the stream knows nothing else of the range. What becomes
        of it after this look has another name for its checkpoint.

        Raises:
            CheckpointConflictError: It is not.
        """
        now = self._shared()
        mine = None if now is None or now.id != self._snapshot.id else now.ranges[self._index]
        if now is None or mine is None or mine.done or now.time_of(mine) != self._time:
            raise CheckpointConflictError("the snapshot has ended, is paused, or the range begins again")
        if mine.namespace != left.namespace:
            raise CheckpointConflictError("the range has another name")
