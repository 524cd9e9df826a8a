"""A password that is rotated while a stream runs: the secret is read once more, and the run goes on."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from docdb_stream import secret as secret_module
from docdb_stream.context import Deadline
from docdb_stream.errors import ConfigError, SourceUnavailableError, StateStoreError
from docdb_stream.local import AwsServer, ReplicaSet, Tls
from docdb_stream.local.process import wait_until
from docdb_stream.mongodb.connection import Connection, Connections
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.testing.targets import ListTarget

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ReplicaSet]:
    """A replica set that asks for a password; the tests change that of a user of their own."""
    with ReplicaSet(username="admin", password="admin's") as started:
        yield started


@pytest.fixture
def admin(cluster: ReplicaSet) -> Iterator[Mongo]:
    with cluster.client() as client:
        yield client


class Secret:
    """The user's password, in the cluster and in the place that the settings name."""

    def __init__(self, admin: Mongo, reference: str, store: Callable[[str], object]) -> None:
        self._admin, self.reference, self._store = admin, reference, store
        self.user = f"reader{next(_numbers)}"
        self._admin.admin.command("createUser", self.user, pwd="first", roles=["root"])
        self.store("first")

    def store(self, password: str) -> None:
        self._store(json.dumps({"username": self.user, "password": password}))

    def change(self, password: str) -> None:
        self._admin.admin.command("updateUser", self.user, pwd=password)


@pytest.fixture(params=["file", "env", "secrets manager"])
def secret(
    request: pytest.FixtureRequest, admin: Mongo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Secret]:
    if request.param == "file":
        path = tmp_path / "secret.json"
        yield Secret(admin, f"file:{path}", path.write_text)
    elif request.param == "env":
        yield Secret(admin, "env:MY_SECRET", lambda text: monkeypatch.setenv("MY_SECRET", text))
    else:
        aws: AwsServer = request.getfixturevalue("aws")
        request.getfixturevalue("aws_environment")
        client = aws.client("secretsmanager")
        name = f"docdb/{next(_numbers)}"
        client.create_secret(Name=name, SecretString="{}")
        yield Secret(admin, name, lambda text: client.put_secret_value(SecretId=name, SecretString=text))
        client.close()


def settings(cluster: ReplicaSet, db_name: str, secret: Secret) -> Settings:
    return Settings(
        documentdb_uri=f"mongodb://{cluster.members[0].address}/?replicaSet=rs0&authSource=admin"
        "&serverSelectionTimeoutMS=1000",
        documentdb_secret=secret.reference,
        watched_db_name=db_name,
        watched_collection_name="orders",
        state_db=f"{db_name}_state",
    )


def drop_connections(cluster: ReplicaSet) -> None:
    """Whoever is signed in stays so; only a new connection meets the new password."""
    [member] = cluster.members
    member.kill()
    member.restart()
    cluster.primary(20)


def test_a_run_that_follows_goes_on_with_the_new_password(
    cluster: ReplicaSet, admin: Mongo, db_name: str, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = secret_module.read_text
    monkeypatch.setattr(secret_module, "read_text", lambda reference: reads.append(reference) or read(reference))
    target, limit = ListTarget(), Deadline.after(60)
    poller = Poller.from_settings(settings(cluster, db_name, secret), [target])
    outcome: list[RunResult | Exception] = []

    def work() -> None:
        try:
            outcome.append(poller.run(limit=limit, follow=True))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    state = admin[f"{db_name}_state"].checkpoints
    wait_until(lambda: state.find_one({"position": {"$exists": True}}), "the stream has a position", timeout_s=20)
    admin[db_name].orders.insert_one({"_id": 1})
    wait_until(lambda: target.events, "the first event arrives", timeout_s=20)
    assert len(reads) == 1
    secret.change("second")
    secret.store("second")
    drop_connections(cluster)
    admin[db_name].orders.insert_one({"_id": 2})
    wait_until(lambda: len(target.events) > 1 or outcome, "the second event arrives", timeout_s=30)
    limit.stop.set()
    thread.join(20)
    poller.close()
    [result] = outcome
    assert isinstance(result, RunResult), result
    assert (result.stopped_by, result.events) == ("signal", 2)
    assert [event.document_key for event in target.events] == [{"_id": 1}, {"_id": 2}]
    assert 2 <= len(reads) <= 3, "reader and state share one connection, and each asks once at most"


@pytest.mark.parametrize("secret", ["file"], indirect=True)
def test_a_poller_that_is_kept_goes_on_with_the_new_password(
    cluster: ReplicaSet, admin: Mongo, db_name: str, secret: Secret
) -> None:
    target = ListTarget()
    poller = Poller.from_settings(settings(cluster, db_name, secret), [target])
    poller.run()
    secret.change("second")
    secret.store("second")
    drop_connections(cluster)
    admin[db_name].orders.insert_one({"_id": 1})
    assert poller.run().events == 1
    poller.close()


@pytest.mark.parametrize("secret", ["file"], indirect=True)
def test_streams_that_share_a_connection_go_on_when_one_of_them_signs_in_again(
    cluster: ReplicaSet, admin: Mongo, db_name: str, secret: Secret
) -> None:
    limit = Deadline.after(120)
    outcomes: list[RunResult | Exception] = []
    targets = {name: ListTarget() for name in ("a", "b", "c")}
    with Connections() as connections:

        def follow(name: str) -> None:
            values = settings(cluster, db_name, secret).model_copy(
                update={"watched_collection_name": name, "stream_name": name}
            )
            try:
                with Poller.from_settings(values, [targets[name]], connections.to(values)) as poller:
                    outcomes.append(poller.run(limit=limit, follow=True))
            except Exception as error:
                outcomes.append(error)

        threads = [threading.Thread(target=follow, args=(name,)) for name in targets]
        for thread in threads:
            thread.start()
        state = admin[f"{db_name}_state"].checkpoints
        wait_until(lambda: state.count_documents({"position": {"$exists": True}}) == 3, "all are open", timeout_s=30)
        secret.change("second")
        secret.store("second")
        connection = connections.to(settings(cluster, db_name, secret))
        signed_in = connection.client

        def need_another_socket() -> None:
            if connection.client is signed_in:
                raise OperationFailure("Authentication failed.", 18)

        connection.patiently(need_another_socket, passes=lambda error: False)
        for name, target in targets.items():
            admin[db_name][name].insert_one({"_id": 1})
            wait_until(lambda target=target: target.events or outcomes, f"the event of {name}", timeout_s=30)
        limit.stop.set()
        for thread in threads:
            thread.join(30)
    assert [getattr(each, "stopped_by", each) for each in outcomes] == ["signal"] * 3
    assert [len(target.events) for target in targets.values()] == [1, 1, 1]


@pytest.mark.parametrize("secret", ["file"], indirect=True)
def test_a_password_that_is_wrong_in_the_secret_too_ends_the_run_with_a_hint(
    cluster: ReplicaSet, admin: Mongo, db_name: str, secret: Secret
) -> None:
    poller = Poller.from_settings(settings(cluster, db_name, secret), [ListTarget()])
    poller.run()
    secret.change("second")
    secret.store("tr0ub4dor")
    drop_connections(cluster)
    with pytest.raises((SourceUnavailableError, StateStoreError), match="refuses the user name or password") as raised:
        poller.run(limit=Deadline(patience_s=1))
    assert "DOCUMENTDB_SECRET" in raised.value.hint
    assert "tr0ub4dor" not in str(raised.value)
    secret.store("second")
    poller.run()  # and once it is right, the same poller works again
    poller.close()


def test_the_ca_bundle_is_fetched_once_in_a_process(
    aws: AwsServer, aws_environment: dict[str, str], certificates: Tls, db_name: str
) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=db_name)
    s3.put_object(Bucket=db_name, Key="bundle.pem", Body=certificates.ca_file.read_bytes())
    values = Settings(
        documentdb_uri="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=1",
        documentdb_tls_ca=f"s3://{db_name}/bundle.pem",
        watched_db_name="shop",
    )
    Connection(values).close()
    s3.delete_object(Bucket=db_name, Key="bundle.pem")
    Connection(values).close()
    with pytest.raises(ConfigError, match="cannot fetch"):
        Connection(values.model_copy(update={"documentdb_tls_ca": f"s3://{db_name}/another.pem"}))
    s3.close()
