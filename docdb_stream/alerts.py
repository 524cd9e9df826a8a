"""Tells people that a run failed: one message to an SNS topic, not one every two minutes.

Owns the message and its rate. An alert that cannot be sent is logged and never hides the error it is about.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from urllib.parse import quote

from docdb_stream.context import Deadline, NoAnswerError, answer_in_time, current_deadline, deadline
from docdb_stream.errors import DocdbStreamError, SourceUnavailableError, StateStoreError
from docdb_stream.settings import Settings

logger = logging.getLogger(__name__)

INTERVAL_S = 15 * 60
"""At most one alert per stream and kind of error in this time."""

PATIENCE_S = 5.0
"""How long an alert may take. A healthy SNS takes a tenth of a second, importing boto3 half of one on little CPU."""

LEAST_S = 0.5
"""What an alert gets when nothing is left of the run: that it failed for want of time is worth being told."""

_sent: dict[tuple[str | None, str, str], float] = {}
"""When each alert was sent last by this process: by topic, stream and kind, on the monotonic clock. Beside the objects,
because whoever fails and is made anew must not begin to tell everything again."""

_SUBJECT_CHARACTERS = 100
"""Amazon SNS API reference, Publish: a subject is ASCII, below 100 characters, on one line."""


class Alerts:
    """Sends a stream's alerts. All objects of a process share one memory of what was sent.

    Args:
        settings: The stream and SNS_TOPIC_ARN_ALERT; without the topic nothing is sent.
        is_due: Asks the shared state whether an alert of this kind may be sent now, and notes that it is. None, or an
            error from it, leaves the memory of this process.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        settings: Settings,
        is_due: Callable[[str, str, float], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._is_due = is_due
        self._clock = clock

    def send(self, error: Exception) -> bool:
        """Send an alert about ``error`` unless one of its kind was sent lately; returns whether it was sent.

        Takes PATIENCE_S at most, and no longer than is left of the run (but LEAST_S in any case). Never raises.
        """
        topic = self._settings.sns_topic_arn_alert
        if topic is None:
            return False
        within_s = max(LEAST_S, current_deadline().cleanup_s(PATIENCE_S))
        found: bool | Exception
        try:
            # Not all that can hang has a time-out: names are looked up, and credentials too.
            found = answer_in_time(lambda: self._attempt(topic, error, within_s), at_most_s=within_s)
        except NoAnswerError:
            found = TimeoutError(f"no answer within {within_s:.0f} s")
        if isinstance(found, Exception):
            logger.error("the alert could not be sent: %s: %s", type(found).__name__, found)
        return found is True

    def _attempt(self, topic: str, error: Exception, within_s: float) -> bool | Exception:
        """Send it, if it is due; returns what went wrong instead of raising it."""
        kind = error.kind if isinstance(error, DocdbStreamError) else type(error).__name__
        try:
            with deadline(Deadline.after(within_s)):
                if not self._may_send(error, kind):
                    return False
                from docdb_stream import aws

                subject = f"docdb-stream {self._settings.stream_name}: {kind}"
                ascii_subject = subject.encode("ascii", "replace").decode()[: _SUBJECT_CHARACTERS - 1]
                sns = aws.Service("sns", region=aws.arn_region(topic))
                message = self._message(error, kind)
                aws.patiently(lambda: sns.client.publish(TopicArn=topic, Subject=ascii_subject, Message=message))
        except Exception as trouble:  # noqa: BLE001 - whatever it is, the error that is being reported matters more
            return trouble
        _sent[topic, self._settings.stream_name, kind] = self._clock()
        return True

    def _may_send(self, error: Exception, kind: str) -> bool:
        sent_at_s = _sent.get((self._settings.sns_topic_arn_alert, self._settings.stream_name, kind))
        if sent_at_s is not None and self._clock() - sent_at_s < INTERVAL_S:
            return False
        # When the alert is about the cluster, asking the cluster would only take time that a Lambda does not have.
        if self._is_due is None or isinstance(error, (SourceUnavailableError, StateStoreError)):
            return True
        try:
            return self._is_due(self._settings.stream_name, kind, INTERVAL_S)
        except DocdbStreamError:
            return True

    def _message(self, error: Exception, kind: str) -> str:
        lines = [
            f"stream: {self._settings.stream_name}",
            f"error: {error}",
            f"kind: {kind}",
            f"position: {getattr(error, 'position_time', None) or 'as saved; see docdb-stream status'}",
        ]
        if getattr(error, "hint", ""):
            lines.append(f"what to do: {error.hint}")  # type: ignore[attr-defined]
        if link := _log_link():
            lines.append(f"log: {link}")
        return "\n".join([*lines, "", f"No further alert of this kind for {INTERVAL_S // 60} minutes."])


def _log_link() -> str:
    """The console's address of this Lambda's log stream; empty elsewhere."""
    group, stream = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME"), os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
    region = os.environ.get("AWS_REGION")
    if not (group and stream and region):
        return ""
    # The console wants its fragment encoded twice, with $ for %.
    parts = [quote(quote(part, safe=""), safe="").replace("%", "$") for part in (group, stream)]
    return (
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#logsV2:log-groups/log-group/{parts[0]}/log-events/{parts[1]}"
    )
