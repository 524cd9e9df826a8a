"""What the contract tests of the AWS targets share: faults put between the target and the local server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError

from docdb_stream.testing.contract import Faults, Verdict

Request = dict[str, Any]


def throttled(operation: str) -> ClientError:
    response = {"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}
    return ClientError(response, operation)  # type: ignore[arg-type]


@contextmanager
def faults_between(
    client: Any,
    operation: str,
    entries: str,
    event_id: Callable[[Request], str],
    merged: Callable[[Request, list[Verdict], Request | None], Request],
    faults: Faults,
) -> Iterator[None]:
    """Answer ``client.operation`` as ``faults`` says, and pass what is to be taken on to the real server.

    Args:
        client: The target's boto3 client.
        operation: Its method.
        entries: The parameter with the request's records.
        event_id: Which event a record is of.
        merged: The answer to a request, made of the verdicts and of the server's own answer to those it took.
        faults: What is to happen.
    """
    original = getattr(client, operation)

    def answered(**request: Any) -> Request:
        verdicts = faults.answer([event_id(entry) for entry in request[entries]])
        if verdicts is None:
            raise throttled(operation)
        taken = [entry for entry, verdict in zip(request[entries], verdicts, strict=True) if verdict == "take"]
        answer = original(**{**request, entries: taken}) if taken else None
        return merged(request, verdicts, answer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, operation, answered)
        yield
