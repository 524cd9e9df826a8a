"""Where the brokers are, how to talk to them, and the words of what goes wrong with them."""

from __future__ import annotations

import socket
import ssl
from typing import Literal
from urllib.parse import urlsplit

from docdb_stream.context import current_deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.secret import Credentials, read_credentials
from docdb_stream.target import Rejection
from docdb_stream.targets._client import tls_context
from docdb_stream.targets._kafka.producer import Record

CONNECT_S = 10.0
"""How long connecting may take, and waiting for a topic's metadata: an operator waits for the answer of ``doctor``."""
_DEFAULT_PORT = 9092

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
"""Kafka's ``compression.type``."""


class Brokers:
    """Where the brokers are and how to talk to them.

    Args:
        bootstrap_servers: ``host:port`` with commas.
        security_protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        sasl_mechanism: For the SASL protocols.
        secret: Where username and password are.
        tls_ca: Path of the CA bundle; the system's by default.
        message_bytes: Largest record batch that the topics take.
        linger_ms: How long a batch waits to be filled; None: what is best with the client library.
        compression: How batches are compressed.

    Raises:
        ConfigError: The arguments make no sense.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        security_protocol: str,
        sasl_mechanism: str,
        secret: str | None,
        tls_ca: str | None,
        message_bytes: int,
        linger_ms: int | None = None,
        compression: Compression = "none",
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._servers = _servers(bootstrap_servers)
        if security_protocol.startswith("SASL") and secret is None:
            raise ConfigError(f"KAFKA_SECURITY_PROTOCOL {security_protocol} needs credentials", hint="set KAFKA_SECRET")
        self.security_protocol = security_protocol
        self.sasl_mechanism = sasl_mechanism
        self._secret = secret
        self.tls = tls_context(tls_ca) if security_protocol.endswith("SSL") else None
        self.tls_ca = tls_ca
        self.message_bytes = message_bytes
        self.linger_ms = linger_ms
        self.compression = compression

    def credentials(self) -> Credentials | None:
        """Username and password for SASL, read anew; None where nobody signs in."""
        if self._secret is None or not self.security_protocol.startswith("SASL"):
            return None
        return read_credentials(self._secret)

    def reach_one(self, target: str) -> None:
        """Connect to a server and hang up, TLS included.

        The libraries would try for all of their timeouts and tell only that these expired.

        Raises:
            TargetError: None can be reached, or TLS fails.
        """
        problems = []
        for host, port in self._servers:
            try:
                with socket.create_connection((host, port), connect_timeout_s()) as connection:
                    if self.tls is not None:
                        self.tls.wrap_socket(connection, server_hostname=host).close()
                return
            except ssl.SSLError as error:
                hint = "check KAFKA_TLS_CA and that this is the brokers' TLS port"
                raise TargetError(target, f"{host}:{port}: TLS failed: {error}", hint=hint) from error
            except OSError as error:
                problems.append(f"{host}:{port}: {error}")
        raise TargetError(
            target,
            "no broker can be reached: " + "; ".join(problems),
            hint="check MSK_BOOTSTRAP_SRV, and that network and security groups let this machine in",
        )

    def refusal(self, target: str, error: object) -> TargetError:
        """What to raise when a broker is there and does not let this client in."""
        return TargetError(
            target,
            f"the brokers do not accept the connection: {error}",
            hint="check KAFKA_SECURITY_PROTOCOL (this is "
            f"{self.security_protocol}), KAFKA_SASL_MECHANISM, KAFKA_SECRET, and that these are Kafka's ports",
        )

    def too_large(self, target: str, record: Record) -> Rejection:
        """The verdict on a record that is too large, here or for the broker."""
        size, limit = record.size_bytes, self.message_bytes
        reason = f"{size} bytes are too large for topic {record.topic}; KAFKA_MESSAGE_BYTES is {limit}"
        return Rejection(record.event, target, reason)


def invalid(target: str, record: Record) -> Rejection:
    """The verdict on a record that the topic's rules (its cleanup policy, its timestamps) do not allow."""
    return Rejection(record.event, target, "InvalidRecordError: the topic's rules refuse it")


def hint_unauthorized(topic: str) -> str:
    """What to do when this user may not write."""
    return f"allow this user to write to {topic} (and IDEMPOTENT_WRITE on the cluster, before Kafka 2.8)"


def hint_missing(topic: str) -> str:
    """What to do when a topic is not there."""
    return f"create the topic {topic}, or let the brokers create topics (auto.create.topics.enable)"


def fenced(target: str, transactional_id: str) -> TargetError:
    """What to raise when the brokers refuse this producer for a newer one. They say the same of a transaction that took
    too long, and which they have ended."""
    return TargetError(
        target,
        f"another producer has taken over {transactional_id}, or the transaction was open for longer than the brokers "
        "allow; nothing of it was delivered",
        hint="the next run delivers it. If this comes again and again: does another deployment deliver a stream of "
        "this name to these brokers? Then give each its own STREAM_NAME, or set KAFKA_TRANSACTIONS = off",
    )


def no_coordinator(target: str, reason: object) -> TargetError:
    """What to raise when the brokers do not begin a transaction, and do not say why."""
    return TargetError(
        target,
        f"the brokers do not begin a transaction: {reason}",
        hint="see that they are up, and can keep their topic __transaction_state (fewer than three brokers need a "
        "smaller transaction.state.log.replication.factor and .min.isr), or set KAFKA_TRANSACTIONS = off",
    )


THROTTLED = "the brokers throttle this client beyond the run's deadline"
HINT_THROTTLED = "raise the quota that throttles it (producer_byte_rate), the timeout, or KAFKA_COMPRESSION"
NO_ANSWER = "the brokers do not confirm what they got"
HINT_NO_ANSWER = "see that the brokers are up and in sync"


def connect_timeout_s() -> float:
    """How long connecting may take now."""
    return max(0.1, min(CONNECT_S, current_deadline().remaining_s))


def _servers(text: str) -> list[tuple[str, int]]:
    try:
        urls = [urlsplit(f"//{server.strip()}") for server in text.split(",")]
        servers = [(url.hostname or "", url.port or _DEFAULT_PORT) for url in urls]
    except ValueError:
        servers = [("", 0)]
    if not all(host for host, _ in servers):
        raise ConfigError(f"MSK_BOOTSTRAP_SRV {text!r} does not name brokers", hint="give host:port with commas")
    return servers
