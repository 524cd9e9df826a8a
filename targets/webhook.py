"""Webhooks: every event to an HTTP receiver of your own, signed as Standard Webhooks has it.

Owns the settings and what becomes of an event. In ``_webhook``, ``receiver`` has what is sent and what answers mean,
``signature`` ids and keys, ``addresses`` what may be called, ``connection`` and ``network`` the way there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, quote, urlsplit

from pydantic import AfterValidator, Field

from docdb_stream import __version__
from docdb_stream.errors import Caution, ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Described, Format, WithAttributes
from docdb_stream.formats import format_of
from docdb_stream.formats.facts import FACTS
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, OwnFormat, SecretReference, Words
from docdb_stream.target import Rejection
from docdb_stream.targets._client import import_client, tls_context
from docdb_stream.targets._payload import render_all
from docdb_stream.targets._sender import BatchSender, Limits, Record
from docdb_stream.targets._webhook.addresses import Allowed, ForbiddenAddressError, literal
from docdb_stream.targets._webhook.signature import Keys

REQUEST_BYTES = 256 * 1024
"""What the queues behind receivers take: Amazon SQS' and EventBridge's limits; Standard Webhooks advises to stay small
("Payload size": below 20 kB) and sets none."""
TIMEOUT_S = 20.0
"""Standard Webhooks, "Operational considerations": a request timeout of 15 to 30 seconds."""

_JSON = "application/json"


def _allowable(words: tuple[str, ...]) -> tuple[str, ...]:
    Allowed.of(words)
    return words


class WebhookSettings(TargetSettings):
    """What can be set about the target webhook."""

    switch = "webhook_url"

    webhook_url: Annotated[str | None, Address("webhook_secret")] = Field(
        default=None,
        description="Where every event is sent by HTTP POST: switches the target on. https; http only to what "
        "webhook_allow_addresses names. Redirects are not followed. Absent: off.",
        examples=["https://hooks.example.com/shop"],
    )
    webhook_secret: SecretReference = Field(
        default=None,
        description="The keys that sign requests, by reference as documentdb_secret: one or several, newest first, "
        "with blanks between them or as a JSON list; each is whsec_ and the base64 of 24 to 64 random bytes. All sign. "
        "Absent: requests are not signed, so whoever knows the receiver can send it others.",
        examples=["shop/webhook-keys"],
    )
    webhook_events: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Events a request: 1 sends each by itself; more sends JSON arrays of up to so many.",
    )
    webhook_request_bytes: int = Field(
        default=REQUEST_BYTES,
        ge=1024,
        description="Largest body of a request in bytes; an event above it goes to the dead letters.",
    )
    webhook_timeout_seconds: float = Field(
        default=TIMEOUT_S,
        gt=0,
        le=600,
        description="Seconds that one request may take, from the look-up of the host to the answer's headers.",
    )
    webhook_lanes: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Requests side by side, at most; the changes of a document keep their order. 1: one after the "
        "other.",
    )
    webhook_allow_addresses: Annotated[Words, AfterValidator(_allowable)] = Field(
        default=(),
        description="What may be called though it is not on the public internet, or without TLS, with commas: "
        "addresses, networks (10.1.0.0/16), or host names, which stand for whatever private address they have. "
        "Link-local ones have to be given as addresses.",
        examples=["10.1.0.0/16, hooks.internal"],
    )
    webhook_tls_ca: str | None = Field(
        default=None,
        description="CA bundle of the receiver: a path. Absent: the system's CAs.",
        examples=["/etc/ssl/hooks.pem"],
    )
    webhook_payload_format: OwnFormat = None


class WebhookTarget:
    """Sends every event, of every operation, by HTTP POST; see https://www.standardwebhooks.com for what signs it.

    Each request has the headers ``webhook-id``, ``webhook-timestamp`` and, with keys, ``webhook-signature``. The id is
    made of the stream's name and the event's id, so it is the same for every copy of an event. An array's is made of
    all ids in it; a replay may cut arrays otherwise, so who takes arrays tells copies by the ids of the events.

    An event is durable once its request was answered with 2xx. What other answers mean, ``Receiver`` says. Requests go
    side by side, those of one document one after the other (see ``BatchSender``).

    Args:
        url: Where to.
        secret: Where the keys are (see ``read_text``); None: requests are not signed.
        stream: The stream's name.
        events: Events a request. 1: each is the body; more: a JSON array, also of one.
        request_bytes: Largest body.
        timeout_s: How long one request may take.
        lanes: Requests side by side, at most.
        allow_addresses: What may be called besides the public internet; see ``Allowed.of``.
        tls_ca: Path of the CA bundle; the system's by default.
        payload_format: The format in which an event is written, or its name.

    Raises:
        ConfigError: httpx is not installed, or the arguments make no sense.
    """

    name = "webhook"
    settings_model = WebhookSettings

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        stream: str = "",
        events: int = 1,
        request_bytes: int = REQUEST_BYTES,
        timeout_s: float = TIMEOUT_S,
        lanes: int = 4,
        allow_addresses: Sequence[str] = (),
        tls_ca: str | None = None,
        payload_format: Format | str = "extended",
    ) -> None:
        import_client("httpx", "webhook", "httpx", "httpcore")
        try:
            self._allowed = Allowed.of(allow_addresses)
        except ValueError as error:
            raise ConfigError(f"WEBHOOK_ALLOW_ADDRESSES: {error}") from None
        is_encrypted = _url(url, self._allowed).scheme == "https"
        self._url = url
        self._tls = tls_context(tls_ca) if is_encrypted else None
        self._keys = None if secret is None else Keys(secret)
        self._stream = stream
        self._is_array = events > 1
        self._format = format_of(payload_format)
        self.formats = (self._format, FACTS)
        self._content_type = _content_type(self._format, is_array=self._is_array)
        limit_bytes = request_bytes - self._is_array  # with a comma for each event, an array has one byte more
        self._limits = Limits(events, limit_bytes, limit_bytes)
        self._attributed = self._format if isinstance(self._format, WithAttributes) and not self._is_array else None
        self._timeout_s = timeout_s
        self._lanes = lanes
        self._sender: BatchSender | None = None
        self._connections: Any = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(WebhookSettings)
        return cls(
            own.where,
            secret=own.webhook_secret,
            stream=settings.stream_name,
            events=own.webhook_events,
            request_bytes=own.webhook_request_bytes,
            timeout_s=own.webhook_timeout_seconds,
            lanes=own.webhook_lanes,
            allow_addresses=own.webhook_allow_addresses,
            tls_ca=own.webhook_tls_ca,
            payload_format=settings.format_for(own.webhook_payload_format),
        )

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Send the events. One request's worth is answered on return; more are sent by other threads, while the next
        ones are made ready here. Rejections come as soon as they are known.

        Raises:
            TargetError: The receiver does not take them or those before them, or not in time.
        """
        rendered, rejections = render_all(events, self._format, self.name)
        if not rendered:
            return rejections
        sender = self._connected()
        records: list[Record] = []
        for event, payload in rendered:
            try:
                records.append(self._record(event, payload))
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, f"document key: {error}"))
        return [*rejections, *sender.send(records, self._limits)]

    def flush(self) -> Sequence[Rejection]:
        """Wait until every event is taken or rejected. Raises as ``write`` does."""
        return () if self._sender is None else self._sender.flush()

    def close(self) -> None:
        """End the requests, the threads and the connections. Safe to call twice."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    def check(self) -> None:
        """Read the keys, connect to the receiver and verify its certificate. Sends no request: whether it takes events
        shows at the first one.

        Raises:
            ConfigError: The keys cannot be read.
            TargetError: The receiver cannot be reached, is not trusted, or may not be called.
            Caution: Requests are not signed, or not encrypted.
        """
        if self._keys is not None:
            self._keys.current()
        self._connected()
        self._receiver.connect()
        missing = []
        if self._tls is None:
            missing.append(("without encryption", "use https"))
        if self._keys is None:
            missing.append(("not signed", "set WEBHOOK_SECRET, and have the receiver verify signatures"))
        if missing:
            what, hints = zip(*missing, strict=True)
            raise Caution(f"requests are {' and '.join(what)}", hint="; ".join(hints))

    def _connected(self) -> BatchSender:
        if self._sender is None:
            # Imported only now, with httpx.
            from docdb_stream.targets._webhook.connection import Connections
            from docdb_stream.targets._webhook.receiver import Receiver

            agent = {"user-agent": f"docdb-stream/{__version__}"}
            self._connections = Connections(self._url, agent, self._allowed, self._tls, self._timeout_s)
            self._receiver = Receiver(
                self._connections,
                urlsplit(self._url).netloc,
                stream=self._stream,
                keys=self._keys,
                content_type=self._content_type,
                is_array=self._is_array,
            )
            self._sender = BatchSender(self._receiver, self._lanes)
        return self._sender

    def _record(self, event: ChangeEvent, payload: bytes) -> Record:
        from docdb_stream.targets._webhook.receiver import Entry

        headers: Mapping[str, str] = {}
        if self._attributed is not None:
            headers = {f"ce-{name}": _header(text) for name, text in self._attributed.attributes(event).items()}
        # A comma comes with each event of an array.
        size_bytes = len(payload) + self._is_array
        return Record(event, event.ordering_key, size_bytes, Entry(event.event_id, payload, headers))


def _url(text: str, allowed: Allowed) -> SplitResult:
    """The parts of a URL, if it can be called as far as that shows without a look-up; the rest is seen at each
    connection.

    Raises:
        ConfigError: It cannot; the message repeats nothing but its host, as a path can be a secret.
    """
    try:
        url = urlsplit(text)
        is_one = url.scheme in ("https", "http") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_one = False
    if not is_one or not text.isprintable() or " " in text or url.fragment:
        hint = "give https://host/path, without blanks and without what would come after #"
        raise ConfigError("WEBHOOK_URL is no URL of a receiver", hint=hint)
    if "@" in url.netloc:
        raise _credentials()
    host, is_encrypted = url.hostname or "", url.scheme == "https"
    if not is_encrypted and not (allowed.names or allowed.networks):
        hint = "use https, or name the receiver in WEBHOOK_ALLOW_ADDRESSES"
        raise ConfigError("WEBHOOK_URL is http: events would be sent without encryption", hint=hint)
    address = literal(host)
    if address is not None:
        try:
            allowed.check(host, [address], encrypted=is_encrypted)
        except ForbiddenAddressError as error:
            hint = "if it is meant, name the address in WEBHOOK_ALLOW_ADDRESSES"
            raise ConfigError(f"WEBHOOK_URL: {error}", hint=hint) from None
    return url


def _credentials() -> ConfigError:
    hint = "leave them out: by the signature a receiver knows whom it hears, see WEBHOOK_SECRET"
    return ConfigError("WEBHOOK_URL holds credentials", hint=hint)


def _content_type(payload_format: Format, *, is_array: bool) -> str:
    if not isinstance(payload_format, Described):
        return _JSON
    if not is_array:
        return payload_format.content_type
    if payload_format.batch_content_type is None:
        raise ConfigError(
            f"WEBHOOK_EVENTS: the format {payload_format.name} has no arrays of events",
            hint="set WEBHOOK_EVENTS = 1, or WEBHOOK_PAYLOAD_FORMAT to another",
        )
    return payload_format.batch_content_type


def _header(value: str) -> str:
    """A value as the CloudEvents HTTP protocol binding 1.0.2 encodes it, 3.1.3.2: all but printable ASCII, and blanks,
    quotes and percent signs, as the percent-encoded bytes of their UTF-8."""
    return quote(value, safe=_SAFE)


_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
