"""The Lambda that works on a stream's shared snapshot, beside the stream's own function.

Set ``docdb_stream.handlers.snapshot.handler`` as the function's handler and the stream's settings as its environment,
with ``SNAPSHOT_SHARED = true`` for both. As many invocations as may work at a time share the ranges. An event with
``{"look": true}`` has it say how much there is to do, and do nothing; whatever else one says does not matter.
"""

from __future__ import annotations

from typing import Any

from docdb_stream.context import deadline
from docdb_stream.handlers._runtime import Runtime, emit, end_of, log_failure, logger, run_deadline
from docdb_stream.metrics import Metric
from docdb_stream.snapshot_worker import SnapshotWorker

_runtime = Runtime()


def handler(event: object, context: Any) -> dict[str, Any]:
    """Deliver ranges within the invocation's time; ``left`` says how many are not done yet.

    Returns:
        The work's result: see ``WorkResult.as_dict``.

    Raises:
        DocdbStreamError: It failed. What was saved stands, and the range is free again.
    """
    end = end_of(context)
    try:
        settings = _runtime.settings()
        limit = run_deadline(end, settings)
        with deadline(limit):
            worker = SnapshotWorker.from_settings(settings)
        with worker:
            if isinstance(event, dict) and event.get("look"):
                with deadline(limit):
                    return worker.look().as_dict()
            result = worker.run(limit=limit, alert=False)
    except Exception as error:
        log_failure(error)
        with deadline(end):
            _runtime.alert(error)
        raise
    emit([Metric("SnapshotDocuments", "Count", result.documents)], result.stream)
    values = result.as_dict()
    logger.info("snapshot", extra={"result": values})
    return values
