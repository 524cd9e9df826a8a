"""What a warehouse, a bucket or a disk refuses, by either way to Redshift: nothing is lost, and what to do is said."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from botocore.awsrequest import AWSResponse
from contract.redshift_data_server import RedshiftDataServer
from contract.redshift_server import RedshiftServer
from integration.test_load_redshift import RedshiftWarehouse, Warehouse, redshift  # noqa: F401 - a fixture

from docdb_stream import aws as aws_module
from docdb_stream.context import Deadline
from docdb_stream.errors import TargetError
from docdb_stream.formats import arrow
from docdb_stream.load import manifest, row_file
from docdb_stream.load import redshift as redshift_module
from docdb_stream.load.loading import LoadResult, load
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings

pytestmark = [
    pytest.mark.integration,
    # redshift-connector leaves a socket open where a server hangs up while it says who it is.
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

Forbid = Callable[[str, bool], None]


@pytest.fixture(params=["wire", "data"])
def door(request: pytest.FixtureRequest, redshift: RedshiftServer) -> Iterator[Any]:  # noqa: F811
    if request.param == "wire":
        yield redshift
        redshift.is_down = False
        redshift.words.refusals.clear()
        return
    server = RedshiftDataServer(redshift.words)
    server.shortest_s = 5.0
    yield server
    server.close()
    redshift.words.refusals.clear()


@pytest.fixture
def warehouse(
    replica_set: Any,
    mongo: Any,
    db_name: str,
    aws: Any,
    postgres: Any,
    door: Any,
    cli: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Warehouse]:
    """Loads by it are made in this process, where its disk and its clients can be disturbed."""
    found = RedshiftWarehouse(replica_set.uri, mongo, db_name, aws, postgres, cli)
    found.environment |= {"WAREHOUSE_URI": door.uri, **getattr(door, "environment", {})}
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    found.done("run")
    yield found
    found.bucket.client.close()


def settings_of(warehouse: Warehouse) -> Settings:
    return Settings.from_env(warehouse.environment)


def loaded(warehouse: Warehouse, within_s: float = 60) -> LoadResult:
    return load(settings_of(warehouse), limit=Deadline.after(within_s))


def refused(warehouse: Warehouse, within_s: float = 60) -> tuple[str, str]:
    with pytest.raises(TargetError) as caught:
        loaded(warehouse, within_s)
    return str(caught.value), caught.value.hint


def filled(warehouse: Warehouse, *documents: dict[str, Any]) -> None:
    warehouse.db.orders.insert_many(documents)
    warehouse.done("run")


def equal(warehouse: Warehouse) -> None:
    assert warehouse.table("orders") == warehouse.collection("orders")


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Forbid:
    """Whether S3 answers an operation with 403, as a bucket to whose policy the role is not."""
    forbidden: set[str] = set()
    made = aws_module.client

    def client(service: str, **options: Any) -> Any:
        found = made(service, **options)
        found.meta.events.register("before-send.s3", answer)
        return found

    def answer(request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        if event_name.rpartition(".")[2] not in forbidden:
            return None
        content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        return AWSResponse(request.url, 403, {}, Raw(content))

    def forbid(operation: str, is_forbidden: bool) -> None:
        (forbidden.add if is_forbidden else forbidden.discard)(operation)

    monkeypatch.setattr(aws_module, "client", client)
    return forbid


class Raw:
    """The body of an answer."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


@pytest.fixture
def fill_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], pytest.MonkeyPatch]]:
    """Every temporary file is one to which nothing can be written any more; what is undone gives the disk room."""
    patch = pytest.MonkeyPatch()

    def fill() -> pytest.MonkeyPatch:
        for module in (arrow, manifest, redshift_module):
            patch.setattr(module, "_IN_MEMORY_BYTES", 1)
        patch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "w+b", buffering=0))  # noqa: SIM115
        return patch

    yield fill
    patch.undo()


# The warehouse


@pytest.mark.parametrize(
    ("limits", "documents", "code"),
    [
        ({"VALUE_BYTES": 10**9}, [{"_id": 1, "text": "x" * 70_000}], 1204),
        ({"VALUE_BYTES": 10**9, "ROW_BYTES": 10**9}, [{"_id": 1, "a": ["x" * 60_000] * 80}], 1216),
    ],
)
def test_what_is_too_long_for_redshift_stops_the_load_and_says_where_it_is_told(
    warehouse: Warehouse,
    redshift: RedshiftServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, int],
    documents: list[dict[str, Any]],
    code: int,
) -> None:
    filled(warehouse, *documents)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(row_file, name, value)
        message, hint = refused(warehouse)
    assert "docdb_stream_staged" in message
    assert "sys_load_error_detail" in hint
    assert redshift.words.load_errors[-1][1] == code
    # As it is made, the loader leaves such values out, and says so in the row.
    loaded(warehouse)
    assert sorted(warehouse.table("orders")[1]) == ["_id", "_not_held"]


@pytest.mark.parametrize(
    ("change", "told", "what", "repair", "total"),
    [
        (
            "ALTER TABLE {table} DROP COLUMN total",
            "does not exist",
            "docdb_stream_columns",
            "DELETE FROM {own} WHERE column_name = 'total'",  # and the load makes it anew
            None,
        ),
        (
            "ALTER TABLE {table} ALTER COLUMN text TYPE varchar(3)",
            "value too long",
            "ALTER COLUMN",
            "ALTER TABLE {table} ALTER COLUMN text TYPE varchar(65535)",
            1,
        ),
    ],
)
def test_a_column_that_somebody_has_changed_is_told_with_what_to_do(
    warehouse: Warehouse, change: str, told: str, what: str, repair: str, total: int | None
) -> None:
    filled(warehouse, {"_id": 1, "total": 1, "text": "x"})
    loaded(warehouse)
    filled(warehouse, {"_id": 2, "total": 2, "text": "longer"})
    execute(warehouse, change)
    message, hint = refused(warehouse)
    assert told in message
    assert "longer" not in message
    assert what in hint
    execute(warehouse, repair)
    loaded(warehouse)
    found = warehouse.table("orders")
    assert (found[1].get("total"), found[2]) == (total, {"_id": 2, "total": 2, "text": "longer"})


def execute(warehouse: Warehouse, statement: str) -> None:
    schema = f'"{warehouse.schema}".'
    names = {"table": f'{schema}"{warehouse.db.name}_orders"', "own": f"{schema}docdb_stream_columns"}
    with psycopg.connect(warehouse.postgres.uri, autocommit=True) as connection:
        connection.execute(statement.format(**names))  # type: ignore[call-overload]


CONFLICT = "1023 DETAIL: Serializable isolation violation on table - 107465, transactions forming the cycle are: 1, 2"


def test_a_conflict_is_tried_again_and_anything_else_is_not(
    warehouse: Warehouse,
    redshift: RedshiftServer,  # noqa: F811
) -> None:
    filled(warehouse, {"_id": 1, "total": 1})
    before = len(redshift.words.statements)
    redshift.words.refuse("^COPY", "XX000", CONFLICT, times=3)
    assert loaded(warehouse).manifests == 1
    assert sum(each.startswith("COPY") for each in redshift.words.statements[before:]) == 4
    equal(warehouse)
    filled(warehouse, {"_id": 2, "total": 2})
    before = len(redshift.words.statements)
    redshift.words.refuse("^COPY", "XX000", "Disk Full", times=2)
    message, hint = refused(warehouse)
    assert ("Disk Full" in message, "resize" in hint) == (True, True)
    assert sum(each.startswith("COPY") for each in redshift.words.statements[before:]) == 1
    redshift.words.refusals.clear()
    loaded(warehouse)
    equal(warehouse)


def test_a_conflict_without_end_is_given_up_in_time(warehouse: Warehouse, redshift: RedshiftServer) -> None:  # noqa: F811
    filled(warehouse, {"_id": 1, "total": 1})
    redshift.words.refuse("^COPY", "XX000", CONFLICT, times=10**6)
    message, hint = refused(warehouse, within_s=5)
    assert "1023" in message or "time" in message
    assert "nothing is lost" in hint
    redshift.words.refusals.clear()
    loaded(warehouse)
    equal(warehouse)


@pytest.mark.long
def test_a_warehouse_that_is_down_for_an_hour_gets_everything_afterwards(warehouse: Warehouse, door: Any) -> None:
    filled(warehouse, {"_id": 0, "total": 0})
    loaded(warehouse)
    door.is_down = True
    for number in range(1, 7):  # a load every ten minutes, and the stream goes on meanwhile
        filled(warehouse, {"_id": number, "total": number})
        _, hint = refused(warehouse, within_s=2)
        assert "nothing is lost" in hint
    door.is_down = False
    found = loaded(warehouse)
    assert (found.manifests, found.waiting) == (6, 0)
    equal(warehouse)
    assert len(warehouse.sql("SELECT * FROM docdb_stream_loads")) == len(warehouse.keys())


def test_redshift_that_may_not_read_the_bucket_says_whom_to_let(
    warehouse: Warehouse,
    redshift: RedshiftServer,  # noqa: F811
) -> None:
    filled(warehouse, {"_id": 1, "total": 1})
    redshift.words.refuse("^COPY", "XX000", "S3ServiceException:Access Denied,Status 403,Error AccessDenied,Rid 1")
    message, hint = refused(warehouse)
    assert "S3ServiceException" in message
    assert "WAREHOUSE_COPY_ROLE" in hint
    loaded(warehouse)
    equal(warehouse)


# The bucket, and the disk


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject", "PutObject"])
def test_a_bucket_without_rights_says_which(warehouse: Warehouse, forbid: Forbid, operation: str) -> None:
    filled(warehouse, {"_id": 1, "total": 1})
    forbid(operation, True)
    message, hint = refused(warehouse)
    assert "AccessDenied" in message
    assert f"allow s3:{operation.removesuffix('V2').replace('ListObjects', 'ListBucket')}" in hint
    forbid(operation, False)
    assert loaded(warehouse).manifests == 1
    equal(warehouse)


def test_a_disk_that_is_full_stops_a_load_and_nothing_is_lost(
    warehouse: Warehouse, fill_disk: Callable[[], pytest.MonkeyPatch]
) -> None:
    filled(warehouse, {"_id": 1, "total": 1})
    patch = fill_disk()
    for module in (manifest, redshift_module):  # first where the file comes to, then where its rows are written
        message, hint = refused(warehouse)
        assert "no room for temporary files" in message
        assert "TMPDIR" in hint
        patch.setattr(module, "_IN_MEMORY_BYTES", 10**6)
    assert loaded(warehouse).manifests == 1
    equal(warehouse)


@pytest.fixture
def stream(warehouse: Warehouse, door: Any) -> Warehouse:
    if not isinstance(door, RedshiftServer):
        pytest.skip("what is extracted knows of no warehouse")
    return warehouse


def extracted(warehouse: Warehouse) -> None:
    with Poller.from_settings(settings_of(warehouse)) as poller:
        poller.run()


def checkpoint(warehouse: Warehouse) -> Any:
    states = warehouse.mongo[f"{warehouse.db.name}_state"]
    (found,) = states["checkpoints"].find({"_id": warehouse.name})
    return found["position"]["token"]


@pytest.mark.parametrize("trouble", ["disk", "bucket"])
def test_what_an_extract_cannot_keep_or_put_is_not_passed(
    stream: Warehouse, forbid: Forbid, fill_disk: Callable[[], pytest.MonkeyPatch], trouble: str
) -> None:
    stream.db.orders.insert_many([{"_id": number, "total": number} for number in range(10)])
    before = checkpoint(stream)
    patch = fill_disk() if trouble == "disk" else None
    forbid("PutObject", trouble == "bucket")
    with pytest.raises(TargetError) as caught:
        extracted(stream)
    told = ("no room for temporary files", "TMPDIR") if patch else ("AccessDenied", "allow s3:PutObject")
    assert told[0] in str(caught.value)
    assert told[1] in caught.value.hint
    assert checkpoint(stream) == before
    if patch:
        patch.undo()
    forbid("PutObject", False)
    extracted(stream)
    loaded(stream)
    equal(stream)
