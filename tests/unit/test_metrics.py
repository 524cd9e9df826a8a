"""The figures of a run: names, units, arithmetic."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from aws_lambda_powertools.metrics import MetricUnit
from bson import Timestamp

from docdb_stream.events import Position
from docdb_stream.metrics import Metric, run_metrics
from docdb_stream.result import RunResult, TargetFigures
from docdb_stream.settings import Settings

NOW = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


def at(age_s: float) -> Position:
    return Position(operation_time=Timestamp(int(NOW.timestamp() - age_s), 1))


def metrics(result: RunResult, **values: Any) -> dict[tuple[str, str], Metric]:
    settings = Settings(documentdb_uri="mongodb://x/", watched_db_name="shop", **values)
    found = run_metrics(result, settings, NOW)
    return {(metric.name, metric.dimensions.get("target", "")): metric for metric in found}


def value(result: RunResult, name: str, target: str = "", **values: Any) -> float:
    return metrics(result, **values)[name, target].value


def test_the_counts_of_a_run() -> None:
    result = RunResult("s", events=7, read=9, loops=3, checkpoints=2, rejections=1, retries=4)
    assert {name: value(result, name) for name in ("Events", "Loops", "Checkpoints", "Rejections", "Retries")} == {
        "Events": 7,
        "Loops": 3,
        "Checkpoints": 2,
        "Rejections": 1,
        "Retries": 4,
    }


def test_what_steps_left_out_is_told_where_there_is_any() -> None:
    assert value(RunResult("s", read=9, filtered=2), "Filtered") == 2
    assert ("Filtered", "") not in metrics(RunResult("s", read=9))


@pytest.mark.parametrize(("caught_up", "expected"), [(True, 1.0), (False, 0.0)])
def test_caught_up_is_one_or_zero(caught_up: bool, expected: float) -> None:
    assert value(RunResult("s", caught_up=caught_up), "CaughtUp") == expected


def test_the_lag_is_the_runs_and_absent_where_it_is_unknown() -> None:
    assert value(RunResult("s", lag_s=12.5), "Lag") == 12.5
    assert ("Lag", "") not in metrics(RunResult("s", lag_s=None))


def test_the_age_of_the_position_and_the_headroom() -> None:
    result = RunResult("s", position=at(2_700))  # 45 minutes of the default retention of three hours
    assert value(result, "CheckpointAge") == 2_700
    assert value(result, "RetentionHeadroomSeconds") == 8_100
    assert value(result, "RetentionHeadroom") == 75.0


def test_the_headroom_goes_by_the_configured_retention() -> None:
    result = RunResult("s", position=at(86_400))
    assert value(result, "RetentionHeadroom", change_log_retention_seconds=7 * 86_400) == pytest.approx(600 / 7)


def test_the_headroom_never_is_below_zero() -> None:
    result = RunResult("s", position=at(100_000))
    assert value(result, "RetentionHeadroom") == 0.0
    assert value(result, "RetentionHeadroomSeconds") == 0.0
    assert value(result, "CheckpointAge") == 100_000


def test_a_cluster_whose_clock_is_ahead_gives_no_negative_age() -> None:
    result = RunResult("s", position=at(-5))
    assert value(result, "CheckpointAge") == 0.0
    assert value(result, "RetentionHeadroom") == 100.0


@pytest.mark.parametrize("position", [None, Position()])
def test_without_a_known_time_there_is_no_age(position: Position | None) -> None:
    found = {name for name, _ in metrics(RunResult("s", position=position))}
    assert found.isdisjoint({"CheckpointAge", "RetentionHeadroom", "RetentionHeadroomSeconds"})


def test_the_latency_is_per_target_and_batch() -> None:
    targets = {
        "s3": TargetFigures(events=10, writes=4, write_s=0.1, flush_s=0.3),
        "kinesis": TargetFigures(events=10, writes=2, write_s=0.5),
        "idle": TargetFigures(),
    }
    result = RunResult("s", targets=targets)
    assert value(result, "TargetLatency", "s3") == pytest.approx(100.0)
    assert value(result, "TargetLatency", "kinesis") == pytest.approx(250.0)
    assert ("TargetLatency", "idle") not in metrics(result)


def test_every_unit_is_one_of_cloudwatch() -> None:
    units = {unit.value for unit in MetricUnit} | {"None"}
    result = RunResult("s", lag_s=1, position=at(1), targets={"s3": TargetFigures(writes=1)})
    assert {metric.unit for metric in metrics(result).values()} <= units
