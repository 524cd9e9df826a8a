"""What the stream of a target watches, and whether the target may write to a collection: never to one of those.

Owns the verdict. Whether source and target are one deployment is ``loop``'s to find out.
"""

from __future__ import annotations

from collections.abc import Callable

from docdb_stream.derived_update import checked_namespace
from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.state import state_of
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings
from docdb_stream.settings.cluster import NO_CLUSTER
from docdb_stream.targets._mongodb.loop import is_one_deployment, name_the_same, say_the_same


class Watched:
    """What a stream watches.

    Args:
        stream: The stream; None: nobody sees to it that nothing of that is written to.
        target: The deployment that is written to.
        state: The collection of the target's state there.

    Attributes:
        is_there: Whether the target is in the deployment that the stream reads, as far as is known.

    Raises:
        ConfigError: It cannot be found out where the stream reads.
    """

    def __init__(self, stream: Settings | None, target: Cluster, state: Namespace) -> None:
        if stream is not None and stream.documentdb_uri == NO_CLUSTER:
            raise ConfigError(
                "the target mongodb has to see that it does not write into what is watched",
                hint="set DOCUMENTDB_URI, too; its user needs no rights but to sign in",
            )
        self._stream = stream
        self._state = state
        self.is_there = stream is not None and name_the_same(Cluster.of(stream), target)

    def look(self, target: Connection, *, writes: bool) -> None:
        """Find out whether the target is in the deployment that the stream reads: for sure, if it may write there.

        Raises:
            SourceUnavailableError, TargetError: One cannot be reached.
        """
        if self._stream is not None:
            with Connection(self._stream) as source:
                one = is_one_deployment(source, target, self._state) if writes else say_the_same(source, target)
                self.is_there = one

    def has(self, namespace: Namespace) -> bool:
        """Whether the stream watches a collection of the source."""
        return self._stream is None or self._stream.watches(namespace)

    def check_mirror(self, namespace: Namespace, target: Namespace) -> None:
        """See that a collection may be mirrored to another.

        Raises:
            UnrenderableError: That one is the target's state.
            ConfigError: The stream watches that one.
        """
        if target == self._state:
            raise UnrenderableError(f"{target} is MONGODB_TARGET_STATE")
        if self.is_there and self.has(target):
            raise ConfigError(
                f"{namespace} would be mirrored to {target} in the same deployment, which the stream watches: it would "
                "read what it wrote, without end",
                hint="set MONGODB_TARGET_NAMESPACE to a database that is not watched, such as mirror_{db}.{coll}, "
                "watch less (WATCHED_DB_NAME, NAMESPACES), or MONGODB_TARGET_MIRROR = false",
            )

    def check_mirrors(self, rendered: Callable[[Namespace], str]) -> None:
        """See that what the stream watches may be mirrored, as far as its settings tell. Raises as ``check_mirror``."""
        if self._stream is None or not self.is_there:
            return
        scope = self._stream.scope
        if scope is None or scope.coll is None:
            if self._stream.namespaces:
                return  # which of them are there shows at their events
            scope = Namespace(scope.db if scope else "anything", "anything")
        self.check_mirror(scope, checked_namespace(rendered(scope)))

    def check_derived(self, namespace: Namespace) -> None:
        """See that derived updates may be written to a collection. Raises UnrenderableError."""
        if namespace == self._state:
            raise UnrenderableError(f"derived update: {namespace} is MONGODB_TARGET_STATE")
        if self._stream is None or not self.is_there:
            return
        if namespace in state_of(self._stream):
            raise UnrenderableError(f"derived update: {namespace} keeps the state of streams")
        if self.has(namespace):
            raise UnrenderableError(
                f"derived update: the stream watches {namespace}, and would read what it wrote, without end; leave it "
                "out with NAMESPACES, or write to another one"
            )
