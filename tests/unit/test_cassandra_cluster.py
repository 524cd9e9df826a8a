"""An attempt that is given up while it connects to a server that is silent."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import TargetError
from docdb_stream.targets._cassandra.cluster import Cluster

INSERT = "INSERT INTO t (id) VALUES (?) USING TIMESTAMP ?"


class Session:
    """The driver's, with what it was asked."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.is_closed = threading.Event()
        self.cluster = self

    def shutdown(self) -> None:
        self.is_closed.set()

    def prepare(self, text: str) -> Any:
        class Prepared:
            is_idempotent = False

        return Prepared()


def executed(session: Session, statements: Any, **options: Any) -> list[tuple[bool, Any]]:
    session.sent += [values for _, values in statements]
    return [(True, None)] * len(statements)


def all_calls_ended() -> None:
    for thread in threading.enumerate():
        if thread.name == "call":
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    pytest.importorskip("cassandra")
    monkeypatch.setattr("cassandra.concurrent.execute_concurrent", executed)
    return Cluster("cassandra.example", "shop")


def test_it_writes_nothing_once_the_server_answers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, late, prompt = threading.Event(), Session(), Session()

    def silent() -> Session:
        assert answers.wait(60)
        return late

    monkeypatch.setattr(cluster, "_connected", silent)
    with running(RunContext(Deadline.after(0))), pytest.raises(TargetError):
        cluster.write([(INSERT, ("old", 1))])

    monkeypatch.setattr(cluster, "_connected", lambda: prompt)
    assert cluster.write([(INSERT, ("new", 2))]) == {}
    answers.set()
    all_calls_ended()
    assert late.is_closed.wait(60)
    assert late.sent == []

    assert cluster.write([(INSERT, ("newer", 3))]) == {}
    assert prompt.sent == [("new", 2), ("newer", 3)]
    assert not prompt.is_closed.is_set()
    cluster.close()
    assert prompt.is_closed.wait(60)


def test_nor_where_it_was_given_up_while_it_prepared(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, session = threading.Event(), Session()
    prepare = session.prepare

    def silent(text: str) -> Any:
        assert answers.wait(60)
        return prepare(text)

    monkeypatch.setattr(session, "prepare", silent)
    monkeypatch.setattr(cluster, "_connected", lambda: session)
    with running(RunContext(Deadline.after(0))), pytest.raises(TargetError):
        cluster.write([(INSERT, ("old", 1))])
    answers.set()
    all_calls_ended()
    assert session.is_closed.wait(60)
    assert session.sent == []
