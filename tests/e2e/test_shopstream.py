"""ShopStream holds: everybody buys at once, everything fails once, and then it is counted."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
from e2e.page_watcher import PageWatcher, installed
from matrix.servers.downloads import UnobtainableError

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "shopstream"


@pytest.fixture
def shopstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports one of the example's files: it is no package, so that it can be copied and read by itself."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    before = {*sys.modules}

    def part(name: str) -> ModuleType:
        return __import__(name)

    yield part
    for name in {*sys.modules} - before:
        if str(EXAMPLE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONPATH": str(REPOSITORY / "tests")}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLE / "run.py"), *arguments]


def test_it_holds_without_cassandra() -> None:
    done = subprocess.run(
        command("--without-cassandra", "--outage-s", "1"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    for what, least in (
        ("of 500 who want the last unit, one gets it", 2),
        ("one message to fulfilment for each order", 100),
        ("one edge in the graph for each order", 100),
        ("users: each order once in the history", 50),
        ("sessions in the cache, with cart and position", 50),
        ("deliveries to purchases: each record 2 times", 200),
    ):
        found = re.search(rf"{what} +│ (\d+) +│ (\d+) +│ ✓", done.stdout)
        assert found, done.stdout
        assert int(found[1]) >= least


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_of_it_holds_and_a_browser_shows_it() -> None:
    try:
        installed()
    except UnobtainableError as error:
        pytest.skip(f"no browser: {error}")
    with subprocess.Popen(
        command(),
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as shop:
        assert shop.stdout
        said = ""
        while not (address := re.search(r"http://127\.0\.0\.1:\d+/", said)):
            line = shop.stdout.readline()
            assert line, said
            said += line
        with PageWatcher(address[0]) as watcher:
            said += shop.stdout.read()
            assert shop.wait() == 0, said
            seen = watcher.seen()
    assert "✗" not in said
    assert seen["errors"] == []
    stopped = {
        name
        for state in seen["states"]
        if state.endswith(": down")
        for name in state.removesuffix(": down").split(", ")
    }
    assert stopped == {"MongoDB", "DynamoDB", "SQS", "Redis", "the graph", "Cassandra"}
    assert "all databases are up" in seen["states"]
    assert {name: lag["target"] for name, lag in seen["lags"].items()} == {
        "history": "MongoDB",
        "fulfilment": "SQS",
        "purchases": "the graph",
        "profiles": "the graph",
        "sessions": "Redis",
        "events": "Cassandra",
    }
    assert seen["lags"]["purchases"]["most_s"] > seen["lags"]["purchases"]["last_s"] == 0
    assert seen["orders"] > 100
    assert seen["events"] > 1000
    assert seen["points"] > 10
    assert "“sold out”" in seen["answers"]
    assert any("prod_" in also for also in seen["recommendations"].values())


def test_a_page_is_told_what_happens_until_it_closes(shopstream: Any) -> None:
    figures = {"orders": 0}
    with shopstream("page").Page() as page:
        page.show(lambda: figures)
        address = urlsplit(page.url)
        assert address.hostname
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        connection.request("GET", "/nothing")
        answer = connection.getresponse()
        assert answer.status == 404
        connection.close()
        connection.request("GET", "/")
        assert 'new EventSource("figures")' in connection.getresponse().read().decode()
        connection.close()
        connection.request("GET", "/figures")
        told = connection.getresponse()
        assert told.headers["Content-Type"] == "text/event-stream"
        assert json.loads(told.readline().removeprefix(b"data: ")) == {"orders": 0}
        figures["orders"] = 7
        while b'"orders": 7' not in told.readline():
            pass
    assert told.read().count(b"data: ") < 10
    connection.close()
    assert not [each for each in threading.enumerate() if each.name == "page"]


class Cancelled:
    """DynamoDB's answer to a transaction, and then none."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]
        self.tokens: list[str] = []

    def transact_write_items(self, **request: Any) -> None:
        self.tokens.append(request["ClientRequestToken"])
        if (answer := self.answers.pop(0)) is not None:
            raise answer


def cancelled(*codes: str) -> Exception:
    from botocore.exceptions import ClientError

    reasons = [{"Code": code} for code in codes]
    error = {"Error": {"Code": "TransactionCanceledException", "Message": ""}, "CancellationReasons": reasons}
    return ClientError(error, "TransactWriteItems")  # type: ignore[arg-type]


NO = "ConditionalCheckFailed"


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([None], "PLACED"),
        ([cancelled(NO, "None", "None")], "OUT_OF_STOCK"),
        ([cancelled("None", NO, "None")], "DUPLICATE"),
        ([cancelled("None", "None", NO)], "DUPLICATE"),
        ([cancelled(NO, NO, NO)], "DUPLICATE"),
        ([cancelled("TransactionConflict", "None", "None"), None], "PLACED"),
        ([cancelled("None", "ThrottlingError", "None"), cancelled(NO, "None", "None")], "OUT_OF_STOCK"),
    ],
)
def test_what_a_buyer_is_told(shopstream: Any, monkeypatch: pytest.MonkeyPatch, answers: Any, told: str) -> None:
    orders = shopstream("orders")
    monkeypatch.setattr(orders.time, "sleep", lambda seconds: None)
    dynamodb = Cancelled(*answers)
    assert orders.Orders(dynamodb).buy("o1", "u1", "p1", 100) is orders.Answer[told]
    assert len({*dynamodb.tokens}) == 1


def test_who_is_always_in_the_way_of_others_is_told_so(shopstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = shopstream("orders")
    monkeypatch.setattr(orders.time, "sleep", lambda seconds: None)
    dynamodb = Cancelled(*[cancelled("TransactionConflict", "None", "None")] * orders.ATTEMPTS)
    with pytest.raises(orders.BusyError):
        orders.Orders(dynamodb).buy("o1", "u1", "p1", 100)


def test_the_seeds_record(shopstream: Any) -> None:
    """What the fan-out makes of an order, and of what is none."""
    import bson

    from docdb_stream.events import ChangeEvent
    from docdb_stream.handlers._dynamodb_record import change_event

    rules = shopstream("rules")

    def event(key: str) -> ChangeEvent:
        item = {"userId": {"S": "usr_8821"}, "SK": {"S": key}, "productId": {"S": "p"}, "amountCents": {"N": "9999"}}
        record = {
            "eventID": "1",
            "eventName": "INSERT",
            "eventSourceARN": "arn:aws:dynamodb:eu-central-1:123456789012:table/Orders/stream/x",
            "dynamodb": {
                "ApproximateCreationDateTime": 1.0,
                "SequenceNumber": "100",
                "Keys": {name: item[name] for name in ("userId", "SK")},
                "NewImage": item,
            },
        }
        return ChangeEvent(change_event(record))

    told = rules.order(event("ORDER#abc-123"))
    known = {"orderId": "abc-123", "userId": "usr_8821", "productId": "p", "amount": 9999}
    assert told.full_document == {"_id": {"SK": "ORDER#abc-123", "userId": "usr_8821"}, **known}
    added = rules.history(event("ORDER#abc-123"))
    assert bson.decode(added.raw)["update"] == {"$addToSet": {"orderHistory": "abc-123"}}
    assert added.document["documentKey"] == {"_id": "usr_8821"}
    assert rules.order(event("PROFILE")) is None
    assert rules.history(event("PROFILE")) is None
