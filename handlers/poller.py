"""The scheduled Lambda: one run per invocation.

Set ``docdb_stream.handlers.poller.handler`` as the function's handler and the settings as its environment. EventBridge
(rules and Scheduler), SNS, or an empty test event may start it; what the event says does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docdb_stream.context import deadline
from docdb_stream.errors import CheckpointConflictError, ConfigError, LeaseHeldError
from docdb_stream.handlers._runtime import Runtime, emit, end_of, log_failure, logger, now, run_deadline, started_by
from docdb_stream.metrics import run_metrics

_runtime = Runtime()


def handler(event: object, context: Any) -> dict[str, Any]:
    """Run the stream once within the invocation's time.

    Returns:
        The run's result (see RunResult.as_dict). When another invocation works on the stream, only ``stream`` and
        ``stopped_by``: ``lease-held``, or ``lease-lost`` when it took over on the way. SNS delivers twice now and then,
        and that is not a failure.

    Raises:
        DocdbStreamError: The run failed. Lambda retries and then sends the event to the on-failure destination; the
            checkpoint stands where it was last saved.
    """
    end = end_of(context)
    try:
        _check_starter(event)
        limit = run_deadline(end, _runtime.settings())
        poller = _runtime.poller(limit)
        result = poller.run(limit=limit, alert=False)
    except (LeaseHeldError, CheckpointConflictError) as error:
        stream = _runtime.settings().stream_name
        logger.info("not run to its end: %s", error)
        if isinstance(error, CheckpointConflictError):
            _runtime.discard(end)  # its targets may hold what is now another invocation's to deliver
        return {"stream": stream, "stopped_by": error.kind}
    except Exception as error:
        log_failure(error)  # before anything that could take the time which is left
        with deadline(end):
            _runtime.alert(error)
        _runtime.discard(end)
        raise
    if result.unsaved:
        _runtime.discard(end)  # likewise what was not durable by the deadline: the next run reads it again
    emit(run_metrics(result, poller.settings, now()), result.stream)
    values = result.as_dict()
    logger.info("run", extra={"result": values})
    return values


def _check_starter(event: object) -> None:
    starter = started_by(event)
    if starter == "aws:docdb":
        raise ConfigError(
            "this function was started by a DocumentDB event source mapping, and polls by itself",
            hint="set the handler docdb_stream.handlers.esm.handler, or start this function by a schedule",
        )
    # Services whose events carry records ("aws:sqs", "aws:s3", ...); a schedule is "aws.events" or what its user wrote.
    if starter == "unknown" or (starter.startswith("aws:") and starter != "aws:sns"):
        raise ConfigError(
            f"this function was started by {starter}, whose event it would throw away",
            hint="start it by an EventBridge schedule, directly or through SNS",
        )
    if starter == "aws:sns" and isinstance(event, Mapping):
        for record in event["Records"]:
            if not isinstance(record.get("Sns"), Mapping):
                raise ConfigError(
                    "the SNS event holds a record without a message", hint="subscribe the function to the trigger topic"
                )
