"""Redshift by its Data API: ``redshift-data://``, requests over HTTPS to AWS, no connection to the cluster.

A manifest is one transaction, in which what is next follows from what was found before: columns that are known,
whether it is loaded. ``BatchExecuteStatement`` runs its statements as one transaction, but 40 at most, and nothing can
be looked at between. So a transaction is a session (``SessionId``), which is one connection of the service's to
Redshift, with BEGIN and COMMIT as statements of their own. That temporary tables last as long as a session is
documented; of BEGIN it is not said in so many words. So before anything is written it is proven, once: a setting that
holds for the transaction alone has to be there in the next request.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from docdb_stream.aws import Service, request_errors
from docdb_stream.context import current_deadline
from docdb_stream.errors import ConfigError, OutOfTimeError, TargetError
from docdb_stream.load.redshift_answers import Answer, refused
from docdb_stream.load.redshift_connection import NAME, statement_timeout
from docdb_stream.load.redshift_login import WHY_ANY_WORKGROUP, WORKGROUPS, Login
from docdb_stream.load.redshift_sql import literal
from docdb_stream.permissions import Permission, arn
from docdb_stream.targets._aws.client import Destination

STATEMENT_BYTES: Final = 100_000
"""Redshift's management guide, "Considerations when calling the Amazon Redshift Data API": 100 KB."""
KEEP_ALIVE_S: Final = 30
"""How long the service keeps a session that nobody uses: of a load that was killed, the locks are held for so long. A
load asks again within milliseconds."""
_REUSED_S: Final = KEEP_ALIVE_S / 2
_FIRST_PAUSE_S: Final = 0.02
_LAST_PAUSE_S: Final = 1.0
"""Between two looks at a statement. The API takes 100 of them a second, by the quotas of an account."""
_CANCEL_S: Final = 0.5
"""How much time is left for cancelling what runs when the load's is over."""
_GROUP: Final = "docdb_stream"
_VALUES: Final = re.compile(r'"[^"]*"|%s')
"""Where a value goes; not within the name of something."""
_EXPECTED: Final = (
    "expected redshift-data://WORKGROUP/DATABASE, or redshift-data://CLUSTER/DATABASE?cluster=true, with USER@ before "
    "CLUSTER for a user of the database"
)

logger = logging.getLogger(__name__)


class DataApi:
    """See ``Connection``.

    Args:
        uri: ``redshift-data://WORKGROUP/DATABASE`` or ``redshift-data://[USER@]CLUSTER/DATABASE?cluster=true``.
        secret: Name or ARN of a Secrets Manager secret with the user and password; without, IAM says who loads.

    Raises:
        ConfigError: The URI is none, or the secret is elsewhere.
    """

    def __init__(self, uri: str, *, secret: str | None = None) -> None:
        self._whose = _parsed(uri, secret)
        self._service = Service("redshift-data")
        self._session: str | None = None
        self._used_at_s = 0.0
        self._holds_transactions = False
        name = self._whose.get("WorkgroupName") or self._whose["ClusterIdentifier"]
        self._destination = Destination(
            target=NAME,
            what=f"Redshift Data API, {name}",
            variable="WAREHOUSE_URI",
            create="aws redshift-serverless create-workgroup",
            capacity="the next load goes on",
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See ``Connection``."""
        if time.monotonic() - self._used_at_s > _REUSED_S:
            self._session = None
        try:
            self.run(statement_timeout())
            self.run("BEGIN")
            self._prove()
            yield
            self.run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def run(self, statement: str, *values: object) -> None:
        """See ``Connection``."""
        self._finished(statement, values)

    def rows(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        """See ``Connection``."""
        found = self._finished(statement, values)
        rows: list[Sequence[Any]] = []
        more: dict[str, str] = {}
        while found.get("HasResultSet"):
            answer = self._ask("GetStatementResult", "get_statement_result", Id=found["Id"], **more)
            rows += [[_value(field) for field in record] for record in answer["Records"]]
            if not answer.get("NextToken"):
                break
            more = {"NextToken": answer["NextToken"]}
        return rows

    def close(self) -> None:
        """See ``Connection``. The service ends the session by itself: there is no request for that."""
        self._session = None

    def permissions(self) -> list[Permission]:
        """What its requests take; the secret apart, which others know of."""
        login = Login(
            self._whose["Database"],
            self._whose.get("WorkgroupName"),
            self._whose.get("ClusterIdentifier"),
            self._whose.get("DbUser"),
        )
        begin = ("redshift-data:ExecuteStatement",)
        found = [
            Permission(begin, (WORKGROUPS,), WHY_ANY_WORKGROUP)
            if login.workgroup
            else Permission(begin, (arn("redshift", f"cluster:{login.cluster}"),)),
            Permission(
                tuple(
                    f"redshift-data:{action}"
                    for action in ("CancelStatement", "DescribeStatement", "GetStatementResult")
                ),
                ("*",),
                "These take no resource; the condition leaves the statements that the role itself has begun.",
                conditions=(("StringEquals", {"redshift-data:statement-owner-iam-userid": "${aws:userid}"}),),
            ),
        ]
        return found if "SecretArn" in self._whose else [*found, login.permission()]

    def _prove(self) -> None:
        if self._holds_transactions:
            return
        self.run(f"SET LOCAL query_group TO {literal(_GROUP)}")
        if self.rows("SELECT current_setting('query_group')") != [[_GROUP]]:
            raise TargetError(
                NAME,
                "the Data API keeps no transaction from one statement of a session to the next",
                hint="nothing was written; load by redshift:// instead, and tell docdb-stream's authors",
            )
        self._holds_transactions = True

    def _roll_back(self) -> None:
        """Let go of the locks at once, where that can be asked for; else they go with the session."""
        session, self._session = self._session, None
        if session is not None:
            self._once(lambda: self._service.client.execute_statement(Sql="ROLLBACK", SessionId=session))

    def _finished(self, statement: str, values: Sequence[object]) -> dict[str, Any]:
        """What the service says of a statement that has run."""
        left = iter(values)
        text = _VALUES.sub(lambda found: literal(next(left)) if found[0] == "%s" else found[0], statement)
        size = len(text.encode())
        if size > STATEMENT_BYTES:
            raise TargetError(
                NAME,
                f"a statement has {size} bytes, and the Data API takes {STATEMENT_BYTES}",
                hint="a collection has too many fields for it: load by redshift://, or leave some out (FIELDS_DROP)",
            )
        session: dict[str, Any] = {"SessionId": self._session}
        if self._session is None:
            session = {**self._whose, "SessionKeepAliveSeconds": KEEP_ALIVE_S}
        # With a token of its own the service takes it once, however often it is sent.
        token = str(uuid.uuid4())
        begun = self._ask("ExecuteStatement", "execute_statement", Sql=text, ClientToken=token, **session)
        self._session = begun.get("SessionId", self._session)
        found = self._waited(begun["Id"])
        self._used_at_s = time.monotonic()
        return found

    def _waited(self, statement: str) -> dict[str, Any]:
        limit = current_deadline()
        pause_s = _FIRST_PAUSE_S
        while True:
            found: dict[str, Any] = self._ask("DescribeStatement", "describe_statement", Id=statement)
            if found["Status"] == "FINISHED":
                return found
            if found["Status"] == "FAILED":
                raise refused(Answer("", found.get("Error", "")))
            if found["Status"] == "ABORTED":
                raise refused(Answer("57014", "the statement was cancelled"))
            if limit.stopping or limit.remaining_s < _CANCEL_S:
                self._once(lambda: self._service.client.cancel_statement(Id=statement))
                hint = "nothing is lost, the next load goes on: give it more time"
                raise OutOfTimeError(NAME, "the load's time was over, and its statement is cancelled", hint=hint)
            limit.pause(pause_s)
            pause_s = min(_LAST_PAUSE_S, 1.5 * pause_s)

    def _ask(self, action: str, method: str, **parameters: Any) -> Any:
        return self._destination.retry(
            f"redshift-data:{action}", lambda: getattr(self._service.client, method)(**parameters)
        )

    @staticmethod
    def _once(request: Callable[[], object]) -> None:
        try:
            request()
        except request_errors() as error:
            logger.debug("left to the end of the session: error=%s", type(error).__name__)


def _value(field: dict[str, Any]) -> Any:
    return None if field.get("isNull") else next(iter(field.values()))


def _parsed(uri: str, secret: str | None) -> dict[str, str]:
    """Whose database it is, in the words of ExecuteStatement.

    Raises:
        ConfigError: The URI is none, or the secret is elsewhere.
    """
    try:
        parts = urlsplit(uri)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        has_more = parts.port is not None or parts.password is not None
    except ValueError as error:
        raise ConfigError("WAREHOUSE_URI is no address", hint=_EXPECTED) from error
    database = unquote(parts.path.strip("/"))
    is_cluster = query.pop("cluster", "false") == "true"
    if query or has_more or not parts.hostname or not database or (parts.username and not is_cluster):
        raise ConfigError("WAREHOUSE_URI is no address for Redshift's Data API", hint=_EXPECTED)
    found = {"Database": database, "ClusterIdentifier" if is_cluster else "WorkgroupName": parts.hostname}
    if secret is not None:
        if secret.startswith(("env:", "file:")) or parts.username:
            raise ConfigError(
                "the Data API reads WAREHOUSE_SECRET itself, from Secrets Manager, and the user is in it",
                hint="name a secret of Secrets Manager, or leave it out: IAM says who loads",
            )
        return {**found, "SecretArn": secret}
    return {**found, "DbUser": unquote(parts.username)} if parts.username else found
