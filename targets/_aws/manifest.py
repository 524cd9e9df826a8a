"""The manifest of a checkpoint: which objects it has made durable in a bucket, in one small JSON object.

Written once. A replay that makes the same checkpoint finds it there; one that makes another writes another, whose
objects may have the same names. So what an object holds now counts, not what a manifest said of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson

from docdb_stream.aws import error_code, request_errors
from docdb_stream.context import RunContext
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._aws.uploads import ACTION, Upload

FORMAT_VERSION: Final = 1
"""Of manifests."""
FOLDER: Final = "_manifests"
_IS_THERE: Final = frozenset({"PreconditionFailed", "412"})
"""S3 user guide, "Conditional writes": the answer to If-None-Match where there is such an object."""


def manifest_folder(path: str, stream: str) -> str:
    """Where the manifests of a stream are, with the slash at its end."""
    return f"{path}{FOLDER}/{quote(stream, safe='')}/"


def put_manifest(
    run: RunContext,
    stream: str,
    path: str,
    uploads: Sequence[Upload],
    *,
    destination: Destination,
    bucket: str,
    client: Callable[[], Any],
    is_nested: bool,
) -> str | None:
    """Write the manifest of the checkpoint that is made now; returns its key, or None where no checkpoint is.

    The keys of a stream's manifests have the order of its checkpoints.

    Raises:
        TargetError: The bucket does not take it, or not in time.
    """
    if not (uploads and run.next_checkpoint and run.next_order):
        return None
    key = f"{manifest_folder(path, stream)}{run.next_order}-{run.next_checkpoint[:16]}.json"
    body = orjson.dumps(_manifest(run, stream, uploads, is_nested), option=orjson.OPT_INDENT_2)

    def put() -> None:
        try:
            client().put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json", IfNoneMatch="*")
        except request_errors() as error:
            if error_code(error) not in _IS_THERE:
                raise

    destination.retry(ACTION, put)
    return key


def _manifest(run: RunContext, stream: str, uploads: Sequence[Upload], is_nested: bool) -> dict[str, Any]:
    objects = []
    for upload in sorted(uploads, key=lambda upload: upload.content.key):
        values = upload.as_dict()
        columns = run.columns_of(upload.namespace)
        if columns is not None:
            values["columns"] = [
                {"name": each.name, "field": each.field, "type": each.type, "has_other": each.has_other}
                for each in (column.nested if is_nested and column.nested else column for column in columns)
            ]
            values["schema_version"] = run.schema_version_of(upload.namespace)
        objects.append(values)
    ends = [(each.first, each.last) for each in uploads if each.first is not None]
    return {
        "format": FORMAT_VERSION,
        "stream": stream,
        "checkpoint": run.next_checkpoint,
        "rows": sum(upload.rows for upload in uploads),
        "bytes": sum(upload.size_bytes for upload in uploads),
        "first": min((first for first, _ in ends), key=lambda each: each.cluster_time).event_id,
        "last": max((last for _, last in ends), key=lambda each: each.cluster_time).event_id,
        "objects": objects,
    }
