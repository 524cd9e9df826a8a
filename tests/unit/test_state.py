"""How the state is opened, and how its events are told from users'. With servers: tests/faults/test_state_kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import bson
import pytest
from pymongo import ReadPreference
from pymongo.errors import OperationFailure

from docdb_stream.events import ChangeEvent, Events
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.state import MARK, StateCollection, StateEvents
from docdb_stream.settings import Settings
from docdb_stream.testing.events import ChangeLog

SETTINGS = Settings(documentdb_uri="mongodb://127.0.0.1:1/?replicaSet=rs0")


class Server:
    """Notes how collections are opened, and has some read concerns."""

    def __init__(self, *levels: str | None, code: int = 303) -> None:
        self.levels, self.code = levels, code
        self.opened: list[dict[str, Any]] = []

    def __getitem__(self, name: str) -> Any:
        return SimpleNamespace(get_collection=self.get_collection)

    def get_collection(self, name: str, **options: Any) -> Any:
        self.opened.append(options)
        level = options["read_concern"].level

        def find(*args: Any, **options: Any) -> Any:
            if level not in self.levels:
                raise OperationFailure("Feature not supported: readConcern", self.code)
            return iter([{"_id": 1, MARK: "docdb_stream.letters", "level": level}])

        return SimpleNamespace(find=find, find_one=lambda query, projection: next(find()))


def collection(server: Server) -> StateCollection:
    return StateCollection(Connection(SETTINGS, client=server), "docdb_stream", "letters")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("levels", "latest", "others"),
    [
        (("linearizable", "majority", None), "linearizable", "majority"),
        (("majority", None), "majority", "majority"),
        ((None,), None, None),
    ],
)
def test_state_is_read_as_strictly_as_the_server_can(levels: Any, latest: Any, others: Any) -> None:
    server = Server(*levels)
    assert collection(server).find_one({"_id": 1}, latest=True) == {"_id": 1, "level": latest}
    assert collection(server).find_one({"_id": 1}) == {"_id": 1, "level": others}
    assert list(collection(server).find({})) == [{"_id": 1, "level": others}]
    for options in server.opened:
        assert options["read_preference"] == ReadPreference.PRIMARY
        assert options["write_concern"].document == {"w": "majority"}


def test_trouble_is_not_taken_for_a_missing_read_concern() -> None:
    for code in (134, 10107, 13):
        server = Server(code=code)
        with pytest.raises(OperationFailure):
            collection(server).find_one({"_id": 1}, latest=True)
        with pytest.raises(OperationFailure):
            list(collection(server).find({}))
        assert len(server.opened) == 2


# Events


class World:
    """A stream over everything; other deployments keep their state in ``sync.state``, users have collections."""

    def __init__(self) -> None:
        self.events = StateEvents(SETTINGS)
        self.other = ChangeLog("sync", "state")
        self.user = ChangeLog("shop", "orders")

    def has(self, event: ChangeEvent) -> bool:
        assert event.raw is not None
        [together] = Events.of([event.raw])  # as they come from the server
        may_have = self.events.may_have([event.raw])
        found = self.events.has(together)
        assert may_have or not found
        return found


CHECKPOINT = {"_id": "shop.orders", "version": 1, "epoch": 1, MARK: "sync.state"}


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints_ledger", "checkpoints_dead_letters"])
def test_ones_own_state_is_known_from_the_start(world: World, name: str) -> None:
    own = ChangeLog("docdb_stream", name)
    assert all(world.has(event) for event in (own.insert({"_id": 1}), own.delete(1), own.drop()))


def test_the_state_of_others_is_known_by_the_mark_of_its_documents(world: World) -> None:
    other = world.other
    for event in (other.insert(CHECKPOINT), other.update(CHECKPOINT, {"epoch": 1}), other.replace(CHECKPOINT)):
        assert world.has(event)
        assert not world.has(world.user.insert({"_id": 1}))


def test_what_shows_no_document_goes_by_its_collection(world: World) -> None:
    other = world.other
    without = [other.delete("shop.orders"), other.update(CHECKPOINT, {"epoch": 2}, gone=True), other.unknown()]
    assert [world.has(event) for event in without] == [False] * 3
    assert world.has(other.insert(CHECKPOINT))
    assert [world.has(event) for event in without] == [True] * 3
    assert not world.has(world.user.delete("shop.orders"))
    assert not world.has(ChangeLog("shop", "state").delete("shop.orders"))


@pytest.mark.parametrize(
    "document",
    [
        {"_id": 1, MARK: "shop.state"},
        {"_id": 1, MARK: None},
        {"_id": 1, MARK: {"sync": "state"}},
        {"_id": 1, "backup": CHECKPOINT},
        {"_id": 1, "text": f"\x02{MARK}\x00sync.state"},
        {key: value for key, value in CHECKPOINT.items() if key != MARK},
    ],
    ids=["copied from elsewhere", "null", "a document", "nested", "text", "no mark"],
)
def test_a_users_document_is_never_left_out(world: World, document: dict[str, Any]) -> None:
    other = world.other
    for event in (other.insert(document), other.update(document), other.replace(document), other.delete(1)):
        assert not world.has(event)


def test_a_copy_of_the_state_in_a_users_collection_is_the_users(world: World) -> None:
    assert world.has(world.other.insert(CHECKPOINT))
    backup = ChangeLog("shop", "backup")
    assert not any(world.has(event) for event in (backup.insert(CHECKPOINT), backup.delete("shop.orders")))


def test_a_collection_with_users_documents_beside_is_left_out_by_document_only(world: World) -> None:
    other = world.other
    assert world.has(other.insert(CHECKPOINT))
    assert not world.has(other.insert({"_id": 1}))
    for _ in range(2):
        assert not world.has(other.delete(1))
        assert world.has(other.update(CHECKPOINT, {"epoch": 2}))


@pytest.mark.parametrize("end", [lambda log: log.drop(), lambda log: log.rename("old")])
def test_a_name_may_be_a_users_once_the_state_has_gone(world: World, end: Any) -> None:
    other = world.other
    assert world.has(other.insert(CHECKPOINT))
    assert world.has(end(other))
    assert not any(world.has(event) for event in (other.delete(1), other.insert({"_id": 1}), end(other)))


def test_an_event_that_cannot_be_decoded_is_a_users(world: World) -> None:
    event = ChangeLog("sync", "state").hostile()["invalid_utf8"]
    assert not world.events.has(event)


def test_an_event_without_bytes_is_a_users(world: World) -> None:
    event = world.other.insert({"_id": 1})
    assert event.raw is not None
    assert not world.events.has(ChangeEvent(document=bson.decode(event.raw)))
