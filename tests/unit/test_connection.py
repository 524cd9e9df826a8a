from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import dns.resolver
import pytest
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidOperation,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from docdb_stream import context
from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import ConfigError, SourceUnavailableError
from docdb_stream.mongodb import connection as connection_module
from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.connection import Connection, Connections
from docdb_stream.mongodb.diagnosis import unavailable
from docdb_stream.settings import Settings


def settings(uri: str, **values: Any) -> Settings:
    return Settings(documentdb_uri=uri, **values)


# The connection string


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (
            "docdb.cluster-abc.eu-central-1.docdb.amazonaws.com",
            "mongodb://docdb.cluster-abc.eu-central-1.docdb.amazonaws.com:27017/"
            "?tls=true&replicaSet=rs0&retryWrites=false",
        ),
        ("docdb.example:27018", "mongodb://docdb.example:27018/?tls=true&replicaSet=rs0&retryWrites=false"),
        ("mongodb://a:1,b:2/?replicaSet=x", "mongodb://a:1,b:2/?replicaSet=x"),
        ("mongodb+srv://a.example/", "mongodb+srv://a.example/"),
    ],
)
def test_a_host_name_alone_is_a_documentdb_cluster(given: str, used: str) -> None:
    assert Cluster.of(settings(given)).connection_string == used


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://",
        "http://127.0.0.1:27017/",
        "mongodb://127.0.0.1:port/",
        "mongodb://127.0.0.1:99999/",
        "mongodb://user:hunter2@/",
        "mongodb://us@er:hunter2@127.0.0.1/",
        "mongodb://127.0.0.1/?replicaSet",
        "mongodb://127.0.0.1/?connectTimeoutMS=soon",
        "host:port",
    ],
)
def test_a_wrong_connection_string_is_a_problem_of_the_settings(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"documentdb_uri|connection settings") as caught:
        Connection(settings(uri))
    assert caught.value.hint
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (dns.resolver.NXDOMAIN(), SourceUnavailableError),
        (dns.resolver.LifetimeTimeout(timeout=1, errors=[]), SourceUnavailableError),
        (dns.resolver.NoAnswer(response=SimpleNamespace(question=["q"])), SourceUnavailableError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_name_that_cannot_be_looked_up_is_no_problem_of_the_settings(
    error: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: Any, **__: Any) -> NoReturn:
        raise error

    for name in ("resolve", "query"):
        monkeypatch.setattr(dns.resolver, name, resolve)
    with pytest.raises(expected, match="documentdb_uri cannot be looked up") as caught:
        Connection(settings("mongodb+srv://us:hunter2@cluster.example.test/"))
    assert "hunter2" not in str(caught.value) + str(caught.value.hint)


@pytest.mark.parametrize("uri", ["mongodb+srv://a.example.test:27017/", "mongodb+srv://a.b.c,d.e.f/", "mongodb+srv://"])
def test_a_wrong_name_to_look_up_is_one(uri: str) -> None:
    with pytest.raises(ConfigError):
        Connection(settings(uri))


def test_constructing_does_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("network traffic in a constructor")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    client_options: list[dict[str, Any]] = []

    def client(uri: str, **options: Any) -> Any:
        client_options.append(options)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(connection_module, "MongoClient", client)
    with Connection(settings("mongodb://127.0.0.1:1/?connectTimeoutMS=123")) as connection:
        assert connection.uri == "mongodb://127.0.0.1:1/?connectTimeoutMS=123"
    [options] = client_options
    assert options["retryWrites"] is False
    assert options["serverSelectionTimeoutMS"] == connection_module.SERVER_SELECTION_TIMEOUT_MS
    assert "connectTimeoutMS" not in options, "what the operator wrote wins"


# Secret and CA


def test_a_missing_ca_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"there is no file {tmp_path}/none.pem") as caught:
        Connection(settings("mongodb://127.0.0.1:1", documentdb_tls_ca=f"{tmp_path}/none.pem"))
    assert "global-bundle.pem" in caught.value.hint


def test_a_ca_file_that_holds_no_certificate(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Connection(settings("mongodb://127.0.0.1:1", documentdb_tls_ca=str(path)))
    assert caught.value.hint


def test_the_secret_is_used_instead_of_what_the_uri_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", '{"username": "reader", "password": "p@ss w/ord"}')
    given: dict[str, Any] = {}
    monkeypatch.setattr(connection_module, "MongoClient", lambda uri, **options: given.update(options))
    Connection(settings("mongodb://127.0.0.1:1", documentdb_secret="env:MY_SECRET"))
    assert (given["username"], given["password"]) == ("reader", "p@ss w/ord")


def test_an_unreadable_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_SECRET", raising=False)
    with pytest.raises(ConfigError, match="MY_SECRET"):
        Connection(settings("mongodb://127.0.0.1:1", documentdb_secret="env:MY_SECRET"))


# Patience


class Clients:
    """Stands for MongoClient; counts how many were made and with which password."""

    def __init__(self) -> None:
        self.passwords: list[str | None] = []
        self.closed = 0

    def __call__(self, uri: str, **options: Any) -> Any:
        self.passwords.append(options.get("password"))
        return SimpleNamespace(number=len(self.passwords), close=self._close)

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    clients = Clients()
    monkeypatch.setattr(connection_module, "MongoClient", clients)
    return clients


REFUSED = OperationFailure("Authentication failed.", 18)


def write_secret(path: Path, password: str) -> None:
    path.write_text(f'{{"username": "reader", "password": "{password}"}}', encoding="utf-8")


def test_a_rotated_secret_is_read_again(clients: Clients, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    write_secret(secret, "old")
    connection = Connection(settings("mongodb://127.0.0.1:1", documentdb_secret=f"file:{secret}"))
    write_secret(secret, "new")
    retried: list[int] = []

    def attempt() -> int:
        if connection.client.number == 1:
            raise REFUSED
        return connection.client.number

    found = connection.patiently(attempt, passes=lambda error: False, before_retry=lambda: retried.append(1))
    assert found == 2
    assert clients.passwords == ["old", "new"]
    assert clients.closed == 1
    assert retried == [1]


def test_a_wrong_password_is_an_error_after_one_more_look(clients: Clients, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    write_secret(secret, "wrong")
    connection = Connection(settings("mongodb://127.0.0.1:1", documentdb_secret=f"file:{secret}"))
    calls: list[int] = []

    def attempt() -> NoReturn:
        calls.append(1)
        raise REFUSED

    with pytest.raises(OperationFailure):
        connection.patiently(attempt, passes=lambda error: False)
    assert len(calls) == 2


def test_the_refused_client_stays_open_for_the_streams_that_read_through_it(clients: Clients, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    write_secret(secret, "0")
    connection = Connection(settings("mongodb://127.0.0.1:1", documentdb_secret=f"file:{secret}"))
    closed: list[int] = []
    for rotation in range(1, 4):
        refused = connection.client
        assert connection.patiently(lambda: 1, passes=lambda error: False) == 1  # it has worked
        refused.close = lambda refused=refused: closed.append(refused.number)
        write_secret(secret, str(rotation))

        def attempt(refused: Any = refused) -> int:
            if connection.client is refused:
                raise REFUSED
            return 1

        connection.patiently(attempt, passes=lambda error: False)
        assert closed == list(range(1, rotation)), "all but the last that worked"
    connection.close()
    assert closed == [1, 2, 3]


def test_a_stream_on_an_older_client_goes_over_to_the_present_one(clients: Clients, tmp_path: Path) -> None:
    """Another stream was refused first: this one is no reason to sign in once more."""
    secret = tmp_path / "secret.json"
    write_secret(secret, "old")
    connection = Connection(settings("mongodb://127.0.0.1:1", documentdb_secret=f"file:{secret}"))
    mine = [connection.client]
    connection._sign_in_again(connection.client)
    for error in (REFUSED, InvalidOperation("Cannot use MongoClient after close")):
        mine[:] = [clients("mongodb://127.0.0.1:1")]
        made = len(clients.passwords)

        def attempt(error: PyMongoError = error) -> int:
            if mine[0] is not connection.client:
                raise error
            return int(mine[0].number)

        found = connection.patiently(
            attempt,
            passes=lambda error: False,
            before_retry=lambda: mine.__setitem__(0, connection.client),
            through=lambda: mine[0],
        )
        assert found == connection.client.number
        assert len(clients.passwords) == made


def test_a_rotation_that_takes_a_while_is_waited_for(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster may have the new password before the secret does."""
    secret = tmp_path / "secret.json"
    write_secret(secret, "old")
    connection = Connection(settings("mongodb://127.0.0.1:1", documentdb_secret=f"file:{secret}"))
    connection.patiently(lambda: 1, passes=lambda error: False)
    waits: list[float] = []

    def pause(self: Deadline, delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 3:
            write_secret(secret, "new")

    monkeypatch.setattr(Deadline, "pause", pause)

    def attempt() -> str:
        if clients.passwords[-1] != "new":
            raise REFUSED
        return "in"

    assert connection.patiently(attempt, passes=lambda error: False) == "in"
    assert len(waits) == 3


def test_without_a_secret_a_wrong_password_is_an_error_at_once(clients: Clients) -> None:
    connection = Connection(settings("mongodb://u:p@127.0.0.1:1"))
    calls: list[int] = []

    def attempt() -> NoReturn:
        calls.append(1)
        raise REFUSED

    with pytest.raises(OperationFailure):
        connection.patiently(attempt, passes=lambda error: False)
    assert len(calls) == 1


def test_trouble_that_passes_is_waited_out_until_the_deadline(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.Deadline, "pause", lambda self, delay_s: None)
    connection = Connection(settings("mongodb://127.0.0.1:1"))
    errors = [AutoReconnect("gone"), AutoReconnect("gone")]

    def attempt() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert connection.patiently(attempt, passes=lambda error: True) == "done"
    errors[:] = [AutoReconnect("gone")] * 100
    with deadline(Deadline(patience_s=0.0)), pytest.raises(AutoReconnect):
        connection.patiently(attempt, passes=lambda error: True)
    assert len(errors) == 99


@pytest.mark.parametrize("stops", [False, True])
def test_an_answer_that_does_not_come_is_given_up_with_the_run(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    monkeypatch.setattr(context, "STOP_PATIENCE_S", 0.1)
    connection = Connection(settings("mongodb://127.0.0.1:1"))
    connection.patiently(lambda: 1, passes=lambda error: False)
    never = threading.Event()
    limit = Deadline.after(None if stops else 0.1)
    if stops:
        threading.Timer(0.1, limit.stop.set).start()
    began_s = time.monotonic()
    told = "no answer before the stop" if stops else "no answer within the time"
    with deadline(limit), pytest.raises(NetworkTimeout, match=told):
        connection.patiently(lambda: never.wait(60), passes=lambda error: True)
    never.set()
    assert time.monotonic() - began_s < 30


def test_a_server_that_never_answered_is_no_connection_that_broke(clients: Clients) -> None:
    connection = Connection(settings("mongodb://127.0.0.1:1"))
    never = threading.Event()
    with deadline(Deadline.after(0.1)), pytest.raises(ServerSelectionTimeoutError):
        connection.patiently(lambda: never.wait(60), passes=lambda error: True)
    never.set()


def test_a_secret_that_is_not_read_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(connection_module, "read_credentials", lambda reference: never.wait(60))
    with deadline(Deadline.after(0.1)), pytest.raises(SourceUnavailableError) as caught:
        Connection(settings("mongodb://127.0.0.1:1", documentdb_secret="env:MY_SECRET"))
    never.set()
    assert "network" in caught.value.hint


# Options of the connection string


@pytest.mark.parametrize(
    ("given", "name", "used"),
    [
        ("maxPoolSize=1", "maxPoolSize", 0),
        ("timeoutMS=3000", "timeoutMS", None),
        ("retryWrites=true", "retryWrites", False),
        ("socketTimeoutMS=700", "socketTimeoutMS", connection_module.MIN_SOCKET_TIMEOUT_MS),
    ],
)
def test_options_with_which_no_stream_could_work(
    monkeypatch: pytest.MonkeyPatch, given: str, name: str, used: object
) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(connection_module, "MongoClient", lambda uri, **made: options.update(made))
    Connection(settings(f"mongodb://127.0.0.1:1/?{given}"))
    assert options[name] == used


@pytest.mark.parametrize("given", ["socketTimeoutMS=20000", "socketTimeoutMS=0", "serverSelectionTimeoutMS=7"])
def test_other_options_are_the_operators_choice(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(connection_module, "MongoClient", lambda uri, **made: options.update(made))
    Connection(settings(f"mongodb://127.0.0.1:1/?{given}"))
    assert given.partition("=")[0] not in options


# In the operator's words

URI = "mongodb://127.0.0.1:1,db.example:27018/"


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (REFUSED, "refuses the user name or password", "DOCUMENTDB_SECRET"),
        (OperationFailure("not authorized on shop", 13), "not authorized", "readWrite on STATE_DB"),
        (OperationFailure("odd", 4711), r"odd \(code 4711\)", ""),
        (AutoReconnect("connection closed"), "broke: connection closed", "checkpoint"),
        (
            ServerSelectionTimeoutError("refused, Timeout: 10s, Topology Description: <lots>"),
            "no usable server .*: refused$",
            "security group",
        ),
    ],
)
def test_trouble_is_told_in_one_line_with_a_hint(error: PyMongoError, words: str, hint: str) -> None:
    found = unavailable(error, URI)
    assert str(found).startswith(("127.0.0.1:1, db.example:27018", "the connection to", "no usable server"))
    with pytest.raises(type(found), match=words):
        raise found
    assert hint in found.hint
    assert "\n" not in str(found)
    assert found.exit_code == 3


@pytest.mark.parametrize(
    ("reported", "hint"),
    [
        ("reports wire version 6, but this version of PyMongo requires at least 9", "pymongo<4.11"),
        ("reports wire version 7, but this version of PyMongo requires at least 8", "pymongo<4.14"),
        ("reports wire version 8, but this version of PyMongo requires at least 9", "pymongo<4.18"),
        ("reports wire version 9, but this version of PyMongo requires at least 13", "docs/compatibility.md"),
        ("requires wire version 40, but this version of PyMongo only supports up to 29", "--upgrade pymongo"),
    ],
)
def test_a_pymongo_that_does_not_go_with_the_server_is_told_with_the_one_that_does(reported: str, hint: str) -> None:
    found = unavailable(ConfigurationError(f"Server at db.example:27018 {reported}"), URI)
    assert "does not go with the server" in str(found)
    assert "wire version" in str(found)
    assert hint in found.hint


# Several streams


def test_streams_that_reach_the_cluster_in_the_same_way_share_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Client:
        closed = False

        def __init__(self, *_: Any, **__: Any) -> None:
            made.append(self)

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(connection_module, "MongoClient", Client)
    monkeypatch.setenv("MY_SECRET", '{"username": "u", "password": "p"}')
    here, elsewhere = "mongodb://127.0.0.1:1", "mongodb://127.0.0.1:2"
    with Connections() as connections:
        one = connections.to(settings(here, watched_db_name="a"))
        assert connections.to(settings(here, watched_db_name="b")) is one
        assert connections.to(settings(elsewhere)) is not one
        assert connections.to(settings(here, documentdb_secret="env:MY_SECRET")) is not one
        assert len(made) == 3
        assert not any(client.closed for client in made)
    assert all(client.closed for client in made)
