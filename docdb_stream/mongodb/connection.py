"""The connection to the cluster: address, credentials, TLS, patience with trouble that passes.

Owns how a MongoClient is made from settings, and made again when the credentials were rotated. Reading change streams
and keeping checkpoints share it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import pymongo
from pymongo import MongoClient
from pymongo.errors import (
    ConfigurationError,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from docdb_stream.context import NoAnswerError, answer_in_time, current_deadline
from docdb_stream.errors import ConfigError, SourceUnavailableError
from docdb_stream.mongodb.ca import ca_file
from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.diagnosis import AUTHENTICATION_FAILED, uri_options
from docdb_stream.retry import Backoff
from docdb_stream.secret import read_credentials
from docdb_stream.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

Client = MongoClient[dict[str, Any]]

SERVER_SELECTION_TIMEOUT_MS = 10_000
"""How long to look for a usable server: an election of MongoDB takes up to about 12 s with its defaults and is waited
for by retrying, so one look may be shorter; PyMongo's own 30 s is a long silence for a mistyped host."""

CONNECT_TIMEOUT_MS = 5_000
SOCKET_TIMEOUT_MS = 60_000
"""A dead peer must not hold a run for ever. Longer than any wait for events, far longer than a healthy answer takes.
Only opening a change stream may take longer, see ``cursor``."""
MIN_SOCKET_TIMEOUT_MS = 5_000
"""A connection string's socketTimeoutMS below this is raised to it: the server holds an empty reply back for 1 s, and a
shorter time-out would take each quiet second for a broken connection."""

CLOSE_TIMEOUT_S = 0.2
"""A client says goodbye to its servers when it is closed. One that does not answer is left without."""


class Connection:
    """A client of the cluster, shared by all that a stream does there, and by streams that reach it in the same way.

    A context manager; leaving it closes it. Any thread may use it.

    Does no network traffic to the cluster when it is made (the secret and the CA may be fetched).

    Args:
        cluster: Which one, or the settings of a stream that reads it.
        client: Instead of one made from the settings; for tests.

    Raises:
        ConfigError: The connection string, secret or CA cannot be used.
    """

    def __init__(self, cluster: Settings | Cluster, client: Client | None = None) -> None:
        self._cluster = cluster if isinstance(cluster, Cluster) else Cluster.of(cluster)
        self._lock = threading.Lock()
        self.uri = self._cluster.connection_string
        self.client = self._made() if client is None else client
        self._retired: list[Client] = []
        self._reached_by: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client. Safe to call twice."""
        for client in (self.client, *self._retired):
            _close(client)

    def patiently(
        self,
        attempt: Callable[[], T],
        *,
        passes: Callable[[PyMongoError], bool],
        before_retry: Callable[[], None] = lambda: None,
        through: Callable[[], Client] | None = None,
        blocks: bool = False,
    ) -> T:
        """Run ``attempt``, again and again while its trouble is of the kind that passes, until the deadline.

        A refused sign-in is answered by reading the secret again: it may have been rotated. Where the password was
        right before, that may take a few looks: a rotation changes it in the secret and on the cluster.

        Args:
            attempt: What to do; safe to repeat, and harmless if it is done after all once it was given up. Looks
                ``client`` up anew each time.
            passes: Whether an error may pass by itself.
            before_retry: Called before every further attempt.
            through: The client that the next attempt uses, where it is not ``client``.
            blocks: The caller can be left waiting for the server's answer. Otherwise it is given up at the deadline,
                and soon after a stop.

        Raises:
            PyMongoError: The error that does not pass, or did not in time. For an answer that is given up,
                NetworkTimeout, or ServerSelectionTimeoutError if there never was one.
        """
        backoff: Backoff | None = None
        signed_in_again = False
        since_s = current_deadline().clock()
        while True:
            client = self.client if through is None else through()
            try:
                answer = attempt() if blocks else answer_in_time(attempt, since_s=since_s)
                self._reached_by = client
                return answer
            except NoAnswerError:
                kind = NetworkTimeout if self._reached_by else ServerSelectionTimeoutError
                until = "before the stop" if current_deadline().stopping else "within the time that the run has"
                raise kind(f"no answer {until}") from None
            except PyMongoError as error:
                if is_sign_in_refused(error) and self._cluster.secret:
                    if signed_in_again:
                        backoff = backoff or Backoff()
                        if self._reached_by is None or not backoff.wait():
                            raise
                    signed_in_again = True
                    self._sign_in_again(client)
                elif client is self.client:  # else it was another stream's sign-in that took the client away
                    backoff = backoff or Backoff()
                    if not self._may_pass(error, passes) or not backoff.wait():
                        raise
                before_retry()

    def _may_pass(self, error: PyMongoError, passes: Callable[[PyMongoError], bool]) -> bool:
        # Looking for a server took SERVER_SELECTION_TIMEOUT_MS already. One that was never there is more likely a
        # mistake in the settings than an election, and the operator should hear of it soon.
        if isinstance(error, ServerSelectionTimeoutError) and self._reached_by is None:
            return False
        return passes(error)

    def _sign_in_again(self, refused: Client) -> None:
        """Replace the refused client by one with the secret as it is now; once for all threads that meet it.

        One that has worked stays open, for other streams read through it, on sockets that signed in before the
        rotation. It is closed after the next rotation: who still uses it then goes over to the new one.
        """
        with self._lock:
            if self.client is not refused:
                return
            logger.info("sign-in refused: reading the secret %s again", self._cluster.secret)
            self.client = self._made()
            unused = [refused]
            if refused is self._reached_by:
                unused, self._retired = self._retired, unused
            for client in unused:
                _close(client)

    def _made(self) -> Client:
        """A client with the secret as it is now. Reading that, and looking a host up, can block."""
        try:
            return answer_in_time(lambda: _client(self._cluster))
        except NoAnswerError:
            raise SourceUnavailableError(
                "the connection could not be prepared within the time that the run has",
                hint="reading the secret, fetching the CA or looking up the host name gets no answer: check the "
                "network, and the timeout",
            ) from None


class Connections:
    """One connection for each cluster and user, shared by the streams of a process: a client each would watch the
    cluster two hundred times for two hundred streams. A context manager; leaving it closes all of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Cluster, Connection] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for connection in self._made.values():
            connection.close()

    def to(self, settings: Settings) -> Connection:
        """The connection for these settings. Raises as ``Connection`` does."""
        cluster = Cluster.of(settings)
        with self._lock:
            if cluster not in self._made:
                self._made[cluster] = Connection(cluster)
            return self._made[cluster]


def is_sign_in_refused(error: PyMongoError) -> bool:
    """Whether the server does not accept the user name or password."""
    return isinstance(error, OperationFailure) and error.code == AUTHENTICATION_FAILED


def _client(cluster: Cluster) -> Client:
    """A client for the cluster.

    ``retryWrites`` is off, because DocumentDB refuses it; what this package writes is safe to repeat and is repeated
    by its own retries.
    """
    uri = cluster.connection_string
    # A little less than what is left, so that it is said which server is not there.
    limit = current_deadline()
    selection_ms = 900 * min(limit.remaining_s, limit.patience_s)
    try:
        given = uri_options(uri)
    except (ConfigurationError, InvalidURI, ValueError) as error:
        if _is_unresolved(error):
            raise _unresolved(error, cluster) from error
        raise ConfigError(
            # PyMongo's message can quote a part of a password that was not percent-encoded.
            f"{cluster.setting} is not a valid connection string" + ("" if "@" in uri else f": {error}"),
            hint="expected mongodb://HOST:PORT/?replicaSet=rs0; user name and password percent-encoded",
        ) from error
    options: dict[str, Any] = {
        "appname": "docdb-stream",
        "serverSelectionTimeoutMS": int(min(SERVER_SELECTION_TIMEOUT_MS, max(500.0, selection_ms))),
        "connectTimeoutMS": CONNECT_TIMEOUT_MS,
        "socketTimeoutMS": SOCKET_TIMEOUT_MS,
    }
    options = {name: value for name, value in options.items() if name.lower() not in given}
    options |= _not_for_choice(given)
    # A change stream's cursor lives on one server. Among several that would do (mongos routers, readers) always take
    # the same one, so that a getMore finds its cursor.
    options["server_selector"] = _same_server
    if cluster.tls_ca:
        options |= {"tls": True, "tlsCAFile": ca_file(cluster.tls_ca)}
    if cluster.secret:
        credentials = read_credentials(cluster.secret)
        options |= {"username": credentials.username, "password": credentials.password}
    try:
        return MongoClient(uri, **options)
    except (ConfigurationError, InvalidURI, ValueError, OSError) as error:
        if _is_unresolved(error):
            raise _unresolved(error, cluster) from error
        shown = type(error).__name__ if "@" in uri else str(error)
        raise ConfigError(f"cannot use the connection settings: {shown}", hint=f"check {cluster.setting}") from error


def _close(client: Client) -> None:
    with pymongo.timeout(CLOSE_TIMEOUT_S):
        client.close()


def _not_for_choice(given: dict[str, Any]) -> dict[str, Any]:
    """Options that are set whatever the connection string says, because a stream could not work otherwise."""
    options: dict[str, Any] = {
        "retryWrites": False,
        # Without a limit: each stream that waits for events keeps a socket busy, and a lease must not queue for one.
        "maxPoolSize": 0,
        # PyMongo would put it into each getMore, instead of the wait for events.
        "timeoutMS": None,
    }
    socket_timeout_s = given.get("sockettimeoutms")  # PyMongo has made seconds of it
    if socket_timeout_s and 1000 * socket_timeout_s < MIN_SOCKET_TIMEOUT_MS:
        options["socketTimeoutMS"] = MIN_SOCKET_TIMEOUT_MS
    return options


def _is_unresolved(error: Exception) -> bool:
    """Whether the name service does not know, or does not answer: mongodb+srv:// is looked up while it is parsed, and
    PyMongo tells that by the error it tells everything wrong with a connection string by."""
    return isinstance(error, ConfigurationError) and type(error.__cause__).__module__.startswith("dns.")


def _unresolved(error: Exception, cluster: Cluster) -> SourceUnavailableError:
    return SourceUnavailableError(
        f"{cluster.setting} cannot be looked up: {str(error).rstrip('.')}",
        hint="check the host name after mongodb+srv://, and that this machine's name service answers",
    )


def _same_server(servers: Sequence[Any]) -> Sequence[Any]:
    return sorted(servers, key=lambda server: server.address)[:1]
