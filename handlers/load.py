"""The Lambda that loads a stream's Parquet files into its warehouse.

Set ``docdb_stream.handlers.load.handler`` as the function's handler and the stream's settings as its environment. A
schedule, the S3 event of a new manifest (by EventBridge or directly), or a step of a state machine may start it; what
the event says does not matter: what is not loaded yet is loaded, in order.
"""

from __future__ import annotations

from typing import Any

from docdb_stream.context import deadline
from docdb_stream.handlers._runtime import Runtime, emit, end_of, log_failure, logger, run_deadline
from docdb_stream.load.loading import LoadResult, load
from docdb_stream.metrics import Metric

_runtime = Runtime()


def handler(event: object, context: Any) -> dict[str, Any]:
    """Load within the invocation's time; what is left is the next one's, and ``waiting`` says how much that is.

    Returns:
        The load's result: see ``LoadResult.as_dict``.

    Raises:
        DocdbStreamError: The load failed. What was loaded before stays; Lambda retries, and the rest is loaded then.
    """
    end = end_of(context)
    try:
        settings = _runtime.settings()
        result = load(settings, limit=run_deadline(end, settings))
    except Exception as error:
        log_failure(error)
        with deadline(end):
            _runtime.alert(error)
        raise
    emit(_metrics(result), result.stream)
    values = result.as_dict()
    logger.info("load", extra={"result": values})
    return values


def _metrics(result: LoadResult) -> list[Metric]:
    loaded = result.loaded
    return [
        Metric("ManifestsLoaded", "Count", result.manifests),
        Metric("ManifestsWaiting", "Count", result.waiting),
        Metric("RowsLoaded", "Count", loaded.rows),
        Metric("DocumentsWritten", "Count", loaded.written),
        Metric("DocumentsDeleted", "Count", loaded.deleted),
    ]
