"""The catalog: how it is reached, what it raises, and the table of a collection in it."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any, Final

from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.position import Namespace
from docdb_stream.targets._iceberg.change_log import first_fields, partition_by

NAME: Final = "default"
"""The catalog's own name, by which a SQL catalog tells its tables from others'; pyiceberg's, where none is given."""

_AWKWARD: Final = re.compile(r"[^A-Za-z0-9_]")
"""What stands in names of Glue and Athena only with quotes (Athena user guide, "Name databases, tables, and columns");
and a ``?`` in a path is a query to pyiceberg, which then writes all files of a table to one place."""
_NAME_LENGTH: Final = 120
"""Characters: a folder's name has 255 bytes at most, Glue's names as many characters."""


class Catalog:
    """A catalog, by pyiceberg.

    Args:
        where: ``glue``, ``https://HOST``, ``sqlite:////PATH`` or ``postgresql://HOST/DATABASE``.
        warehouse: Where new tables are.
        namespace: Of the tables; None: a collection's database.

    Raises:
        ConfigError: It is none of these.
    """

    def __init__(self, where: str, warehouse: str | None, namespace: str | None) -> None:
        self._properties = {**_kind(where), **_storage()}
        if warehouse is not None:
            self._properties["warehouse"] = warehouse
        self._namespace = namespace
        self._made: Any = None

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What pyiceberg, and what it uses, raise of a catalog or a storage that does not do what is asked."""
        from botocore.exceptions import BotoCoreError, ClientError
        from pyarrow import ArrowException
        from pyiceberg.exceptions import (
            CommitFailedException,
            CommitStateUnknownException,
            NoSuchNamespaceError,
            NoSuchTableError,
            RESTError,
        )
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        return (
            *(CommitFailedException, CommitStateUnknownException, NoSuchNamespaceError, NoSuchTableError, RESTError),
            *(BotoCoreError, ClientError, ArrowException, RequestException, SQLAlchemyError, OSError),
        )

    def failure(self, target: str, error: Exception) -> TargetError:
        """What such an error means, without what was written."""
        from pyiceberg.exceptions import CommitFailedException

        if isinstance(error, CommitFailedException):
            hint = "nothing is lost, the next run goes on: let only one stream, and no other writer, commit to a table"
            return TargetError(target, "others commit to the table all the time", hint=hint)
        return TargetError(
            target,
            f"the catalog or the storage refuses: {type(error).__name__}",
            hint="nothing is lost, the next run goes on. Is ICEBERG_CATALOG reached from here, may this role write to "
            "ICEBERG_WAREHOUSE, and is there room?",
        )

    def ask(self) -> None:
        """See that it answers."""
        self._catalog().list_namespaces()

    def table(self, namespace: Namespace) -> Any:
        """A collection's table, made where there is none."""
        from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError

        name = self.name_of(namespace)
        catalog = self._catalog()
        try:
            return catalog.load_table(name)
        except NoSuchTableError:
            pass
        catalog.create_namespace_if_not_exists(name[:-1])
        try:
            return catalog.create_table(
                name,
                schema=first_fields(),
                partition_spec=partition_by(),
                # A commit that is tried again on a newer state of the table would not see who has written that.
                properties={"commit.retry.num-retries": "0", "format-version": "2"},
            )
        except TableAlreadyExistsError:  # another stream's run was faster
            return catalog.load_table(name)

    def name_of(self, namespace: Namespace) -> tuple[str, str]:
        """A collection's table. What is about a database, or about nothing, has one of its own."""
        coll = namespace.coll or "_"
        if self._namespace is None:
            return self._accepted(namespace.db or "_"), self._accepted(coll)
        return self._namespace, self._accepted(f"{namespace.db or '_'}_{coll}")

    def _accepted(self, name: str) -> str:
        """A name as every catalog, and every path, has it; one that has to be changed ends with a hash of all of it."""
        accepted = _AWKWARD.sub("_", name)[:_NAME_LENGTH]
        if self._properties["type"] == "glue":
            accepted = accepted.lower()
        if accepted == name:
            return name
        return f"{accepted}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    def _catalog(self) -> Any:
        if self._made is None:
            from pyiceberg.catalog import load_catalog

            self._made = load_catalog(NAME, **self._properties)
        return self._made


def _kind(where: str) -> dict[str, str]:
    if where == "glue":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_GLUE") or os.environ.get("AWS_ENDPOINT_URL")
        return {"type": "glue"} | ({"glue.endpoint": endpoint} if endpoint else {})
    if where.startswith(("https://", "http://")):
        return {"type": "rest", "uri": where}
    if where.startswith(("sqlite:", "postgresql:", "postgresql+psycopg:")):
        return {"type": "sql", "uri": where.replace("postgresql://", "postgresql+psycopg://", 1)}
    raise ConfigError(
        f"ICEBERG_CATALOG {where.partition(':')[0]!r} is no catalog that is known",
        hint="expected glue, https://HOST, sqlite:////PATH or postgresql://HOST/DATABASE",
    )


def _storage() -> dict[str, str]:
    """S3 as boto3 finds it: pyarrow's own S3 client knows the credentials, and no endpoint."""
    found = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        found |= {"s3.endpoint": endpoint, "s3.force-virtual-addressing": "false"}
    if region:
        found["s3.region"] = region
    return found
