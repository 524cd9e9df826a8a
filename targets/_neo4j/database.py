"""The connection to Neo4j, and transactions that are done again while what is in their way may pass.

Owns how long an answer is waited for. What is written is ``writer``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from docdb_stream.context import NoAnswerError, answer_in_time, check_lease, current_deadline, in_background
from docdb_stream.errors import ConfigError
from docdb_stream.retry import Backoff
from docdb_stream.secret import read_credentials
from docdb_stream.targets._client import import_client
from docdb_stream.targets._graph.graph import Run
from docdb_stream.targets._neo4j.errors import (
    CONSTRAINT,
    NAME,
    code_of,
    is_refusal,
    no_answer,
    refusal,
    trouble,
)

if TYPE_CHECKING:
    from neo4j import Driver

T = TypeVar("T")

CONNECT_S: Final = 10.0
"""For one attempt to connect: another member of a cluster gets its turn."""
IDLE_S: Final = 30.0
"""A connection that was idle for so long is tried before it is used: a Lambda sleeps, and firewalls forget."""
RACES: Final = 3
"""How often a violated constraint is met before it counts as the document's fault: of two transactions that make one
node at the same time, the later may be told so."""
_SCHEMES: Final = frozenset({"bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc"})


class Database:
    """A database, and one driver at a time; one thread at a time uses it.

    Args:
        uri: ``neo4j://...`` or ``bolt://...``.
        secret: Where user name and password are; None: the server asks for none.
        database: Its name; None: the user's home database.

    Raises:
        ConfigError: The driver is not installed, or the URI cannot be read.
    """

    def __init__(self, uri: str, secret: str | None, database: str | None) -> None:
        self._neo4j = import_client("neo4j", NAME, "neo4j")
        try:
            parts = urlsplit(uri)
            is_address = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.username is None
            self.place = f"{parts.hostname}:{parts.port or 7687}"
        except ValueError:
            is_address = False
        if not is_address:
            raise ConfigError(
                "NEO4J_URI is no address of a Neo4j server",
                hint="expected neo4j+s://host:7687 (a cluster, or Aura) or bolt://host:7687; user and password are "
                "NEO4J_SECRET's",
            )
        self._uri = uri
        self._secret = secret
        self._name = database
        self._driver: Driver | None = None

    def transact(self, body: Callable[[Run], T], *, writes: bool = True) -> T:
        """Do ``body`` within a transaction that is durable on return; again and again while that fails for reasons
        that pass. It must be safe to repeat: a commit whose answer was lost was done all the same.

        Raises:
            RefusedError: The server does not take one of the documents.
            TargetError: It cannot be done, or not in time.
            CheckpointConflictError: The run has lost its lease.
        """
        return self._persist(lambda driver, left_s: self._transaction(driver, left_s, body), writes=writes)

    def change_schema(self, statement: str) -> None:
        """Run a statement that makes a constraint or an index, in a transaction of its own, as Neo4j wants these.
        Raises as ``transact``."""

        def change(driver: Driver, left_s: float) -> None:
            with driver.session(database=self._name) as session:
                session.run(self._neo4j.Query(statement, timeout=left_s)).consume()

        self._persist(change, writes=True)

    def close(self) -> None:
        """Close the driver, without waiting: where a server is silent, its goodbye would not come to an end."""
        driver, self._driver = self._driver, None
        if driver is not None:
            in_background(driver.close, "neo4j-close")

    def _persist(self, attempt: Callable[[Driver, float], T], *, writes: bool) -> T:
        backoff, violations = Backoff(), 0
        while True:
            if writes:
                check_lease()
            limit = current_deadline()
            left_s = max(0.1, min(limit.patience_s, limit.remaining_s))
            driver = self._opened()
            try:
                return answer_in_time(lambda: attempt(driver, left_s), within_s=left_s)  # noqa: B023 - waited for here
            except NoAnswerError:
                self.close()
                raise no_answer(self.place) from None
            except (self._neo4j.exceptions.GqlError, UnicodeEncodeError, OSError) as error:
                violations += code_of(error) == CONSTRAINT
                if is_refusal(error) and not 0 < violations < RACES:
                    raise refusal(error) from None
                if not code_of(error):
                    self.close()  # the next one reads the secret anew
                is_passing = 0 < violations < RACES or self._passes(error)
                if not is_passing or not backoff.wait():
                    self.close()
                    raise trouble(error, self.place) from None

    def _passes(self, error: BaseException) -> bool:
        """Whether what met the error may go through when it is done again."""
        exceptions = self._neo4j.exceptions
        connections = (
            exceptions.ServiceUnavailable,
            exceptions.SessionExpired,
            exceptions.ConnectionPoolError,
            OSError,
        )
        if isinstance(error, connections):
            return True
        return code_of(error).startswith("Neo.TransientError.") or bool(getattr(error, "is_retryable", bool)())

    def _transaction(self, driver: Driver, left_s: float, body: Callable[[Run], T]) -> T:
        with (
            driver.session(database=self._name) as session,
            # The server ends it by then, so that one that is given up keeps nobody from the nodes.
            session.begin_transaction(timeout=left_s) as transaction,
        ):

            def run(statement: str, parameters: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
                return transaction.run(statement, dict(parameters)).data()

            done = body(run)
            transaction.commit()
            return done

    def _opened(self) -> Driver:
        if self._driver is None:
            auth = None
            if self._secret is not None:
                credentials = read_credentials(self._secret)
                auth = (credentials.username, credentials.password)
            self._driver = self._neo4j.GraphDatabase.driver(
                self._uri,
                auth=auth,
                user_agent="docdb-stream",
                connection_timeout=CONNECT_S,
                connection_acquisition_timeout=2 * CONNECT_S,
                liveness_check_timeout=IDLE_S,
                max_connection_pool_size=4,  # one is used, and those of attempts that were given up
                notifications_min_severity="OFF",
                telemetry_disabled=True,
            )
        return self._driver
