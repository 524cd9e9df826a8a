"""What Redshift has and PostgreSQL has not, in PostgreSQL's words: types, distribution, settings, COPY from S3; and the
errors with which Redshift refuses, its own and those that a test wants."""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from botocore.exceptions import ClientError

from docdb_stream.local import AwsServer, PostgresServer

_COPY = re.compile(
    r"COPY (\S+) FROM 's3://([^/]+)/([^']+)' IAM_ROLE (?:default|'[^']+') "
    r"FORMAT AS CSV NULL AS '(\w+)' TIMEFORMAT 'auto' GZIP"
)
_STAGED = re.compile(r"CREATE TEMPORARY TABLE docdb_stream_staged \((.*)\) DISTSTYLE")
_COLUMN = re.compile(r'("(?:[^"]|"")+"|\w+) (VARCHAR\(\d+\)|SUPER|DOUBLE PRECISION|DECIMAL\(\d+, \d+\)|\w+)(?:, |$)')
_FUNCTIONS = (
    "CREATE OR REPLACE FUNCTION from_varbyte(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT encode($1, $2) $$",
    "CREATE OR REPLACE FUNCTION json_as_text(jsonb) RETURNS text LANGUAGE sql AS $$ SELECT $1::text $$",
    "CREATE OR REPLACE FUNCTION getdate() RETURNS timestamp LANGUAGE sql AS $$ SELECT now()::timestamp $$",
    "CREATE OR REPLACE FUNCTION to_varbyte(text, text) RETURNS bytea LANGUAGE sql AS $$ SELECT decode($1, $2) $$",
)
LINE_BYTES = 4 * 1024 * 1024
SUPER_BYTES = 16 * 1024 * 1024
"""Redshift's developer guide, "COPY" (a row of a file) and "SUPER type limitations"."""
LOAD_FAILED = "Load into table 'docdb_stream_staged' failed.  Check 'sys_load_error_detail' system table for details."


@dataclass
class Refusal:
    """An error that a statement gets in the place of its answer.

    Attributes:
        pattern: Statements that match it.
        state: SQLSTATE.
        message: What it says.
        times: How many of them.
    """

    pattern: str
    state: str
    message: str
    times: int = 1


class RedshiftWords:
    """Shared by the doors of one stand-in.

    Args:
        aws: Where S3 is.
        postgres: What the tables are in.
    """

    def __init__(self, aws: AwsServer, postgres: PostgresServer) -> None:
        self.postgres = postgres
        self.statements: list[str] = []
        """All that were asked for, as they came."""
        self.refusals: list[Refusal] = []
        """Those to come."""
        self.load_errors: list[tuple[str, int, str]] = []
        """What sys_load_error_detail would have: column, code, reason."""
        self.keeps_transactions = True
        """Whether BEGIN holds for the next statement of a session, by the Data API."""
        self._s3 = aws.client("s3")
        self._folder = Path(tempfile.mkdtemp(prefix="redshift-"))
        self._folder.chmod(0o755)
        self._files = 0
        self._lock = threading.Lock()
        with psycopg.connect(postgres.uri, autocommit=True) as connection:
            for function in _FUNCTIONS:
                connection.execute(function)  # type: ignore[call-overload]

    def close(self) -> None:
        self._s3.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def refuse(self, pattern: str, state: str, message: str, times: int = 1) -> None:
        self.refusals.append(Refusal(pattern, state, message, times))

    def refused(self, statement: str) -> str | None:
        with self._lock:
            for each in self.refusals:
                if each.times and re.search(each.pattern, statement):
                    each.times -= 1
                    return raising(each.state, each.message)
        return None


class Session:
    """One connection's: it knows the columns of its temporary table."""

    def __init__(self, words: RedshiftWords) -> None:
        self._words = words
        self._staged: list[tuple[str, str]] = []

    def translated(self, statement: str) -> str:
        self._words.statements.append(statement)
        if refused := self._words.refused(statement):
            return refused
        if copied := _COPY.fullmatch(statement):
            return self._copied(*copied.groups())
        if staged := _STAGED.match(statement):
            self._staged = _COLUMN.findall(staged[1])
        statement = statement.replace(" DISTSTYLE KEY DISTKEY (_key)", "")
        statement = re.sub(r"\bLOCAL query_group\b", "LOCAL redshift.query_group", statement)
        statement = statement.replace(
            "current_setting('query_group')", "current_setting('redshift.query_group', true) AS query_group"
        )
        statement = statement.replace("JSON_SERIALIZE(", "json_as_text(")  # a word of PostgreSQL's own
        return re.sub(r'" SUPER\b', '" jsonb', re.sub(r'" VARBYTE\(\d+\)', '" bytea', statement))

    def _copied(self, table: str, bucket: str, key: str, null: str) -> str:
        try:
            body: Any = self._words._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            return raising("XX000", f"S3ServiceException:{code},Status 403,Error {code},Rid 1,ExtRid 2,CanRetry 1")
        content = gzip.decompress(body)
        if error_found := self._load_error(content.decode(), null):
            self._words.load_errors.append(error_found)
            return raising("XX000", LOAD_FAILED)
        with self._words._lock:
            self._words._files += 1
            path = self._words._folder / f"{self._words._files}.csv"
        path.write_bytes(content)
        path.chmod(0o644)
        return f"COPY {table} FROM '{path}' WITH (FORMAT csv, NULL '{null}')"

    def _load_error(self, content: str, null: str) -> tuple[str, int, str] | None:
        """The first one that Redshift would find; its codes are those of its "Load error reference"."""
        csv.field_size_limit(2**31 - 1)
        for row in csv.reader(io.StringIO(content, newline="")):
            if len(row) > len(self._staged):
                return "", 1202, "Extra column(s) found"
            if len(row) < len(self._staged):
                return "", 1203, "Delimiter not found"
            if sum(len(value.encode()) + 1 for value in row) > LINE_BYTES:
                return "", 1216, "Input line is not valid"
            for value, (name, kind) in zip(row, self._staged, strict=True):
                size = len(value.encode())
                if value != null and kind.startswith("VARCHAR") and size > int(kind[8:-1]):
                    return name, 1204, "String length exceeds DDL length"
                if kind == "SUPER" and size > SUPER_BYTES:
                    return name, 1204, "String value exceeds the max size of a SUPER"
        return None


def raising(state: str, message: str) -> str:
    """A statement that PostgreSQL answers with this error."""
    text = message.replace("'", "''")
    return f"DO $do$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = E'{text}'; END $do$"
