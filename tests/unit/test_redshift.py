"""What Redshift answers, as operators are told it, and what is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.load.manifest import Manifest
from docdb_stream.load.redshift import Redshift, _hint, _options, _told
from docdb_stream.load.redshift_sql import Statements
from docdb_stream.load.warehouse import Loaded


class Answered(Exception):
    def __init__(self, state: str, message: str) -> None:
        super().__init__({"C": state, "M": message})


@pytest.mark.parametrize(
    ("state", "message", "hint"),
    [
        ("28000", "password authentication failed", "WAREHOUSE_SECRET"),
        ("42501", "permission denied for schema public", "WAREHOUSE_COPY_ROLE"),
        ("57014", "Query cancelled on user's request", "more time"),
        ("XX000", "Load into table 'x' failed.  Check 'sys_load_error_detail' system table", "sys_load_error_detail"),
        ("XX000", "S3ServiceException:Access Denied,Status 403", "s3:GetObject"),
        ("XX000", "disk full", "nothing is lost"),
    ],
)
def test_the_hint_says_what_to_do(state: str, message: str, hint: str) -> None:
    assert hint in _hint(Answered(state, message))


def test_no_value_is_shown() -> None:
    assert "secret" not in _told(Answered("22018", 'invalid input syntax for integer: "secret"'))
    assert "lost" in _told(OSError("secret"))
    with pytest.raises(ConfigError) as caught:
        _options("redshift://u:secret@h/?x")
    assert "secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(("state", "tries"), [("40001", 3), ("XX000", 1)])
def test_only_what_met_another_transaction_is_tried_again(
    state: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    @contextmanager
    def transaction(self: Redshift) -> Iterator[None]:
        try:
            yield
        except Answered as error:
            raise TargetError("redshift", "refused", hint="") from error

    def load(self: Redshift, *_: Any) -> Loaded:
        asked.append(1)
        if len(asked) < 3:
            raise Answered(state, "Serializable isolation violation")
        return Loaded()

    monkeypatch.setattr(Redshift, "_transaction", transaction)
    monkeypatch.setattr(Redshift, "_load", load)
    warehouse: Any = object.__new__(Redshift)
    with deadline(Deadline.after(20)):
        if tries == 1:
            with pytest.raises(TargetError, match="refused"):
                warehouse._in_turn("s", Manifest("m", ()), ())
        else:
            assert warehouse._in_turn("s", Manifest("m", ()), ()) == Loaded()
    assert len(asked) == tries


def test_texts_in_a_copy_end_nothing_else() -> None:
    statement = Statements.copy("s3://b/it's\\", "arn:aws:iam::1:role/r", "null")
    assert statement.startswith("COPY docdb_stream_staged FROM 's3://b/it''s\\\\' IAM_ROLE 'arn:aws:iam::1:role/r' ")
    assert "IAM_ROLE default" in Statements.copy("s3://b/k", None, "null")
