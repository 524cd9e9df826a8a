"""``doctor`` says ok exactly where a run would work, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import pytest
from bson import Timestamp
from pymongo import MongoClient

from docdb_stream.admin.doctor import checks
from docdb_stream.errors import (
    Caution,
    ConfigError,
    DocdbStreamError,
    HistoryLostError,
    SourceUnavailableError,
    StateStoreError,
)
from docdb_stream.local import ReplicaSet
from docdb_stream.mongodb.diagnosis import HELLO
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
MONGODB_4_2 = 8  # its wire version: of later ones no PyMongo is known that refuses them


def troubles(settings: Settings) -> dict[str, DocdbStreamError]:
    return {what: error for what, error in checks(settings) if error is not None}


@pytest.fixture
def stream(replica_set: ReplicaSet, mongo: Mongo, db_name: str) -> Callable[..., Settings]:
    """Settings of a stream over ``orders``, which is there, with its state beside it."""
    mongo[db_name].orders.insert_one({"_id": 1})

    def make(**values: Any) -> Settings:
        given = {
            "documentdb_uri": replica_set.uri,
            "watched_db_name": db_name,
            "watched_collection_name": "orders",
            "state_db": f"{db_name}_state",
            "stdout": True,
        }
        return Settings(**{**given, **values})

    return make


def test_all_is_well_and_nothing_stays(stream: Callable[..., Settings], mongo: Mongo) -> None:
    settings = stream()
    for _ in range(2):
        assert troubles(settings) == {}
        assert settings.state_db not in mongo.list_database_names()
    with Poller.from_settings(settings) as poller:
        poller.run()
    state = mongo[settings.state_db]
    before = {name: list(state[name].find()) for name in state.list_collection_names()}
    assert before
    assert troubles(settings) == {}
    assert {name: list(state[name].find()) for name in state.list_collection_names()} == before


def test_what_is_delivered_is_looked_at_where_the_settings_say_something(stream: Callable[..., Settings]) -> None:
    assert not [what for what, _ in checks(stream()) if what.startswith("what is delivered")]
    assert ("what is delivered: transform", None) in [*checks(stream(transform="copy:copy"))]
    [error] = troubles(stream(transform="not_there:change")).values()
    assert "there is no module not_there" in str(error)


def test_a_connection_string_that_reads_from_secondaries_is_no_hindrance(stream: Callable[..., Settings]) -> None:
    uri = stream().documentdb_uri
    assert troubles(stream(documentdb_uri=f"{uri}&readPreference=secondaryPreferred")) == {}


# The state database


@pytest.fixture(scope="module")
def guarded() -> Iterator[ReplicaSet]:
    """A replica set that asks for a password."""
    with ReplicaSet(username="admin", password="admin") as started:
        yield started


@pytest.mark.parametrize(
    ("rights", "fine"),
    [
        ([("readWrite", "s")], True),
        ([("read", "s")], False),
        ([], False),
        ([("find", "insert", "update", "s", "checkpoints"), ("read", "s")], False),
    ],
    ids=["may write", "may read", "may nothing", "may not delete"],
)
@pytest.mark.parametrize("made_before", [True, False])
def test_the_right_to_keep_state_is_tried(
    guarded: ReplicaSet, db_name: str, rights: list[tuple[str, ...]], fine: bool, made_before: bool
) -> None:
    state_db = f"{db_name}_state"
    with guarded.client() as admin:
        admin[db_name].orders.insert_one({"_id": 1})
        if made_before:
            admin[state_db].checkpoints.insert_one({"_id": "other"})
        roles: list[dict[str, str]] = [{"role": "read", "db": db_name}]
        for *actions, database in [right for right in rights if len(right) == 2]:
            roles.append({"role": actions[0], "db": database.replace("s", state_db)})
        for *actions, _, collection in [right for right in rights if len(right) > 2]:
            privilege = {"resource": {"db": state_db, "collection": collection}, "actions": actions}
            admin.admin.command("createRole", f"part_{db_name}", privileges=[privilege], roles=[])
            roles.append({"role": f"part_{db_name}", "db": "admin"})
        admin.admin.command("createUser", db_name, pwd="password", roles=roles)
        before = sorted(admin.list_database_names())
        found = troubles(
            Settings(
                documentdb_uri=guarded.uri.replace("admin:admin", f"{db_name}:password"),
                watched_db_name=db_name,
                watched_collection_name="orders",
                state_db=state_db,
                stdout=True,
            )
        )
        assert sorted(admin.list_database_names()) == before
        left = [name for name in admin[state_db].list_collection_names() if name != "checkpoints"]
        assert left == []
        assert admin[state_db].checkpoints.count_documents({}) == int(made_before)
    if fine:
        assert found == {}
    else:
        assert isinstance(found["state database"], StateStoreError)
        assert found["state database"].exit_code == 3
        assert "readWrite on STATE_DB" in found["state database"].hint


# The position


def test_a_position_that_is_no_longer_in_the_log(stream: Callable[..., Settings], mongo: Mongo) -> None:
    settings = stream(start_at="earliest")
    with Poller.from_settings(settings) as poller:
        poller.run()
    state = mongo[settings.state_db].checkpoints
    before = state.find_one({"_id": settings.stream_name})
    lost = {"token": {"_data": "01" + "5e" * 20}, "operation_time": Timestamp(1, 1)}
    state.update_one({"_id": settings.stream_name}, {"$set": {"position": lost}})
    found = troubles(settings)
    assert list(found) == ["saved position"]
    assert isinstance(found["saved position"], HistoryLostError)
    assert found["saved position"].exit_code == 5
    assert "docdb-stream reset" in found["saved position"].hint
    after = state.find_one({"_id": settings.stream_name})
    assert before is not None
    assert after == {**before, "position": lost}, "doctor looks, and decides nothing"
    assert not list(mongo[settings.state_db][settings.ledger_collection].find())


# What is watched


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"watched_collection_name": "ordres"}, "did you mean orders?"),
        ({"watched_collection_name": "Orders"}, "did you mean orders?"),
        ({"watched_collection_name": "orders,users"}, "WATCHED_COLLECTION_NAME is one name"),
        ({"watched_collection_name": "*"}, "leave it out for the whole database"),
        ({"watched_collection_name": "zebras"}, "if it is to be made later, all is well"),
        ({"watched_db_name": "no_such_db"}, "WATCHED_DB_NAME"),
        ({"watched_db_name": "no_such_db", "watched_collection_name": None}, "WATCHED_DB_NAME"),
    ],
)
def test_what_is_not_there_is_told_and_is_no_failure(
    stream: Callable[..., Settings], values: dict[str, str], said: str
) -> None:
    found = troubles(stream(**values))
    [(what, caution)] = found.items()
    assert (what, type(caution), caution.exit_code) == ("what is watched", Caution, 0)
    assert "there is no " in str(caution)
    assert said in caution.hint
    assert "There are: " in caution.hint
    if values.get("watched_collection_name"):
        assert "orders" in caution.hint or "watched_db_name" in values


@pytest.mark.parametrize("values", [{}, {"watched_collection_name": None}, {"watched_db_name": None}])
def test_what_is_there_is_no_reason_for_caution(stream: Callable[..., Settings], values: dict[str, None]) -> None:
    both = {"watched_collection_name": None} if "watched_db_name" in values else {}
    assert troubles(stream(**values, **both)) == {}


def test_the_command_says_it_and_ends_with_0(stream: Callable[..., Settings], cli: Any) -> None:
    settings = stream(watched_collection_name="ordres")
    environment = settings.model_dump(exclude_defaults=True, exclude={"stream_name"})
    done = cli.run("doctor", **{name.upper(): str(value) for name, value in environment.items()})
    assert done.returncode == 0, done.stderr
    assert "CAUTION: there is no collection" in done.stdout
    assert "did you mean orders?" in done.stdout
    assert "FAILED" not in done.stdout


# PyMongo


def test_a_pymongo_that_is_too_new_for_the_server(
    stream: Callable[..., Settings], mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = mongo.admin.command(HELLO)["maxWireVersion"]
    monkeypatch.setattr("pymongo.common.MIN_SUPPORTED_WIRE_VERSION", 99)
    found = troubles(stream())
    [(what, error)] = found.items()
    assert what == f"cluster, by PyMongo {pymongo.version}"
    assert isinstance(error, SourceUnavailableError)
    assert "wire version" in str(error)
    assert ("docs/compatibility.md" if reported > MONGODB_4_2 else "pymongo<") in error.hint


@pytest.mark.parametrize(("operations", "told"), [([], None), (["insert", "update", "replace"], "leaves out delete")])
def test_a_mirror_that_is_not_told_everything(
    replica_set: ReplicaSet, db_name: str, operations: list[str], told: str | None
) -> None:
    settings = Settings(
        documentdb_uri=replica_set.uri,
        watched_db_name=db_name,
        state_db=f"{db_name}_state",
        operations=operations,
        mongodb_target_uri=replica_set.uri,
        mongodb_target_namespace="mirror_{db}.{coll}",
    )
    errors = [found.error for found in checks(settings) if found.what == "what mongodb holds"]
    assert [isinstance(error, Caution) and str(told) in str(error) for error in errors] == [True] * (told is not None)


def test_documents_of_a_snapshot_are_tried(stream: Callable[..., Settings], mongo: Mongo, db_name: str) -> None:
    names = [what for what, _ in checks(stream(start_at="snapshot"))]
    assert "documents of a snapshot" in names
    assert troubles(stream(on_history_lost="snapshot", watched_collection_name=None)) == {}
    mongo[db_name].create_collection("view", viewOn="orders", pipeline=[])
    found = troubles(stream(start_at="snapshot", watched_collection_name="view"))
    assert isinstance(found["documents of a snapshot"], ConfigError)
    assert found["documents of a snapshot"].exit_code == 2
