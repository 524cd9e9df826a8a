"""Request bodies of AWS' batch actions, written at once instead of walked through by botocore record by record.

botocore validates, serializes and parses each value of each record in Python: most of the CPU of a request with small
records. It goes on signing, sending, and telling what went wrong. Only for services that speak JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

_ASIDE = "docdb_stream_records"


def write_directly(
    made: Any,
    action: str,
    member: str,
    write: Callable[[list[dict[str, Any]]], bytes],
    shorten: Callable[[bytes], bytes | None],
) -> None:
    """Have a client of boto3 write the requests of an action this way; one that does not speak JSON stays as it is.

    The events: botocore's guide, "Extensibility".

    Args:
        made: The client.
        action: As the API calls it, such as ``PutRecords``.
        member: What the API calls the records of a request.
        write: Makes a JSON array of them, as botocore would.
        shorten: Makes a shorter answer of one with status 200, where nothing else of it matters; else None.
    """
    if getattr(made.meta.service_model, "resolved_protocol", None) != "json":
        return

    def set_records_aside(params: dict[str, Any], context: dict[str, Any], **_: object) -> dict[str, Any]:
        context[_ASIDE] = params[member]
        return {**params, member: []}

    def write_records(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        rest = orjson.loads(params["body"])
        del rest[member]
        params["body"] = b'{"%b":%b,%b' % (member.encode(), write(context.pop(_ASIDE)), orjson.dumps(rest)[1:])

    def shorten_answer(response_dict: dict[str, Any], **_: object) -> None:
        if response_dict["status_code"] == 200:
            response_dict["body"] = shorten(response_dict["body"]) or response_dict["body"]

    service = made.meta.service_model.service_id.hyphenize()
    for event, handler in (
        ("provide-client-params", set_records_aside),
        ("before-call", write_records),
        ("before-parse", shorten_answer),
    ):
        made.meta.events.register(f"{event}.{service}.{action}", handler)
