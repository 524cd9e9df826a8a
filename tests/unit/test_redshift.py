"""What Redshift answers, as operators are told it, and what is tried again."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.load.manifest import Manifest
from docdb_stream.load.redshift import Redshift
from docdb_stream.load.redshift_answers import Answer, refused
from docdb_stream.load.redshift_data import _VALUES, DataApi
from docdb_stream.load.redshift_login import Login
from docdb_stream.load.redshift_sql import Statements, literal
from docdb_stream.load.redshift_wire import Wire, _answered, _parsed
from docdb_stream.load.warehouse import Loaded

ANSWERS = [
    ("28000", "password authentication failed", "WAREHOUSE_SECRET"),
    ("42501", "permission denied for schema public", "CREATE in the schema"),
    ("57014", "Query cancelled on user's request", "more time"),
    ("42P07", 'Relation "shop_orders" already exists', "WAREHOUSE_SCHEMA"),
    ("2BP01", "cannot drop table x column y because other objects depend on it", "drop the view"),
    ("42703", 'column "total" of relation "shop_orders" does not exist', "docdb_stream_columns"),
    ("22001", "value too long for type character varying(100)", "VARCHAR(65535)"),
    ("XX000", "Load into table 'x' failed.  Check 'sys_load_error_detail' system table", "sys_load_error_detail"),
    ("XX000", "Load into table 'x' failed.  Check 'stl_load_errors' system table", "sys_load_error_detail"),
    ("XX000", "S3ServiceException:Access Denied,Status 403", "s3:GetObject"),
    ("XX000", "Disk Full", "resize"),
    ("XX000", "1023 DETAIL: Serializable isolation violation on table - 107465", "pause"),
    ("XX000", "Assert", "nothing is lost"),
]


@pytest.mark.parametrize(("state", "message", "hint"), ANSWERS)
def test_the_hint_says_what_to_do(state: str, message: str, hint: str) -> None:
    assert hint in Answer(state, message).hint
    assert hint in Answer("", f"ERROR: {message}").hint  # as the Data API has it


BLOCK = """
  -----------------------------------------------
  error:  Invalid digit, Value 'secret', Pos 0, Type: Integer
  code:      1207
  context:   secret
  -----------------------------------------------"""


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer("22018", 'invalid input syntax for integer: "secret"'), "22018 invalid input syntax for integer"),
        (Answer("", 'ERROR: invalid input syntax for integer: "secret"'), "invalid input syntax for integer"),
        (Answer("XX000", BLOCK), "XX000 code 1207 Invalid digit"),
        (Answer("", "ERROR: Invalid digit, Value 's', Pos 0"), "Invalid digit"),
        (Answer("", ""), "refused without a word"),
        (Answer("", 'ERROR: relation "x" already exists\n[ErrorId: 1-secret]'), 'relation "x" already exists'),
    ],
)
def test_no_value_is_shown(answer: Answer, told: str) -> None:
    assert answer.told == told
    assert "secret" not in str(refused(answer))


def test_what_is_no_answer_is_told_as_such() -> None:
    for error in (OSError("secret"), Exception(), Exception({"M": "secret"})):
        told = _answered(error)
        assert "lost" in str(told)
        assert "secret" not in str(told)
    assert "22001" in str(_answered(Exception({"C": "22001", "M": "value too long"})))


@pytest.mark.parametrize(
    "uri",
    [
        "redshift://u:secret@h/?x",
        "redshift://h:x/d",
        "redshift://h/d?workgroup=a&cluster=b",
        "redshift://u@h/d?workgroup=a",
    ],
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _parsed(uri)
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_an_address_says_who_is_asked_for_a_password() -> None:
    assert _parsed("redshift://u:p@h/d")[1] is None
    assert _parsed("redshift://h:1/d?workgroup=shop")[1] == Login("d", workgroup="shop")
    assert _parsed("redshift://h/d?cluster=c")[1] == Login("d", cluster="c")
    options, login = _parsed("redshift://loader@h/d?cluster=c&sslmode=disable")
    assert login == Login("d", cluster="c", user="loader")
    assert options == {"host": "h", "port": 5439, "database": "d", "ssl": False, "user": "loader"}
    for uri, secret in (("redshift://u:p@h/d?cluster=c", None), ("redshift://h/d?cluster=c", "warehouse/loader")):
        with pytest.raises(ConfigError, match="both IAM and a password"):
            Wire(uri, secret=secret)


@pytest.mark.parametrize(
    ("uri", "secret", "whose"),
    [
        ("redshift-data://shop/dev", None, {"WorkgroupName": "shop", "Database": "dev"}),
        ("redshift-data://c/dev?cluster=true", None, {"ClusterIdentifier": "c", "Database": "dev"}),
        ("redshift-data://u@c/dev?cluster=true", None, {"ClusterIdentifier": "c", "Database": "dev", "DbUser": "u"}),
        ("redshift-data://shop/dev", "arn:x", {"WorkgroupName": "shop", "Database": "dev", "SecretArn": "arn:x"}),
    ],
)
def test_the_data_api_is_told_whose_database_it_is(uri: str, secret: str | None, whose: dict[str, str]) -> None:
    assert DataApi(uri, secret=secret)._whose == whose


@pytest.mark.parametrize(
    ("uri", "secret"),
    [
        ("redshift-data://shop", None),
        ("redshift-data://shop/", None),
        ("redshift-data:///dev", None),
        ("redshift-data://u@shop/dev", None),
        ("redshift-data://u:tr0ub4dor@c/dev?cluster=true", None),
        ("redshift-data://shop:5439/dev", None),
        ("redshift-data://shop/dev?x=y", None),
        ("redshift-data://shop/dev?x", None),
        ("redshift-data://shop/dev", "env:SECRET"),
        ("redshift-data://u@c/dev?cluster=true", "warehouse/loader"),
    ],
)
def test_what_is_no_address_for_the_data_api_is_refused(uri: str, secret: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        DataApi(uri, secret=secret)
    assert "tr0ub4dor" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint


class Scripted:
    """A connection whose transactions end as they are told."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = [*answers]
        self.transactions = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.transactions += 1
        yield
        if self.answers:
            raise refused(self.answers.pop(0))

    def run(self, statement: str, *values: object) -> None:
        pass

    def rows(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        return []

    def close(self) -> None:
        pass


class NoStaging:
    """Where nothing waits."""

    def remove(self, keys: Sequence[str]) -> None:
        assert not keys


def load(warehouse: Redshift) -> Loaded | None:
    return warehouse.load("s", Manifest("m", ()), lambda file: io.BytesIO())


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (Answer("40001", "could not serialize access"), 2),
        (Answer("XX000", "1023 DETAIL: Serializable isolation violation on table - 1, transactions: 2"), 2),
        (Answer("", "ERROR: 1023 DETAIL: Serializable isolation violation on table - 1"), 2),
        (Answer("40P01", "deadlock detected"), 2),
        (Answer("", 'ERROR: duplicate key value violates unique constraint "pg_namespace_nspname_index"'), 2),
        (Answer("XX000", "Load into table 'x' failed.  Check 'sys_load_error_detail'"), 1),
        (Answer("22001", "value too long for type character varying(65535)"), 1),
        (Answer("", 'ERROR: column "at1023" does not exist'), 1),
    ],
)
def test_only_what_met_another_transaction_is_tried_again(answer: Answer, tries: int) -> None:
    connection = Scripted()
    warehouse = Redshift(connection, NoStaging())  # type: ignore[arg-type]
    warehouse.loaded("s")
    connection.answers, before = [answer], connection.transactions
    with deadline(Deadline.after(20)):
        if tries == 1:
            with pytest.raises(TargetError):
                load(warehouse)
        else:
            assert load(warehouse) == Loaded()
    assert connection.transactions - before == tries


def test_two_that_make_the_same_tables_take_turns() -> None:
    connection = Scripted(Answer("23505", 'duplicate key value violates unique constraint "pg_class_relname"'))
    with deadline(Deadline.after(20)):
        assert Redshift(connection, NoStaging()).loaded("s") == set()  # type: ignore[arg-type]
    assert connection.transactions == 3


def test_what_meets_others_without_end_is_given_up_in_time() -> None:
    connection = Scripted()
    warehouse = Redshift(connection, NoStaging())  # type: ignore[arg-type]
    warehouse.loaded("s")
    connection.answers = [Answer("40001", "could not serialize access")] * 10_000
    with deadline(Deadline.after(0.3)), pytest.raises(TargetError, match="met another") as caught:
        load(warehouse)
    assert "nothing is lost" in caught.value.hint


def test_texts_in_a_copy_end_nothing_else() -> None:
    statement = Statements.copy("s3://b/it's\\", "arn:aws:iam::1:role/r", "null")
    assert statement.startswith("COPY docdb_stream_staged FROM 's3://b/it''s\\\\' IAM_ROLE 'arn:aws:iam::1:role/r' ")
    assert "IAM_ROLE default" in Statements.copy("s3://b/k", None, "null")


def test_a_value_goes_where_it_belongs_and_nowhere_else() -> None:
    values = iter(["x' OR 'a' = 'a\\", 7])
    statement = 'SELECT 1 FROM "a""%s"."%s" WHERE x = %s AND y = %s'
    found = _VALUES.sub(lambda each: literal(next(values)) if each[0] == "%s" else each[0], statement)
    assert found == "SELECT 1 FROM \"a\"\"%s\".\"%s\" WHERE x = 'x'' OR ''a'' = ''a\\\\' AND y = 7"
