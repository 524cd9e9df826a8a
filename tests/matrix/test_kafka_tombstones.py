"""What only an Apache Kafka shows of what formats ask for: it keeps receipts."""

from __future__ import annotations

from typing import Any

import pytest
from contract.test_kafka import CLIENTS, deliver
from contract.test_kafka_transactions import Committed

from docdb_stream.context import RunContext, running
from docdb_stream.local import KafkaBroker
from docdb_stream.targets.kafka import Client
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.matrix]


@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_committed_of_a_delete_is_all_of_it(real_kafka: KafkaBroker, client: Client, entered: Any) -> None:
    """A run that comes again sends neither the delete nor its tombstone again, and what is new with its own."""
    topics, log = entered(Committed(real_kafka, client)), ChangeLog()
    events = [change for number in range(2) for change in (log.insert({"_id": number}), log.delete(number))]
    for sent in (events, [*events, log.delete(5)]):
        target = topics.target(payload_format="debezium")
        with running(RunContext(checkpoint="the last")):
            assert deliver(target, sent) == []
        target.close()
    assert sorted(record.value is None for record in topics.records()) == [False] * 5 + [True] * 3
