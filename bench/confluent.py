"""Kafka by confluent-kafka beside Kafka by kafka-python, from MongoDB to the broker."""

from __future__ import annotations

from bench import bare
from bench.figure import Figure
from bench.payloads import PAYLOADS
from bench.places import Places
from bench.plan import Plan, SkippedError
from bench.rounds import interleaved
from bench.source import Source
from docdb_stream import Settings

EVENTS = 200_000


def measure(plan: Plan) -> list[Figure]:
    """How many times as fast, and how near to the best that confluent-kafka could do.

    Raises:
        SkippedError: There is no KAFKA_CLIENT setting.
    """
    if "kafka_client" not in Settings.model_fields:
        raise SkippedError("the setting KAFKA_CLIENT does not exist")
    events = plan.pick(EVENTS, 6_000)
    with Source(events) as source, Places("kafka") as places:
        payloads = PAYLOADS["kafka"](source.change_events())

        def by(client: str) -> float:
            with places.new() as place:
                return source.deliver(kafka_client=client, **place)[0]

        def bare_client() -> float:
            with places.new() as place:
                return bare.rate("confluent", place, payloads)

        contenders = {
            "raw drain": source.drain_rate,
            "bare client": bare_client,
            "confluent-kafka": lambda: by("confluent"),
            "kafka-python": lambda: by("kafka-python"),
        }
        found = interleaved(contenders, plan, "confluent")
    return [
        found.figure(
            "kafka by confluent-kafka, and by kafka-python",
            "confluent-kafka",
            "kafka-python",
            wanted=">= 4",
            aim=">= 6",
            details={**found.medians, "events": events},
        ),
        found.figure(
            "kafka by confluent-kafka alone",
            "confluent-kafka",
            "raw drain",
            "bare client",
            wanted=">= 0.80",
            aim=">= 0.95",
        ),
    ]
