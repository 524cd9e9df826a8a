"""What is told of trouble, where telling it meets the same trouble."""

from __future__ import annotations

from typing import Any

import dns.resolver
import pytest
from pymongo.errors import ConfigurationError, PyMongoError, ServerSelectionTimeoutError

from docdb_stream.mongodb.diagnosis import unavailable, uri_options

URI = "mongodb+srv://user:pw@cluster.example.net/?replicaSet=rs0"


class Answer:
    """The records that a name service gives."""

    ttl = 60

    def __init__(self, *found: Any) -> None:
        self.found = found
        self.rrset = self

    def __iter__(self) -> Any:
        return iter(self.found)


class Host:
    priority = weight = 0
    port = 27017

    class target:
        @staticmethod
        def to_text(**_: Any) -> str:
            return "a.cluster.example.net"


def test_an_outage_that_takes_the_name_service_with_it_is_told_without_asking_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(name: str, kind: str, **_: Any) -> Answer:
        if kind == "SRV":
            return Answer(Host)
        raise dns.resolver.NXDOMAIN

    def is_silent(*_: Any, **__: Any) -> Answer:
        pytest.fail("the name service is asked")

    monkeypatch.setattr(dns.resolver, "resolve", answers)
    assert uri_options(URI)["replicaset"] == "rs0"  # as when the client was made
    monkeypatch.setattr(dns.resolver, "resolve", is_silent)
    assert "a.cluster.example.net" in str(unavailable(ServerSelectionTimeoutError("No servers found yet"), URI))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ServerSelectionTimeoutError('No replica set members match selector "Secondary(tag_sets=None)"'),
            "readPreference",
        ),
        (ServerSelectionTimeoutError('No replica set members match selector "Primary()"'), "no usable server"),
        (ConfigurationError("maxStalenessSeconds must be at least 90"), "connection string does not go with"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_where_no_member_is_what_the_connection_string_asks_for(error: PyMongoError, told: str) -> None:
    assert told in str(unavailable(error, "mongodb://127.0.0.1:1/"))
