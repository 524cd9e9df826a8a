"""The alarms: what an operator is told, besides the alerts that a failing run sends itself.

Owns thresholds and what missing data means. The metrics' names and units are those of ``docdb_stream.metrics``.
"""

from __future__ import annotations

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from docdb_stream.metrics import NAMESPACE
from infra.function import StreamFunction
from infra.settings import DeploySettings
from infra.snapshots import SnapshotMachine

HEADROOM_PERCENT = 50
"""Half of the change log's retention is left to react in."""

PERIODS = 3
"""What passes by itself within three periods is not worth waking someone."""

_ABOVE = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
_BELOW = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
_QUIET_WHEN_MISSING = cloudwatch.TreatMissingData.NOT_BREACHING
_LOUD_WHEN_MISSING = cloudwatch.TreatMissingData.BREACHING


def stream_metric(stream: str, name: str, statistic: str, period: Duration) -> cloudwatch.Metric:
    """One of the stream's own metrics."""
    return cloudwatch.Metric(
        namespace=NAMESPACE, metric_name=name, dimensions_map={"stream": stream}, statistic=statistic, period=period
    )


class Alarms:
    """Makes the alarms of a deployment; each tells the alert topic.

    Args:
        deploy: What holds for the whole deployment.
        alerts: The alert topic.
    """

    def __init__(self, deploy: DeploySettings, alerts: sns.ITopic) -> None:
        self._deploy = deploy
        self._action = actions.SnsAction(alerts)
        # An event source mapping has no period of its own.
        self._period = Duration.minutes(deploy.every_minutes)

    def watch_function(self, function: StreamFunction) -> None:
        """Errors, throttles, lag, retention headroom; with a schedule also whether it ran at all."""
        stream, lambda_ = function.plan.stream, function.function
        lag_s = function.plan.function.lag_alarm_seconds
        errors = lambda_.metric_errors(period=self._period, statistic="Sum")
        self._add(function, "Errors", errors, _ABOVE, 0, f"{stream}: runs fail", periods=2)
        throttles = lambda_.metric_throttles(period=self._period, statistic="Sum")
        self._add(function, "Throttles", throttles, _ABOVE, 0, f"{stream}: runs overlap; raise every_minutes")
        lag = stream_metric(stream, "Lag", "Maximum", self._period)
        self._add(function, "Lag", lag, _ABOVE, lag_s, f"{stream}: over {lag_s} s behind; raise max_loop or memory")
        headroom = stream_metric(stream, "RetentionHeadroom", "Minimum", self._period)
        why = f"{stream}: in danger of losing its position; raise the change log's retention or the pace"
        self._add(function, "RetentionHeadroom", headroom, _BELOW, HEADROOM_PERCENT, why, periods=1)
        if self._deploy.trigger == "schedule" and function.plan.work == "runs":
            runs = lambda_.metric_invocations(period=self._period, statistic="Sum")
            alarm = self._add(
                function, "NotRun", runs, _BELOW, 1, f"{stream}: did not run for {PERIODS} periods", _LOUD_WHEN_MISSING
            )
            if not self._deploy.enabled:  # it is not meant to run yet
                child = alarm.node.default_child
                assert isinstance(child, cloudwatch.CfnAlarm)
                child.actions_enabled = False

    def watch_machine(self, machine: SnapshotMachine) -> None:
        """Executions that failed: a snapshot stands still."""
        failed = machine.machine.metric_failed(period=self._period, statistic="Sum")
        stream = machine.workers.plan.stream
        self._add(machine.workers, "SnapshotFailed", failed, _ABOVE, 0, f"{stream}: its snapshot fails", periods=1)

    def watch_failures(self, queue: sqs.Queue) -> None:
        """The on-failure queue: invocations that were given up."""
        depth = queue.metric_approximate_number_of_messages_visible(period=Duration.minutes(1), statistic="Maximum")
        self._add(queue, "Depth", depth, _ABOVE, 0, "docdb-stream: failed invocations in the queue", periods=1)

    def _add(
        self,
        scope: Construct,
        name: str,
        metric: cloudwatch.Metric,
        comparison: cloudwatch.ComparisonOperator,
        threshold: float,
        description: str,
        missing: cloudwatch.TreatMissingData = _QUIET_WHEN_MISSING,
        periods: int = PERIODS,
    ) -> cloudwatch.Alarm:
        alarm = cloudwatch.Alarm(
            scope,
            f"{name}Alarm",
            alarm_name=_alarm_name(scope, name),
            alarm_description=description,
            metric=metric,
            comparison_operator=comparison,
            threshold=threshold,
            evaluation_periods=periods,
            treat_missing_data=missing,
        )
        alarm.add_alarm_action(self._action)
        return alarm


def _alarm_name(scope: Construct, name: str) -> str:
    whose = scope.plan.name if isinstance(scope, StreamFunction) else f"{Stack.of(scope).stack_name}-failures"
    return f"{whose}-{name}"
