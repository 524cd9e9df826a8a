"""How each service refuses: a request as a whole, and single records of a batch, in its own form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
Refuse = Callable[[int], set[int]]
"""Given how many records there are, which of them are refused."""

_JSON = {"Content-Type": "application/x-amz-json-1.1"}


@dataclass(frozen=True)
class Request:
    """An HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers.items() if key.lower() == name), "")


@dataclass(frozen=True)
class Service:
    """An AWS service that speaks JSON and takes batches.

    Attributes:
        name: As in results.
        delivery: The operation that takes records.
        entries: The request's field with them.
        throttle: The error code for too many requests.
    """

    name: str
    delivery: str = ""
    entries: str = ""
    throttle: str = ""

    def is_delivery(self, request: Request) -> bool:
        return request.header("x-amz-target").endswith(f".{self.delivery}")

    def has_parts(self, request: Request) -> bool:
        return True

    def error(self, request: Request) -> Answer:
        return 500, _JSON, json.dumps({"__type": "InternalFailure", "message": "injected"}).encode()

    def throttled(self, request: Request) -> Answer:
        return 400, _JSON, json.dumps({"__type": self.throttle, "message": "injected"}).encode()

    def split(self, request: Request, refuse: Refuse) -> tuple[Request | None, Callable[[Answer | None], Answer]]:
        """What of the request to pass on, and how to make the answer to all of it out of the server's to that."""
        content = json.loads(request.body)
        entries = content[self.entries]
        refused = refuse(len(entries))
        taken = [entry for number, entry in enumerate(entries) if number not in refused]
        passed = replace(request, body=json.dumps({**content, self.entries: taken}).encode()) if taken else None

        def merge(answer: Answer | None) -> Answer:
            if answer is not None and answer[0] != 200:
                return answer
            found = json.loads(answer[2]) if answer else {}
            return 200, _JSON, json.dumps(self.merged(entries, refused, found)).encode()

        return passed, merge

    def merged(self, entries: list[Any], refused: set[int], answer: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class Kinesis(Service):
    def merged(self, entries: list[Any], refused: set[int], answer: dict[str, Any]) -> dict[str, Any]:
        taken = iter(answer.get("Records", ()))
        records = [
            {"ErrorCode": self.throttle, "ErrorMessage": "injected"} if number in refused else next(taken)
            for number in range(len(entries))
        ]
        return {"FailedRecordCount": sum("ErrorCode" in record for record in records), "Records": records}


class Sqs(Service):
    def merged(self, entries: list[Any], refused: set[int], answer: dict[str, Any]) -> dict[str, Any]:
        failed = [
            {"Id": entries[number]["Id"], "Code": "InternalError", "Message": "injected", "SenderFault": False}
            for number in sorted(refused)
        ]
        return {"Successful": answer.get("Successful", []), "Failed": answer.get("Failed", []) + failed}


class S3(Service):
    def is_delivery(self, request: Request) -> bool:
        return request.method == "PUT" and "?" not in request.path and request.path.strip("/").count("/") > 0

    def has_parts(self, request: Request) -> bool:
        return False

    def error(self, request: Request) -> Answer:
        return 500, {"Content-Type": "application/xml"}, _s3_error("InternalError")

    def throttled(self, request: Request) -> Answer:
        return 503, {"Content-Type": "application/xml"}, _s3_error("SlowDown")


def _s3_error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()


class OpenSearch(Service):
    _JSON = {"Content-Type": "application/json"}  # noqa: RUF012

    def is_delivery(self, request: Request) -> bool:
        return request.path.startswith("/_bulk")

    def error(self, request: Request) -> Answer:
        return 503, {"Content-Type": "text/html"}, b"<html>Service Unavailable</html>"

    def throttled(self, request: Request) -> Answer:
        error = {"error": {"type": "es_rejected_execution_exception", "reason": "injected"}, "status": 429}
        return 429, self._JSON, json.dumps(error).encode()

    def split(self, request: Request, refuse: Refuse) -> tuple[Request | None, Callable[[Answer | None], Answer]]:
        actions: list[tuple[str, bytes]] = []  # operation, its lines
        lines = iter(request.body.splitlines(keepends=True))
        for line in lines:
            operation = next(iter(json.loads(line)))
            actions.append((operation, line if operation == "delete" else line + next(lines)))
        refused = refuse(len(actions))
        taken = b"".join(text for number, (_, text) in enumerate(actions) if number not in refused)
        passed = replace(request, body=taken, path="/_bulk") if taken else None

        def merge(answer: Answer | None) -> Answer:
            if answer is not None and answer[0] != 200:
                return answer
            items = iter(json.loads(answer[2])["items"] if answer else ())
            error = {"type": "es_rejected_execution_exception", "reason": "injected"}
            merged = [
                {operation: {"status": 429, "error": error}} if number in refused else next(items)
                for number, (operation, _) in enumerate(actions)
            ]
            return 200, self._JSON, json.dumps({"errors": True, "items": merged}).encode()

        return passed, merge


_KINESIS = Kinesis("kinesis", "PutRecords", "Records", "ProvisionedThroughputExceededException")
_SQS = Sqs("sqs", "SendMessageBatch", "Entries", "ThrottlingException")
_S3 = S3("s3")
_OPENSEARCH = OpenSearch("opensearch")


def service_of(request: Request) -> Service:
    """Which service a request is for."""
    target = request.header("x-amz-target")
    if target.startswith("Kinesis"):
        return _KINESIS
    if target.startswith("AmazonSQS"):
        return _SQS
    return _S3 if "aws4-hmac" in request.header("authorization").lower() else _OPENSEARCH
