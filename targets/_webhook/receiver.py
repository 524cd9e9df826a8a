"""What a receiver is sent, and what its answers mean: which are worth another attempt, and which refuse an event."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from docdb_stream.context import check_lease
from docdb_stream.errors import OutOfTimeError, TargetError
from docdb_stream.targets._sender import Refusal, Unavailable
from docdb_stream.targets._webhook.addresses import ForbiddenAddressError
from docdb_stream.targets._webhook.connection import Answer, UnansweredError, UntrustedError
from docdb_stream.targets._webhook.signature import Keys, message_id, signature

_OVERLOADED = frozenset({408, 425, 429})
"""RFC 9110 and RFC 6585: the request itself is not at fault, and may be sent again."""
_UNAUTHORIZED = frozenset({401, 407})
"""Of these nothing can be said but that the keys are wrong. 403 may as well be about an event (a firewall's word)."""

_SENT_AGAIN = "nothing is lost, the next run sends again"


class Entry(NamedTuple):
    """An event as it goes into a request.

    Attributes:
        event_id: Its id.
        payload: Its bytes.
        headers: What a request has besides, that holds this event alone.
    """

    event_id: str
    payload: bytes
    headers: Mapping[str, str]


class Poster(Protocol):
    """What sends requests; see ``connection.Connections``."""

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request, once."""
        ...

    def connect(self) -> None:
        """Connect, and send nothing."""
        ...


class Receiver:
    """A webhook's receiver, see ``_sender.Service``.

    - 2xx: the events are taken.
    - 408, 425, 429, 5xx, no answer: sent again, when Retry-After says so.
    - 401, 407, 3xx and what is no status: TargetError, as it would be for every event.
    - Any other 4xx: the event is refused. Of several in an array, each is sent once more by itself.

    Args:
        connections: What sends the requests.
        host: Its name, for errors.
        stream: The stream's name, which ids are made of.
        keys: What signs; None: nothing does.
        content_type: Of a request.
        is_array: Whether a request holds an array of events, also where it is one.
        clock: The time, in seconds since 1970.
    """

    target = "webhook"

    def __init__(
        self,
        connections: Poster,
        host: str,
        *,
        stream: str,
        keys: Keys | None,
        content_type: str,
        is_array: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.what = f"receiver {host}"
        self._connections = connections
        self._stream = stream
        self._keys = keys
        self._content_type = content_type
        self._is_array = is_array
        self._clock = clock

    def send(self, entries: list[Any]) -> Sequence[Refusal]:
        """See ``Service``."""
        code = self._post(entries)
        if code is None:
            return ()
        return [Refusal(0, code, permanent=True)] if len(entries) == 1 else self._one_by_one(entries)

    def connect(self) -> None:
        """See that it can be reached and is trusted, once, without a request. Raises TargetError."""
        try:
            with self._errors():
                self._connections.connect()
        except Unavailable as error:
            raise self.error(error.cause) from error

    def is_worth_retrying(self, refusal: Refusal) -> bool:
        """See ``Service``."""
        return not refusal.permanent

    def reason(self, refusal: Refusal) -> str:
        """See ``Service``."""
        return f"{self.what}: {refusal.code}"

    def error(self, cause: Exception | str) -> TargetError:
        """See ``Service``."""
        hint = f"{cause.hint}; {_SENT_AGAIN}" if isinstance(cause, UnansweredError) else f"see to it; {_SENT_AGAIN}"
        return TargetError(self.target, f"{self.what}: {cause}", hint=hint)

    def out_of_time(self) -> TargetError:
        """See ``Service``."""
        hint = "nothing is lost, the next run delivers again: raise the timeout, WEBHOOK_LANES or WEBHOOK_EVENTS"
        return OutOfTimeError(self.target, f"{self.what}: not done by the run's deadline", hint=hint)

    def _one_by_one(self, entries: list[Entry]) -> list[Refusal]:
        """Find out which ones of an array are refused; what is not reached is to be sent again."""
        found: list[Refusal] = []
        for number, entry in enumerate(entries):
            check_lease()
            try:
                code = self._post([entry])
            except Unavailable as error:
                left = range(number, len(entries))
                return [*found, *(Refusal(each, str(error), after_s=error.after_s) for each in left)]
            if code is not None:
                found.append(Refusal(number, code, permanent=True))
        return found

    def _post(self, entries: list[Entry]) -> str | None:
        """Send a request; returns None when it was taken, else why its events are refused."""
        body = self._body(entries)
        headers = self._headers(entries, body)
        with self._errors():
            answer = self._connections.post(headers, body)
        return self._judge(answer)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UnansweredError as error:
            raise Unavailable(error) from error
        except UntrustedError as error:
            hint = "set WEBHOOK_TLS_CA to the CA that signed it, or WEBHOOK_URL to the name that is in it"
            raise TargetError(self.target, f"{self.what}: {error}", hint=hint) from error
        except ForbiddenAddressError as error:
            hint = "if it is meant, name the address or the host in WEBHOOK_ALLOW_ADDRESSES"
            raise TargetError(self.target, str(error), hint=hint) from error

    def _judge(self, answer: Answer) -> str | None:
        status = answer.status
        if 200 <= status < 300:
            return None
        code = f"HTTP {status}"
        if status in _OVERLOADED or 500 <= status < 600:
            after_s = retry_after_s(answer.retry_after, self._clock())
            raise Unavailable(f"{code}, to be asked again in {after_s:g} s" if after_s else code, after_s)
        if status in _UNAUTHORIZED:
            if self._keys is not None:
                self._keys.forget()
            hint = "see that the receiver verifies with a key of WEBHOOK_SECRET and that its clock is right"
            raise TargetError(self.target, f"{self.what} does not let this in: {code}", hint=hint)
        if 400 <= status < 500:
            return code
        raise self._elsewhere(answer, code)

    def _elsewhere(self, answer: Answer, code: str) -> TargetError:
        to = ""
        if answer.location is not None:
            to = f" to {_host(answer.location)!a}"
        hint = "redirects are not followed: set WEBHOOK_URL to what takes the events itself, with a status of 2xx"
        return TargetError(self.target, f"{self.what}: {code}{to}", hint=hint)

    def _body(self, entries: list[Entry]) -> bytes:
        if self._is_array:
            return b"[%b]" % b",".join(entry.payload for entry in entries)
        return entries[0].payload

    def _headers(self, entries: list[Entry], body: bytes) -> dict[str, str]:
        message = message_id(self._stream, [entry.event_id for entry in entries])
        timestamp = int(self._clock())
        headers = {
            "content-type": self._content_type,
            "webhook-id": message,
            "webhook-timestamp": str(timestamp),
        }
        if self._keys is not None:
            headers["webhook-signature"] = signature(self._keys.current(), message, timestamp, body)
        return headers if self._is_array else {**entries[0].headers, **headers}


def _host(location: str) -> str:
    """Of where a redirect leads, the host alone: a path can be as good as a password."""
    try:
        return (urlsplit(location).hostname or "a path of the same host")[:200]
    except ValueError:
        return "somewhere"


_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


def retry_after_s(text: str | None, now_s: float) -> float:
    """The seconds that a Retry-After asks for (RFC 9110, 10.2.3: seconds, or a date); 0 where it says nothing."""
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    if text.isdecimal():  # more than anybody waits
        return float("inf")
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp() - now_s)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
