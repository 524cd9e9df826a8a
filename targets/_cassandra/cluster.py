"""The connection to Cassandra or Amazon Keyspaces, and statements that are sent again while what is in their way may
pass.

Owns who is spoken to, as whom, and how long an answer is waited for.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from docdb_stream import aws
from docdb_stream.context import NoAnswerError, answer_in_time, check_lease, current_deadline, in_background
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.retry import Backoff
from docdb_stream.secret import read_credentials
from docdb_stream.targets._cassandra.errors import NAME, RefusedError, is_passing, is_refusal, no_answer, trouble
from docdb_stream.targets._client import import_client, tls_context

PORT: Final = 9042
CONNECT_S: Final = 10.0
"""For one node: another one gets its turn."""
REQUEST_S: Final = 12.0
"""Longer than a server waits for its replicas (cassandra.yaml: read_request_timeout is 5 s, write_request_timeout
2 s), so that its own word comes first."""
ROUND: Final = 500
"""Statements that are sent before the lease is looked at again."""
KEYSPACES: Final = ".amazonaws.com"
"""The end of the names of Amazon Keyspaces' endpoints (developer guide, "Service endpoints")."""

Statement = tuple[str, Sequence[Any]]
"""CQL, and what is bound to it."""


class Cluster:
    """A keyspace, and one session at a time; one thread at a time uses it.

    Args:
        hosts: ``host`` or ``host:port``, with commas.
        keyspace: Its name.
        secret: Where user name and password are; None: the role's own at Keyspaces, and none elsewhere.
        datacenter: Whose nodes are asked; None: that of the hosts.
        tls: Whether connections are encrypted.
        ca: Path of a CA bundle; None: the system's.
        concurrency: Statements on their way at the same time.

    Raises:
        ConfigError: The driver is not installed, or a host cannot be read.
    """

    def __init__(
        self,
        hosts: str,
        keyspace: str,
        *,
        secret: str | None = None,
        datacenter: str | None = None,
        tls: bool = False,
        ca: str | None = None,
        concurrency: int = 64,
    ) -> None:
        self._driver = import_client("cassandra.cluster", NAME, "cassandra")
        self._hosts, self._port = _addresses(hosts)
        self.keyspace = keyspace
        self.place = f"{self._hosts[0]}:{self._port}, keyspace {keyspace}"
        self.is_keyspaces = self._hosts[0].endswith(KEYSPACES)
        self._secret = secret
        self._datacenter = datacenter
        self._tls = tls or self.is_keyspaces
        self._ca = ca
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._generation = 0  # of the attempts that are waited for: one that comes to its turn later sends nothing

    def write(self, statements: Sequence[Statement]) -> Mapping[int, RefusedError]:
        """Send statements, side by side and in no order; they are durable on return, but for those that the server
        does not take: these by their places. It must be safe to repeat them.

        Raises:
            TargetError: They cannot be written, or not in time.
            CheckpointConflictError: The run has lost its lease.
        """
        refused: dict[int, RefusedError] = {}
        for first in range(0, len(statements), ROUND):
            check_lease()
            answers = self._answers(statements[first : first + ROUND])
            refused |= {first + at: each for at, each in enumerate(answers) if isinstance(each, RefusedError)}
        return refused

    def read(self, statements: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
        """The rows that each statement finds, all of them. Raises TargetError."""
        found: list[list[tuple[Any, ...]]] = []
        for first in range(0, len(statements), ROUND):
            for answer in self._answers(statements[first : first + ROUND]):
                if isinstance(answer, RefusedError):
                    raise TargetError(NAME, f"{self.place} refuses to read", hint="look at the target's tables")
                found.append(answer)
        return found

    def change_schema(self, statement: str) -> None:
        """Run a statement that makes a table. Raises TargetError."""
        self._answers([(statement, ())], prepares=False)

    def close(self) -> None:
        """Close the session, without waiting: where a server is silent, its end would not come."""
        with self._lock:
            session, self._session = self._session, None
            self._generation += 1
        if session is not None:
            in_background(session.driver.cluster.shutdown, "cassandra-close")

    def _answers(self, statements: Sequence[Statement], *, prepares: bool = True) -> list[Any]:
        """The rows of each statement, or why it is refused; sent again and again while what fails may pass."""
        answers: dict[int, Any] = {}
        backoff = Backoff()
        left = [*range(len(statements))]
        while True:
            failed = self._attempt({at: statements[at] for at in left}, answers, prepares=prepares)
            if len(answers) == len(statements):
                return [answers[at] for at in range(len(statements))]
            if len(answers) > len(statements) - len(left):
                backoff.progress()
            left = [at for at in left if at not in answers]
            if failed is None or not is_passing(failed) or not backoff.wait():
                self.close()  # the next one reads the secret anew
                raise no_answer(self.place) if failed is None else trouble(failed, self.place)

    def _attempt(
        self, statements: Mapping[int, Statement], answers: dict[int, Any], *, prepares: bool
    ) -> BaseException | None:
        """Send statements and note what is answered; returns what some have met, None where there was no answer."""
        limit, generation = current_deadline(), self._generation
        try:
            found = answer_in_time(
                lambda: self._sent([*statements.values()], generation, prepares=prepares),
                within_s=max(0.1, min(limit.patience_s, limit.remaining_s)),
            )
        except NoAnswerError:
            return None
        except TargetError:
            raise
        except Exception as error:  # noqa: BLE001 - the driver's have no base of their own; it is told whatever it is
            self.close()
            return error
        failed: BaseException | None = None
        for at, (is_done, answer) in zip(statements, found, strict=True):
            if is_done:
                answers[at] = [tuple(row) for row in answer or ()]
            elif is_refusal(answer):
                answers[at] = RefusedError("refused: the server does not take a value of it, or all of it is too large")
            elif failed is None or not is_passing(answer):
                failed = answer
        return failed

    def _sent(self, statements: Sequence[Statement], generation: int, *, prepares: bool) -> Sequence[Any]:
        """What became of each statement. Raises NoAnswerError where nobody waits for it any more: nothing is sent."""
        session = self._opened(generation)
        if not prepares:
            for text, _ in statements:
                session.driver.execute(text)
            return [(True, None) for _ in statements]
        from cassandra.concurrent import execute_concurrent

        bound = [(session.statement(text), values) for text, values in statements]
        if generation != self._generation:
            raise NoAnswerError
        return list(
            execute_concurrent(session.driver, bound, concurrency=self._concurrency, raise_on_first_error=False)
        )

    def _opened(self, generation: int) -> _Session:
        """The session of an attempt. Raises NoAnswerError where it comes too late."""
        with self._lock:
            if generation == self._generation and self._session is not None:
                return self._session
        made = _Session(self._connected())
        with self._lock:
            if generation == self._generation:
                self._session = made
                return made
        in_background(made.driver.cluster.shutdown, "cassandra-close")
        raise NoAnswerError

    def _connected(self) -> Any:
        from cassandra import ConsistencyLevel
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, ExecutionProfile
        from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
        from cassandra.query import tuple_factory

        profile = ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(self._datacenter or "")),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,  # the one with which Keyspaces writes
            request_timeout=REQUEST_S,
            row_factory=tuple_factory,
        )
        cluster = self._driver.Cluster(
            self._hosts,
            port=self._port,
            auth_provider=self._auth(),
            ssl_context=self._tls_context(),
            # All its nodes have the certificate of the endpoint; those of others are asked by their own addresses.
            ssl_options={"server_hostname": self._hosts[0]} if self.is_keyspaces else None,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            connect_timeout=CONNECT_S,
            control_connection_timeout=CONNECT_S,
            application_name="docdb-stream",
            monitor_reporting_enabled=False,
        )
        try:
            return cluster.connect(self.keyspace)
        except BaseException:
            in_background(cluster.shutdown, "cassandra-close")
            raise

    def _tls_context(self) -> ssl.SSLContext | None:
        return tls_context(self._ca) if self._tls else None

    def _auth(self) -> Any:
        if self._secret is not None:
            from cassandra.auth import PlainTextAuthProvider

            credentials = read_credentials(self._secret)
            return PlainTextAuthProvider(credentials.username, credentials.password)
        if self.is_keyspaces:
            sigv4 = import_client("cassandra_sigv4.auth", "keyspaces")
            return sigv4.SigV4AuthProvider(aws.session())
        return None


class _Session:
    """Args: driver: The driver's session."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self._prepared: dict[str, Any] = {}

    def statement(self, text: str) -> Any:
        """Prepared once."""
        if text not in self._prepared:
            prepared = self.driver.prepare(text)
            prepared.is_idempotent = True  # each has its timestamp
            self._prepared[text] = prepared
        return self._prepared[text]


def _addresses(text: str) -> tuple[list[str], int]:
    """Hosts, and their port, which is one."""
    hosts: list[str] = []
    ports: set[int] = set()
    for each in filter(None, map(str.strip, text.split(","))):
        host, colon, port = each.rpartition(":") if each.count(":") == 1 else (each, "", "")
        if (colon and not port.isdecimal()) or not host or set(host) & set("/@ "):
            hosts.clear()
            break
        hosts.append(host)
        ports.add(int(port) if port else PORT)
    if not hosts or len(ports) > 1:
        raise ConfigError(
            "CASSANDRA_HOSTS is no list of hosts",
            hint="expected host or host:port, with commas, and one port: cassandra-1.example, cassandra-2.example",
        )
    return hosts, ports.pop()
