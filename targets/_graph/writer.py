"""Writes changes within transactions: with each goes the stream's epoch, by which a run that was taken over is refused.

Owns the transaction: how much one carries, what is done first in it, and what becomes of changes that are refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from docdb_stream.context import current_run
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection
from docdb_stream.targets._graph import cypher
from docdb_stream.targets._graph.graph import Graph, GraphWrite, Run
from docdb_stream.targets._graph.refusal import RefusedError

PURGE_S: Final = 3600.0
"""How often old guards are looked for."""
_DAY_MS: Final = 24 * 60 * 60 * 1000

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """An event, and what it makes in the graph."""

    event: ChangeEvent
    write: GraphWrite


class GraphDatabase(Protocol):
    """Where a graph is: the connection, and what is done again."""

    def transact(self, body: Callable[[Run], T], *, writes: bool = True) -> T:
        """Do ``body``, again where that may help: it is safe to repeat. What it did is durable on return.

        Raises:
            RefusedError: The server does not take one of the documents.
            TargetError: It cannot be done, or not in time.
            CheckpointConflictError: The run has lost its lease.
        """

    def change_schema(self, statement: str) -> None:
        """Run a statement that makes a constraint or an index. Raises as ``transact``."""


class Writer:
    """Writes to a graph.

    Args:
        name: The target's.
        database: Where; its owner closes it.
        graph: Keeps what documents make there.
        stream: The stream's name.
        schema: The statements that make constraints and indexes; none: they are there.
        tombstone_days: How long deleted documents are remembered.
    """

    def __init__(
        self,
        name: str,
        database: GraphDatabase,
        graph: Graph,
        stream: str,
        schema: Sequence[str],
        tombstone_days: int,
    ) -> None:
        self._name = name
        self._database = database
        self._graph = graph
        self._stream = stream
        self._schema = [*schema]
        self._tombstone_ms = tombstone_days * _DAY_MS
        self._purged_s = 0.0

    def write(self, changes: Sequence[Change]) -> Sequence[Rejection]:
        """Write changes in their order; returns those that the server does not take.

        Raises:
            TargetError: The server cannot be reached, refuses the user, or a later run has taken over.
        """
        rejections: list[Rejection] = []
        batch: list[Change] = []
        size_bytes = 0
        for each in changes:
            size_bytes += each.event.size_bytes
            if batch and (len(batch) >= self._graph.most_changes or size_bytes > self._graph.most_bytes):
                rejections += self._write(batch)
                batch, size_bytes = [], each.event.size_bytes
            batch.append(each)
        if batch:
            rejections += self._write(batch)
            self._purge()
        return rejections

    def remove_older(self, source: str, collection: str, version: int, at_ms: int) -> None:
        """Remove what a collection's documents have made before a version; their guards stay. Raises TargetError."""
        self._make_schema()
        prefix = cypher.prefix_of(source)

        def body(run: Run) -> int:
            self._pass_on(run)
            keys = self._graph.older(prefix, version, run)
            self._graph.apply([self._graph.delete_of(key, collection, version, at_ms) for key in keys], run)
            return len(keys)

        try:
            while self._database.transact(body):
                pass
        except RefusedError as error:
            hint = "look at the constraints that others have set up; nothing is lost, the next run goes on with it"
            raise TargetError(self._name, f"what {source} has made cannot be removed: {error}", hint=hint) from error

    def _write(self, changes: Sequence[Change]) -> Sequence[Rejection]:
        """In one transaction; where one of them is refused, in halves, until that one is alone."""
        self._make_schema()

        def body(run: Run) -> None:
            self._pass_on(run)
            self._graph.apply([each.write for each in changes], run)

        try:
            self._database.transact(body)
        except RefusedError as error:
            if len(changes) == 1:
                return [Rejection(changes[0].event, self._name, str(error))]
            half = len(changes) // 2
            return [*self._write(changes[:half]), *self._write(changes[half:])]
        return []

    def _pass_on(self, run: Run) -> None:
        """Note the run's epoch.

        Raises:
            TargetError: A later holder of the stream's lease has written here.
        """
        epoch = current_run().lease_epoch()
        if self._graph.pass_on(self._stream, epoch, run):
            return
        current_run().check_lease()  # it mostly knows by now
        raise TargetError(
            self._name,
            f"a later run of stream {self._stream} has written here (this one has epoch {epoch})",
            hint="if one is running, all is well. If not, the stream's checkpoint was removed, or another deployment "
            f"has a stream of this name: give this one another STREAM_NAME, or delete its node {cypher.POSITION}",
        )

    def _make_schema(self) -> None:
        while self._schema:
            self._database.change_schema(self._schema[0])
            del self._schema[0]

    def _purge(self) -> None:
        """Forget documents that were deleted long ago, where that was not done lately. Raises TargetError."""
        now_s = time.monotonic()
        if now_s < self._purged_s:
            return
        before_ms = int(time.time() * 1000) - self._tombstone_ms

        def body(run: Run) -> bool:
            self._pass_on(run)
            return self._graph.forget(before_ms, run)

        try:
            if self._database.transact(body):
                return  # the next batch goes on
        except RefusedError as error:  # what others have set up for the guards is no reason to stop the stream
            logger.warning("old guards of deleted documents stay: %s", error)
        self._purged_s = now_s + PURGE_S
