"""What an index holds, as a domain in trouble says it."""

from __future__ import annotations

from typing import Any, cast

import pytest
from clocks import Clock, limit

from docdb_stream.context import RunContext, running
from docdb_stream.errors import TargetError
from docdb_stream.held import Held
from docdb_stream.targets._opensearch.client import OpenSearchClient
from docdb_stream.targets._opensearch.held import OpenSearchHoldings

WANTED = Held("shop-orders", b"k1", b"")
STARTING = {"error": {"type": "no_shard_available_action_exception"}}
FOUND = {"found": True, "_version": 5, "_source": {"a": 1}}


class Domain:
    """Answers to _mget, one after the other; the last again and again."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = [*answers]

    def request(self, method: str, path: str, body: bytes | None = None) -> Any:
        if path != "/_mget":
            return {}
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return {"docs": [{"_index": "shop-orders", "_id": "k1", **answer}]}

    def refused(self, status: int, type: str, index: str | None = None) -> TargetError:
        return TargetError("opensearch", f"{status} {type}, index {index}")


def looked(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> Held:
    clock = Clock()
    monkeypatch.setattr("docdb_stream.context.Deadline.pause", lambda self, delay_s: clock.sleep(delay_s))
    holdings = OpenSearchHoldings(
        cast("OpenSearchClient", domain), outcome_of=lambda _: None, index_of=str, others=(), is_own=True
    )
    with running(RunContext(limit(clock))):
        [found] = holdings.look([WANTED])
    return found


def test_a_shard_that_is_starting_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(Domain(STARTING, STARTING, FOUND), monkeypatch).digest is not None


def test_a_shard_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match="no_shard_available_action_exception, index shop-orders"):
        looked(Domain(STARTING), monkeypatch)


def test_an_index_that_is_not_there_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(Domain({"error": {"type": "index_not_found_exception"}}), monkeypatch).digest is None
