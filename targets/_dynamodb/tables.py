"""The tables: whether they are there and fit, making them, and reading them page by page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from docdb_stream import aws
from docdb_stream.errors import Caution, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.position import Namespace
from docdb_stream.retry import Backoff
from docdb_stream.targets._aws.attributes import Attribute
from docdb_stream.targets._aws.client import Destination
from docdb_stream.targets._dynamodb.item import EXPIRES
from docdb_stream.targets._names import distinct_name
from docdb_stream.template import Template

NAME: Final = "dynamodb"
_NAME_BYTES: Final = 255
_LEAST_NAME_BYTES: Final = 3
_NOT_IN_NAMES: Final = re.compile("[^A-Za-z0-9_.-]")
"""DynamoDB developer guide, "Naming rules": 3 to 255 of these."""
_MISSING: Final = "ResourceNotFoundException"
_WRITABLE: Final = frozenset({"ACTIVE", "UPDATING"})
_PASSING: Final = frozenset({"CREATING", "DELETING"})
"""API reference, TableDescription: TableStatus."""
_ANY_EVENT: Final = ChangeEvent(document={})
"""A table's name has nothing of an event but its namespace."""


def table_name(template: Template, namespace: Namespace) -> str:
    """The table of a collection; where DynamoDB has no such names, one near to it that no other collection's is."""
    name = template.render(_ANY_EVENT, namespace)
    accepted = _NOT_IN_NAMES.sub("_", name).ljust(_LEAST_NAME_BYTES, "_")
    return distinct_name(name, accepted, _NAME_BYTES)


_KEYS: Final = 100
"""API reference, BatchGetItem: 100 items, of which 16 MB are given at once."""


def destination_of(table: str, key: str) -> Destination:
    """A table in the words of errors."""
    return Destination(
        target=NAME,
        what=f"DynamoDB table {table}",
        variable="DYNAMODB_TABLE",
        create=(
            f"aws dynamodb create-table --table-name {table} --billing-mode PAY_PER_REQUEST "
            f"--attribute-definitions AttributeName={key},AttributeType=S --key-schema AttributeName={key},KeyType=HASH"
        ),
        capacity="give the table more write capacity or on-demand mode, or lower DYNAMODB_LANES",
    )


class Tables:
    """The tables of a target, as one thread asks about them.

    Args:
        key: The name of their key.
        creates: Whether missing ones are made.
    """

    def __init__(self, key: str, *, creates: bool) -> None:
        self.key = key
        self._creates = creates
        self._service = aws.Service(NAME)
        self._ready: set[str] = set()

    def forget(self) -> None:
        """Look at each table again before it is written to."""
        self._ready.clear()

    def make_ready(self, table: str) -> None:
        """See that a table can be written to: made where that is wanted, waited for while it is made.

        Raises:
            TargetError: It is missing, has another key, or is not ready in time.
        """
        if table in self._ready:
            return
        backoff = Backoff()
        while True:
            found = self.describe(table)
            if found is None and self._creates:
                self._make(table)
            elif found is None:
                raise destination_of(table, self.key).error(_MISSING, "dynamodb:DescribeTable")
            elif found["TableStatus"] in _WRITABLE:
                self._check_key(table, found)
                break
            elif found["TableStatus"] not in _PASSING:
                raise self._unready(table, found)
            if not backoff.wait():
                raise destination_of(table, self.key).out_of_time() if found is None else self._unready(table, found)
        self._ready.add(table)

    def check(self, table: str) -> None:
        """See that a table is there and fits, and that tombstones go some day. Changes nothing.

        Raises:
            TargetError: It is missing and is not to be made, has another key, or cannot be written to now.
            Caution: Tombstones stay for ever.
        """
        found = self.describe(table)
        if found is None:
            if self._creates:
                return
            raise destination_of(table, self.key).error(_MISSING, "dynamodb:DescribeTable")
        self._check_key(table, found)
        if found["TableStatus"] not in _WRITABLE:
            raise self._unready(table, found)
        answer = self._ask(table, "DescribeTimeToLive", lambda client: client.describe_time_to_live(TableName=table))
        told = answer["TimeToLiveDescription"]
        if told.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING") or told.get("AttributeName") != EXPIRES:
            raise Caution(
                f"DynamoDB table {table} keeps the tombstones of deleted documents for ever",
                hint=f"aws dynamodb update-time-to-live --table-name {table} "
                f"--time-to-live-specification Enabled=true,AttributeName={EXPIRES}",
            )

    def describe(self, table: str) -> Mapping[str, Any] | None:
        """What DynamoDB says of a table; None where there is none. Raises TargetError."""
        answer = self._ask(table, "DescribeTable", lambda client: client.describe_table(TableName=table), missing={})
        found: Mapping[str, Any] | None = answer.get("Table")
        return found

    def pages(self, table: str, **options: Any) -> Iterator[list[dict[str, Attribute]]]:
        """The items of a table, read consistently, some at a time; none where there is no table.

        Args:
            table: The table.
            options: Further ones of Scan.

        Raises:
            TargetError: It cannot be read, or not in time.
        """
        start: dict[str, Any] = {}
        while True:
            request = {"TableName": table, "ConsistentRead": True, **options, **start}
            page = self._ask(table, "Scan", partial(_scan, request), missing={"Items": []})
            yield page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def get(self, table: str, ids: list[str]) -> list[dict[str, Attribute]]:
        """The items of these ids, read consistently; those that are there.

        Raises:
            TargetError: They cannot be read, or not in time.
        """
        return [item for first in range(0, len(ids), _KEYS) for item in self._get(table, ids[first : first + _KEYS])]

    def _get(self, table: str, ids: list[str]) -> list[dict[str, Attribute]]:
        found: list[dict[str, Attribute]] = []
        keys: list[Any] = [{self.key: {"S": each}} for each in ids]
        backoff = Backoff()
        while keys:
            request = {table: {"Keys": keys, "ConsistentRead": True}}
            answer = self._ask(table, "BatchGetItem", partial(_batch_get, request), missing={"Responses": {}})
            got = answer["Responses"].get(table, [])
            found += got
            keys = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
            if got:
                backoff.progress()
            if keys and not backoff.wait():
                raise destination_of(table, self.key).error(
                    "ProvisionedThroughputExceededException", "dynamodb:BatchGetItem"
                )
        return found

    def _make(self, table: str) -> None:
        """Ask for a table; another may have done so."""
        definition = [{"AttributeName": self.key, "AttributeType": "S"}]
        schema = [{"AttributeName": self.key, "KeyType": "HASH"}]
        ttl = {"Enabled": True, "AttributeName": EXPIRES}
        self._ask(
            table,
            "CreateTable",
            lambda client: client.create_table(
                TableName=table, AttributeDefinitions=definition, KeySchema=schema, BillingMode="PAY_PER_REQUEST"
            ),
            passed="ResourceInUseException",
        )
        backoff = Backoff()
        while (found := self.describe(table)) is None or found["TableStatus"] == "CREATING":
            if not backoff.wait():
                raise destination_of(table, self.key).out_of_time()
        self._ask(
            table,
            "UpdateTimeToLive",
            lambda client: client.update_time_to_live(TableName=table, TimeToLiveSpecification=ttl),
            passed="ValidationException",  # it is on already: another was quicker
        )

    def _check_key(self, table: str, found: Mapping[str, Any]) -> None:
        types = {each["AttributeName"]: each["AttributeType"] for each in found["AttributeDefinitions"]}
        schema = [(each["AttributeName"], each["KeyType"], types[each["AttributeName"]]) for each in found["KeySchema"]]
        if schema != [(self.key, "HASH", "S")]:
            told = ", ".join(f"{name} ({kind}, {type})" for name, kind, type in schema)
            raise TargetError(
                NAME,
                f"DynamoDB table {table} has the key {told}, not {self.key} (HASH, S) alone",
                hint="set DYNAMODB_KEY_NAME to the name of a partition key of type S, or make another table: "
                + destination_of(table, self.key).create,
            )

    @staticmethod
    def _unready(table: str, found: Mapping[str, Any]) -> TargetError:
        hint = "wait until it is ACTIVE; of INACCESSIBLE_ENCRYPTION_CREDENTIALS, let the role use the table's KMS key"
        return TargetError(NAME, f"DynamoDB table {table} is {found['TableStatus']}", hint=hint)

    def _ask(self, table: str, operation: str, request: Any, *, missing: Any = None, passed: str = "") -> Any:
        """The answer to a request, made as often as it takes; ``missing`` where there is no table."""

        def ask() -> Any:
            try:
                return request(self._service.client)
            except aws.request_errors() as error:
                code = aws.error_code(error)
                if code == passed or (code == _MISSING and missing is not None):
                    return missing
                raise

        return destination_of(table, self.key).retry(f"dynamodb:{operation}", ask)


def _scan(request: dict[str, Any], client: Any) -> Any:
    return client.scan(**request)


def _batch_get(request: dict[str, Any], client: Any) -> Any:
    return client.batch_get_item(RequestItems=request)
