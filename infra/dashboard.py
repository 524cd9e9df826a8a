"""The dashboard: one row per function, lag first."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from docdb_stream.metrics import NAMESPACE
from infra.alarms import stream_metric
from infra.function import StreamFunction

_WIDTH = 6
"""Four graphs in a row; a dashboard is 24 wide."""


class StreamDashboard(Construct):
    """Every stream at a glance: is it behind, how long will its position last, what does it deliver, does it fail?"""

    def __init__(
        self, scope: Construct, name: str, functions: Sequence[StreamFunction], failures: sqs.Queue, period: Duration
    ) -> None:
        super().__init__(scope, "Dashboard")
        self._period = period
        dashboard = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=name)
        for function in functions:
            dashboard.add_widgets(*self._row(function))
        depth = failures.metric_approximate_number_of_messages_visible(period=period, statistic="Maximum")
        dashboard.add_widgets(_graph("failed invocations", [depth]))

    def _row(self, function: StreamFunction) -> list[cloudwatch.IWidget]:
        stream, lambda_ = function.plan.stream, function.function
        latency = (
            f"SEARCH('{{{NAMESPACE},stream,target}} MetricName=\"TargetLatency\" stream=\"{stream}\"', 'Average', "
            f"{self._period.to_seconds()})"
        )
        return [
            _graph(
                f"{stream}: lag, s",
                [self._own(stream, "Lag", "Maximum"), self._own(stream, "CheckpointAge", "Maximum")],
            ),
            _graph(f"{stream}: retention headroom, %", [self._own(stream, "RetentionHeadroom", "Minimum")]),
            _graph(
                f"{stream}: events; target latency, ms (right)",
                [self._own(stream, name, "Sum") for name in ("Events", "Rejections", "Retries")],
                right=[cloudwatch.MathExpression(expression=latency, label="", using_metrics={}, period=self._period)],
            ),
            _graph(
                f"{stream}: runs; duration, ms (right)",
                [
                    lambda_.metric_invocations(period=self._period),
                    lambda_.metric_errors(period=self._period),
                    lambda_.metric_throttles(period=self._period),
                ],
                right=[lambda_.metric_duration(period=self._period, statistic="Maximum")],
            ),
        ]

    def _own(self, stream: str, name: str, statistic: str) -> cloudwatch.Metric:
        return stream_metric(stream, name, statistic, self._period)


def _graph(
    title: str, left: Sequence[cloudwatch.IMetric], right: Sequence[cloudwatch.IMetric] = ()
) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, left=list(left), right=list(right), width=_WIDTH)
