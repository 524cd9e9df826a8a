"""The connection to Redis, and commands that are sent again while what is in their way may pass.

Owns how long an answer is waited for, and what is different in a cluster.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from docdb_stream.context import NoAnswerError, answer_in_time, check_lease, current_deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.retry import Backoff
from docdb_stream.secret import read_credentials
from docdb_stream.targets._client import import_client
from docdb_stream.targets._redis.errors import (
    NAME,
    NO_SCRIPT,
    RefusedError,
    code_of,
    is_refusal,
    no_answer,
    passes,
    trouble,
)
from docdb_stream.targets._redis.script import SCRIPTS

T = TypeVar("T")
Command = tuple[Any, ...]

_FORM: Final = "expected redis://host:6379/0, or rediss:// with TLS"
_SCHEMES: Final = ("redis", "rediss")
_OPTIONS: Final = (
    "db",
    "client_name",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)
"""What a URI may say after its question mark, as redis-py has it."""
CONNECT_S: Final = 10
_SCANNED: Final = 1_000
"""Keys that a server looks at for one answer to SCAN: a millisecond or so, in which it does nothing else."""
_SHAS: Final = {script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for script in SCRIPTS}
"""By which a server knows a script (Redis, "EVALSHA")."""


def script(source: str, keys: Sequence[str], *values: object) -> Command:
    """The command that has a script done."""
    return ("EVALSHA", _SHAS[source], len(keys), *keys, *values)


_ELSEWHERE: Final = frozenset({"READONLY", "MASTERDOWN"})
"""What a replica says that was the primary when it was connected to: its name may mean another server by now."""


class Client:
    """A server, or a cluster; one thread at a time uses it.

    Args:
        uri: ``redis://...``.
        secret: Where user name and password are; None: in the URI, or there are none.
        replicas: How many replicas have to have each write before it counts as durable.

    Raises:
        ConfigError: redis-py is not installed, or the URI cannot be read.
    """

    def __init__(self, uri: str, secret: str | None, *, replicas: int = 0) -> None:
        self._redis = import_client("redis", "redis", "redis")
        import_client("redis.cluster", "redis", "redis.cluster")
        parts = urlsplit(uri)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ConfigError("REDIS_URI is no address of a server", hint=_FORM)
        try:
            self.place = f"{parts.hostname}:{parts.port or 6379}"
            self._redis.connection.parse_url(uri)
            options = parse_qsl(parts.query, strict_parsing=bool(parts.query))
        except ValueError:  # the error itself may quote the URI
            raise ConfigError("REDIS_URI cannot be read", hint=_FORM) from None
        if any(name not in _OPTIONS for name, _ in options):  # others would change what answers look like
            raise ConfigError("REDIS_URI has an option that is not known", hint=f"expected {', '.join(_OPTIONS)}")
        self._uri = uri
        self._secret = secret
        self._replicas = replicas
        self._connection: Any = None
        self._turn = 0
        self.is_cluster = False

    def do(self, commands: Sequence[Command], *, writes: bool = True) -> list[Any]:
        """Send commands, and again those that failed for reasons that pass; their answers, in their order, with a
        RefusedError for each that the server does not take. They must be safe to repeat.

        Raises:
            TargetError: It cannot be done, or not in time.
            CheckpointConflictError: The run has lost its lease.
        """
        answers: list[Any] = [None] * len(commands)
        left = [*range(len(commands))]
        backoff, scripts_sent = Backoff(), 0
        while left:
            if writes:
                check_lease()
            met = self._sent([commands[index] for index in left], answers, left, writes=writes)
            failed = [index for index in left if isinstance(answers[index], self._redis.RedisError)]
            for index in failed:
                if is_refusal(answers[index]):
                    answers[index] = RefusedError("the server does not take a value of this size")
            again = [index for index in failed if isinstance(answers[index], self._redis.RedisError)]
            error = met or next((answers[index] for index in again), None)
            if error is None:
                return answers
            if len(again) < len(left) and met is None:
                backoff.progress()
            if not (passes(error) and all(passes(answers[index]) for index in again)):
                raise trouble(error, self.place) from None
            is_first = code_of(error) == NO_SCRIPT and not scripts_sent
            scripts_sent += is_first
            if not (is_first or backoff.wait()):
                raise trouble(error, self.place) from None
            left = left if met is not None else again
        return answers

    def scan(self, pattern: str) -> Iterator[list[str]]:
        """The keys that match, a page at a time; one can come twice. Of a cluster's nodes one after the other. Keys
        that move between nodes meanwhile may be missed. Raises TargetError, also when the time is over."""
        limit = current_deadline()
        began_s = limit.clock()
        for node in self._call(self._nodes):
            cursor: Any = 0
            while True:
                if limit.clock() >= limit.give_up_at_s(began_s):
                    raise TargetError(
                        NAME,
                        f"{self.place}: not all keys could be gone through in time",
                        hint="nothing is lost: the next run begins again with them: give it more time",
                    )
                cursor, keys = self._call(partial(self._scanned, node, cursor, pattern))
                if keys:
                    yield [key.decode() for key in keys if _is_text(key)]
                if not cursor:
                    break

    def try_scan(self, pattern: str) -> None:
        """Ask for one page of keys, of each node. Raises TargetError."""
        for node in self._call(self._nodes):
            self._call(partial(self._scanned, node, 0, pattern))

    def info(self, section: str) -> dict[str, Any]:
        """What the server says of itself, of one node where there are several. Raises TargetError."""
        found: dict[str, Any] = self._call(lambda: self._connected().info(section, **self._anywhere()))
        return found

    def config(self, name: str) -> str | None:
        """A parameter of the server; None where it does not tell. Raises TargetError where it does not answer."""

        def ask() -> str | None:
            try:
                found = self._connected().config_get(name, **self._anywhere())
            except self._redis.ResponseError:
                return None
            value = found.get(name)
            return None if value is None else str(value)

        return self._call(ask)

    def close(self) -> None:
        """Close the connections, also where a thread still waits for an answer."""
        connection, self._connection = self._connection, None
        self._turn += 1
        if connection is not None:
            with contextlib.suppress(self._redis.RedisError, OSError):
                connection.close()
                if not self.is_cluster:
                    connection.connection_pool.disconnect()

    def _sent(self, commands: Sequence[Command], answers: list[Any], places: Sequence[int], *, writes: bool) -> Any:
        """Send commands once; returns what was in the way of all of them."""
        turn = self._turn

        def attempt() -> list[Any]:
            pipeline = self._connected().pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            if waits := writes and self._replicas:
                # Half of the time, so that it is the server who says that replicas are missing.
                pipeline.execute_command("WAIT", self._replicas, int(500 * self._left_s()))
            found: list[Any] = pipeline.execute(raise_on_error=False)
            if waits and isinstance(found[-1], Exception):
                raise next(each for each in found if isinstance(each, Exception))
            if waits and found.pop() < self._replicas:
                raise self._redis.ResponseError(f"NOREPLICAS fewer than {self._replicas} have it")
            return found

        try:
            found = answer_in_time(attempt, within_s=self._left_s())
        except NoAnswerError:
            self.close()
            raise no_answer(self.place) from None
        except (self._redis.RedisError, OSError) as error:
            if turn == self._turn and not code_of(error):
                self.close()
            return error
        for place, answer in zip(places, found, strict=False):
            answers[place] = answer
        codes = {code_of(each) for each in found if isinstance(each, self._redis.RedisError)}
        if codes & _ELSEWHERE:
            self.close()
        elif NO_SCRIPT in codes:
            self._call(self._load)
        return None

    def _call(self, work: Callable[[], T]) -> T:
        """The answer, asked for again while what is in the way may pass. Raises TargetError."""
        backoff = Backoff()
        while True:
            try:
                return answer_in_time(work, within_s=self._left_s())
            except NoAnswerError:
                self.close()
                raise no_answer(self.place) from None
            except (self._redis.RedisError, OSError) as error:
                if code_of(error) in ("", *_ELSEWHERE):
                    self.close()
                if not passes(error) or not backoff.wait():
                    raise trouble(error, self.place) from None

    def _load(self) -> None:
        for source in SCRIPTS:
            self._connected().script_load(source)

    def _nodes(self) -> list[Any]:
        connection = self._connected()
        return [*connection.get_primaries()] if self.is_cluster else [None]

    def _scanned(self, node: Any, cursor: Any, pattern: str) -> tuple[int, list[bytes]]:
        if node is None:
            found: tuple[int, list[bytes]] = self._connected().scan(cursor, match=pattern, count=_SCANNED)
            return found
        cursors, keys = self._connected().scan(cursor, match=pattern, count=_SCANNED, target_nodes=node)
        return next(iter(cursors.values()), 0), keys

    def _anywhere(self) -> dict[str, Any]:
        return {"target_nodes": self._redis.RedisCluster.RANDOM} if self.is_cluster else {}

    @staticmethod
    def _left_s() -> float:
        limit = current_deadline()
        return max(0.1, min(limit.patience_s, limit.remaining_s))

    def _connected(self) -> Any:
        if self._connection is not None:
            return self._connection
        left_s, turn = self._left_s(), self._turn
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": left_s,
            "socket_connect_timeout": min(left_s, CONNECT_S),
        }
        if self._secret is not None:
            credentials = read_credentials(self._secret)
            options |= {"username": credentials.username or None, "password": credentials.password}
        no_retries = self._redis.retry.Retry(self._redis.backoff.NoBackoff(), 0)
        connection = self._redis.Redis.from_url(self._uri, retry=no_retries, **options)
        if self._has_cluster(connection):
            connection.close()
            if self._replicas:
                raise ConfigError(
                    "REDIS_WAIT_REPLICAS: a cluster does not say which replicas have what",
                    hint="set min-replicas-to-write at its servers instead",
                )
            connection = self._redis.RedisCluster.from_url(self._uri, retry=no_retries, **options)
            self.is_cluster = True
        if turn != self._turn:  # nobody waits for it any more
            connection.close()
            raise NoAnswerError
        self._connection = connection
        return connection

    def _has_cluster(self, connection: Any) -> bool:
        try:
            return bool(int(connection.info("cluster").get("cluster_enabled", 0)))
        except self._redis.exceptions.NoPermissionError:
            return False


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:  # none of ours
        return False
    return True
