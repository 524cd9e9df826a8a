"""A schema registry: which number a schema has there.

Confluent's HTTP API, which Apicurio (``/apis/ccompat/v7``), Karapace and Redpanda have, too:
https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from docdb_stream.context import NoAnswerError, answer_in_time, check_lease, current_deadline, deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.format import WithSchema
from docdb_stream.retry import Backoff
from docdb_stream.secret import read_credentials

_REQUEST_S = 10.0
"""How long one request may take, all of its answer included; several fit into the patience."""
_ANSWER_BYTES = 1024 * 1024
"""More than any answer that is asked for; the schema itself, which some of them hold, has 2 KB."""
_MAGIC = b"\x00"
"""Of Confluent's wire format: then comes the schema's number, as four bytes, and what is read by it."""
_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"

_HINT_URL = "check KAFKA_SCHEMA_REGISTRY (Apicurio's ends in /apis/ccompat/v7), and that the network reaches it"
_HINT_SECRET = "check KAFKA_SCHEMA_REGISTRY_SECRET, and let this user read and register schemas under {subject}"
_HINT_INCOMPATIBLE = (
    "another schema is registered under {subject}: give the topic another name (KAFKA_TOPIC_PREFIX, KAFKA_TOPIC), or "
    "let the subject take any (its compatibility NONE)"
)


class _AnswerError(Exception):
    """The registry answered with an error.

    Attributes:
        status: Of HTTP.
        code: The registry's own, where it has one.
    """

    def __init__(self, status: int, body: bytes) -> None:
        try:
            found = json.loads(body)
            self.code, reason = int(found["error_code"]), str(found["message"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            self.code, reason = 0, "without a reason"
        self.status = status
        super().__init__(f"{status}: {reason[:200]}")


class SchemaRegistry:
    """Finds a schema's number under each subject, and registers it where it has none. Asked once for a topic.

    Args:
        target: The target's name, for errors.
        url: The registry's.
        secret: Where username and password are; read for each request.

    Raises:
        ConfigError: The URL is none.
    """

    def __init__(self, target: str, url: str, secret: str | None = None) -> None:
        if not _is_url(url):
            raise ConfigError(
                "KAFKA_SCHEMA_REGISTRY is no URL of a schema registry",
                hint="write it as https://registry.example:8081, and user and password as KAFKA_SCHEMA_REGISTRY_SECRET",
            )
        self._target = target
        self._url = url.rstrip("/")
        self._secret = secret
        self._frames: dict[str, bytes] = {}
        self._opener = urllib.request.build_opener(_NoRedirects())

    def frame(self, topic: str, described: WithSchema) -> bytes:
        """What comes before the bytes of a format's events in a topic.

        Raises:
            TargetError: The registry does not answer in time, or refuses the schema.
        """
        found = self._frames.get(topic)
        if found is None:
            number = self._number(f"{topic}-value", described)
            found = self._frames[topic] = _MAGIC + number.to_bytes(4, "big")
        return found

    def check(self) -> None:
        """See that a registry answers there.

        Raises:
            TargetError: None does, or it refuses the credentials.
        """
        try:
            found = self._request("GET", "/schemas/types")
        except _AnswerError as error:
            raise self._refused(error, "its subjects") from error
        if not isinstance(found, list):
            raise self._nonsense()

    def forget(self) -> None:
        """Ask again from now on: a registry may have been made anew."""
        self._frames.clear()

    def _number(self, subject: str, described: WithSchema) -> int:
        body = {"schema": described.schema, "schemaType": described.schema_type}
        place = f"/subjects/{quote(subject, safe='')}"
        try:
            try:
                found = self._request("POST", f"{place}?normalize=true", body)
            except _AnswerError as error:
                if error.status != 404:
                    raise
                found = self._request("POST", f"{place}/versions?normalize=true", body)
        except _AnswerError as error:
            raise self._refused(error, subject) from error
        number = found.get("id") if isinstance(found, dict) else None
        if type(number) is not int or not 0 <= number < 1 << 32:
            raise self._nonsense()
        return number

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask; again and again while the registry does not answer, or is too busy.

        Raises:
            _AnswerError: It refuses.
            TargetError: There was no answer in time.
        """
        backoff = Backoff()
        while True:
            check_lease()
            request = self._prepared(method, path, body)
            try:
                return json.loads(self._answer(request))
            except _AnswerError as error:
                if error.status != 429 and error.status < 500:
                    raise
                trouble = str(error)
            except (OSError, NoAnswerError, urllib.error.URLError, http.client.HTTPException) as error:
                trouble = _reason(error)
            except (ValueError, RecursionError) as error:
                raise self._nonsense() from error
            if not backoff.wait():
                raise TargetError(self._target, f"the schema registry does not answer: {trouble}", hint=_HINT_URL)

    def _prepared(self, method: str, path: str, body: dict[str, Any] | None) -> urllib.request.Request:
        headers = {"Accept": f"{_MEDIA_TYPE}, application/json", "Content-Type": _MEDIA_TYPE}
        if self._secret is not None:
            found = read_credentials(self._secret)
            headers["Authorization"] = "Basic " + b64encode(f"{found.username}:{found.password}".encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(self._url + path, data, headers, method=method)

    def _answer(self, request: urllib.request.Request) -> bytes:
        """One answer, within the time of one request: a server may send it byte by byte."""

        def ask() -> bytes:
            try:
                with self._opener.open(request, timeout=_REQUEST_S) as answer:
                    return bytes(answer.read(_ANSWER_BYTES))
            except urllib.error.HTTPError as error:
                with error:
                    raise _AnswerError(error.code, error.read(_ANSWER_BYTES)) from None

        limit = current_deadline()
        with deadline(replace(limit, at_s=min(limit.at_s, limit.clock() + _REQUEST_S))):
            return answer_in_time(ask)

    def _refused(self, error: _AnswerError, subject: str) -> TargetError:
        hint = _HINT_URL
        if error.status in (401, 403):
            hint = _HINT_SECRET.format(subject=subject)
        elif error.status == 409:
            hint = _HINT_INCOMPATIBLE.format(subject=subject)
        return TargetError(self._target, f"the schema registry refuses {subject}: {error}", hint=hint)

    def _nonsense(self) -> TargetError:
        return TargetError(self._target, "what answers is no schema registry", hint=_HINT_URL)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Where another server is named, the credentials would go there, too."""

    def redirect_request(self, *_: Any) -> None:
        """None: the answer is an error."""


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_http = parts.scheme in ("http", "https")
        return is_http and bool(parts.hostname) and parts.port != 0 and not parts.query and parts.username is None
    except ValueError:  # a port that is none
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, NoAnswerError):
        return "no answer in time"
    return str(getattr(error, "reason", "") or error or type(error).__name__)
