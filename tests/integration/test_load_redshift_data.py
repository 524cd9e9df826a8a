"""Into what stands in for Redshift by its Data API: as by its own protocol, and the service's limits and silences."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from contract.redshift_data_server import RedshiftDataServer
from integration.test_load_redshift import (  # noqa: F401 - the same tests, by another way
    RedshiftWarehouse,
    Warehouse,
    is_of_redshift,
    redshift,
    test_a_collection_that_is_dropped_takes_its_rows_along,
    test_a_collection_that_is_renamed_takes_its_rows_along,
    test_a_load_that_is_killed_is_gone_on_with,
    test_a_stop_is_a_clean_end,
    test_columns_widen,
    test_tables_equal_collections,
    test_two_loads_at_a_time_load_everything_once,
    test_what_another_type_cannot_hold_exactly_stays_beside_it,
    test_what_is_loaded_again_or_late_changes_nothing,
    test_what_redshift_cannot_hold_is_left_out_and_named,
)

from docdb_stream.local.process import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.long]  # test_load_refused has both ways, in less time


@pytest.fixture
def api(redshift: Any) -> Iterator[RedshiftDataServer]:  # noqa: F811
    server = RedshiftDataServer(redshift.words)
    server.shortest_s = 3.0  # so that the locks of loads that are killed are not waited for as long as in earnest
    yield server
    server.close()
    redshift.words.keeps_transactions = True
    redshift.words.refusals.clear()


@pytest.fixture
def warehouse(
    replica_set: Any,
    mongo: Any,
    db_name: str,
    aws: Any,
    postgres: Any,
    redshift: Any,  # noqa: F811
    api: RedshiftDataServer,
    cli: Any,
) -> Iterator[Warehouse]:
    found = RedshiftWarehouse(replica_set.uri, mongo, db_name, aws, postgres, cli)
    found.environment |= {**api.environment, "WAREHOUSE_URI": api.uri}
    found.done("run")
    before = len(redshift.words.statements)
    yield found
    found.bucket.client.close()
    assert [each for each in {*redshift.words.statements[before:]} if not is_of_redshift(each)] == []


def filled(warehouse: Warehouse, *totals: int) -> None:
    """A manifest for each of these."""
    for total in totals:
        warehouse.db.orders.replace_one({"_id": total}, {"total": total}, upsert=True)
        warehouse.done("run")


def test_a_load_is_one_session_and_says_whose_database_it_is_once(
    warehouse: Warehouse, api: RedshiftDataServer
) -> None:
    filled(warehouse, 1, 2)
    assert warehouse.load()["manifests"] == 2
    first, *others = api.asked("ExecuteStatement")
    assert (first["WorkgroupName"], first["Database"], first["SessionKeepAliveSeconds"]) == ("shop", "postgres", 30)
    assert len({each["SessionId"] for each in others}) == 1
    assert {*first} & {"DbUser", "SecretArn", "Parameters"} == set()
    assert warehouse.table("orders") == warehouse.collection("orders")
    # More manifests than a page has rows: all of them are known to be loaded.
    filled(warehouse, 3, 4, 5)
    warehouse.load()
    assert warehouse.load()["manifests"] == 0


def test_where_sessions_keep_no_transactions_nothing_is_written(warehouse: Warehouse, redshift: Any) -> None:  # noqa: F811
    filled(warehouse, 1)
    redshift.words.keeps_transactions = False
    found = warehouse.done("load", warehouse.name, code=4)
    assert "keeps no transaction" in found.stderr
    assert "redshift://" in found.stderr
    with pytest.raises(psycopg.errors.UndefinedTable):
        warehouse.table("orders")


def test_a_session_that_is_gone_amid_a_manifest_takes_it_along(warehouse: Warehouse, api: RedshiftDataServer) -> None:
    filled(warehouse, 1)
    warehouse.load()
    filled(warehouse, 2)
    api.shortest_s = 0.0001  # it is over before the next statement comes
    found = warehouse.done("load", warehouse.name, "--timeout", "20", code=4)
    assert "ValidationException" in found.stderr
    api.shortest_s = 3.0
    warehouse.load()
    assert warehouse.table("orders") == warehouse.collection("orders")


def test_too_many_sessions_or_statements_are_waited_for(warehouse: Warehouse, api: RedshiftDataServer) -> None:
    filled(warehouse, 1)
    api.sessions_at_most = 0
    found = warehouse.done("load", warehouse.name, "--timeout", "2", code=4)
    assert "ActiveSessionsExceededException" in found.stderr
    assert "nothing is lost" in found.stderr
    api.sessions_at_most, api.statements_at_most = 500, 0
    loading = warehouse.started("load", warehouse.name)
    wait_until(lambda: len(api.asked("ExecuteStatement")) > 10, "it asks again", timeout_s=30)
    api.statements_at_most = 500
    assert loading.wait(60) == 0
    assert warehouse.table("orders") == warehouse.collection("orders")


@pytest.mark.parametrize("is_stopped", [True, False])
def test_what_runs_when_a_load_ends_is_cancelled(
    warehouse: Warehouse, api: RedshiftDataServer, is_stopped: bool
) -> None:
    filled(warehouse, 1)
    warehouse.load()
    filled(warehouse, 2)
    with psycopg.connect(warehouse.postgres.uri) as blocking:
        blocking.execute(f'LOCK TABLE "{warehouse.schema}".docdb_stream_loads')  # type: ignore[call-overload]
        loading = warehouse.started("load", warehouse.name, *([] if is_stopped else ["--timeout", "4"]))
        wait_until(lambda: is_waiting(api), "it waits", timeout_s=30)
        if is_stopped:
            loading.send_signal(signal.SIGTERM)
        assert loading.wait(30) == (0 if is_stopped else 4)
        wait_until(lambda: not running(api), "it is cancelled", timeout_s=10)
    assert len(api.asked("CancelStatement")) <= 1
    warehouse.load()
    assert warehouse.table("orders") == warehouse.collection("orders")


def is_waiting(api: RedshiftDataServer) -> bool:
    return any("docdb_stream_loads" in each.sql for each in running(api))


def running(api: RedshiftDataServer) -> list[Any]:
    return [each for each in [*api.statements.values()] if each.status == "STARTED"]


def test_the_locks_of_a_load_that_is_killed_end_with_its_session(warehouse: Warehouse, api: RedshiftDataServer) -> None:
    filled(warehouse, 1)
    warehouse.load()
    filled(warehouse, 2)
    before = folded(api)
    loading = warehouse.started("load", warehouse.name)
    wait_until(lambda: folded(api) > before, "it is amid a manifest", timeout_s=30)
    loading.kill()
    loading.wait(10)
    warehouse.load()
    assert warehouse.table("orders") == warehouse.collection("orders")


def folded(api: RedshiftDataServer) -> int:
    return sum("CREATE TEMPORARY TABLE docdb_stream_newest" in each.sql for each in [*api.statements.values()])


def test_a_statement_beyond_what_the_api_takes_says_what_to_do(warehouse: Warehouse) -> None:
    warehouse.db.orders.insert_one(
        {f"a_field_that_has_a_name_of_more_than_forty_bytes_{number:05}": number for number in range(1400)}
    )
    warehouse.done("run")
    found = warehouse.done("load", warehouse.name, code=4)
    assert re.search(r"a statement has \d+ bytes, and the Data API takes 100000", found.stderr)
    assert "redshift://" in found.stderr


def test_what_is_wrong_is_said(warehouse: Warehouse) -> None:
    for uri, said, environment in (
        ("redshift-data://shop", "no address", {}),
        (
            "redshift-data://shop/postgres",
            "Could not connect",
            {"AWS_ENDPOINT_URL_REDSHIFT_DATA": "http://127.0.0.1:1"},
        ),
    ):
        timeout = ("--timeout", "5")
        code = 4 if environment else 2
        found = warehouse.done("load", warehouse.name, *timeout, code=code, WAREHOUSE_URI=uri, **environment)
        assert "hint:" in found.stderr, said
        assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("query", "action", "whose"),
    [
        ("workgroup=shop", "GetCredentials", {"workgroupName": "shop", "dbName": "postgres"}),
        ("cluster=c", "GetClusterCredentialsWithIAM", {"ClusterIdentifier": "c", "DbName": "postgres"}),
        ("cluster=c&user", "GetClusterCredentials", {"ClusterIdentifier": "c", "DbUser": "loader"}),
    ],
)
def test_iam_says_who_loads_by_the_wire(
    warehouse: Warehouse,
    api: RedshiftDataServer,
    redshift: Any,  # noqa: F811
    query: str,
    action: str,
    whose: dict[str, str],
) -> None:
    filled(warehouse, 1)
    user = "loader@" if query.endswith("&user") else ""
    uri = redshift.uri.replace("postgres:x@", user) + "&" + query.removesuffix("&user")
    warehouse.load(WAREHOUSE_URI=uri)
    (asked,) = api.asked(action)
    assert {name: asked[name] for name in whose} == whose
    assert warehouse.table("orders") == warehouse.collection("orders")
