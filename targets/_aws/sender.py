"""The batch APIs of AWS as what a ``BatchSender`` sends to, and the texts that they take.

Owns what becomes of AWS' error codes there. How records become requests is ``_sender``'s; what a record and a request
look like is each target's matter (``_aws.target``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from docdb_stream.aws import error_code, is_retriable, request_errors
from docdb_stream.errors import TargetError
from docdb_stream.targets._aws.client import Destination, is_the_destination_at_fault
from docdb_stream.targets._sender import BatchSender as _BatchSender
from docdb_stream.targets._sender import Limits as Limits
from docdb_stream.targets._sender import Record as Record
from docdb_stream.targets._sender import Refusal as Refusal
from docdb_stream.targets._sender import Unavailable


def refusals(results: Sequence[dict[str, Any]], at_fault: Collection[str] = ()) -> list[Refusal]:
    """The refusals among the results of a request, which are in its records' order.

    Args:
        results: One for each record; those that were refused have an ``ErrorCode``.
        at_fault: The codes by which the service says that the record itself is at fault.
    """
    codes = [(number, result.get("ErrorCode")) for number, result in enumerate(results)]
    return [Refusal(number, code, code in at_fault) for number, code in codes if code]


def within(text: str, characters: int) -> str:
    """``text`` where it is short enough for a service, else the hexadecimal SHA-256 of it.

    Characters are UTF-16's: a service written in Java counts those beyond U+FFFF twice.
    """
    is_short = len(text) <= characters // 2 or len(text.encode("utf-16-le")) <= 2 * characters
    return text if is_short else hashlib.sha256(text.encode()).hexdigest()


def xml_text(text: str) -> str:
    r"""``text`` with what XML 1.0 has not (controls, U+FFFE, U+FFFF) written as JSON writes it, such as ``\u0001``.

    Names of collections may hold any character but NUL. One that a service does not take would have it refuse the whole
    event, or the request that it is in.
    """
    return _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


# Extensible Markup Language (XML) 1.0, "Characters".
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class BatchSender(_BatchSender):
    """Sends records to a batch API of AWS.

    Args:
        destination: Where the records go.
        action: The IAM action of a request.
        request: Sends the entries of one request and returns the refusals; called from several threads. Raises what
            botocore raises.
        lanes: Requests side by side, at most.
    """

    def __init__(
        self,
        destination: Destination,
        action: str,
        request: Callable[[list[dict[str, Any]]], list[Refusal]],
        lanes: int,
    ) -> None:
        super().__init__(_Api(destination, action, request), lanes)


class _Api:
    """One action of a service, see ``_sender.Service``."""

    def __init__(
        self, destination: Destination, action: str, request: Callable[[list[dict[str, Any]]], list[Refusal]]
    ) -> None:
        self.target = destination.target
        self.what = destination.what
        self.out_of_time = destination.out_of_time
        self._destination = destination
        self._action = action
        self._request = request

    def send(self, entries: list[Any]) -> Sequence[Refusal]:
        try:
            return self._request(entries)
        except request_errors() as error:
            if is_retriable(error):
                raise Unavailable(error) from error
            raise self.error(error) from error

    def is_worth_retrying(self, refusal: Refusal) -> bool:
        if is_retriable(refusal.code):
            return True
        if is_the_destination_at_fault(refusal.code):
            raise self.error(refusal.code)
        return not refusal.permanent

    def reason(self, refusal: Refusal) -> str:
        return f"{self.what}: {error_code(refusal.code)}"

    def error(self, cause: Exception | str) -> TargetError:
        return self._destination.error(cause, self._action)
