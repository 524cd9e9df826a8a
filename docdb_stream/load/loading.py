"""Loads the manifests of a stream that are not loaded yet into its warehouse, one after the other.

Owns the order, and when it ends. What a load is, is the warehouse's matter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from docdb_stream.context import Deadline, NoAnswerError, answer_in_time, current_deadline, deadline
from docdb_stream.errors import ConfigError, OutOfTimeError
from docdb_stream.load.manifest import Manifests
from docdb_stream.load.warehouse import Loaded, Warehouse
from docdb_stream.settings import Settings

if TYPE_CHECKING:
    from docdb_stream.load.redshift_connection import Connection

logger = logging.getLogger(__name__)

T = TypeVar("T")

LEAST_S = 1.0
"""How much time has to be left for another manifest to be begun."""


@dataclass(slots=True)
class LoadResult:
    """What a load did.

    Attributes:
        stream: The stream's name.
        manifests: How many were loaded.
        waiting: How many are left, as the time was over.
        loaded: What they have changed, together.
        duration_s: Seconds it took.
    """

    stream: str
    manifests: int = 0
    waiting: int = 0
    loaded: Loaded = field(default_factory=Loaded)
    duration_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        found = {"stream": self.stream, "manifests": self.manifests, "waiting": self.waiting}
        return {**found, **asdict(self.loaded), "duration_s": self.duration_s}


def load(
    settings: Settings,
    *,
    limit: Deadline | None = None,
    progress: Callable[[LoadResult], None] = lambda result: None,
    warehouse: Warehouse | None = None,
) -> LoadResult:
    """Load what is not loaded yet, in the order of the stream's checkpoints. Each manifest is loaded wholly or not at
    all, so a load that ends on its way is gone on with by the next one.

    Args:
        settings: The stream.
        limit: When to be over, and the stop; between two manifests it ends in order.
        progress: Called after each manifest with the result so far.
        warehouse: Instead of the one in the settings; its owner closes it.

    Raises:
        ConfigError: The stream has no warehouse, or leaves no manifests.
        TargetError: The bucket or the warehouse cannot be reached, or refuses. What was loaded stays.
    """
    limit = limit or Deadline()
    began_s = time.monotonic()
    result = LoadResult(settings.stream_name)
    with deadline(limit):
        manifests = Manifests(settings)
        own = warehouse_of(settings) if warehouse is None else None
        into = warehouse or own
        assert into is not None
        try:
            try:
                done = _answered(lambda: into.loaded(settings.stream_name))
            except OutOfTimeError:
                if limit.stopping:  # nothing has begun yet
                    return result
                raise
            waiting = [key for key in manifests.listed() if key not in done]
            result.waiting = len(waiting)
            for key in waiting:
                if limit.stopping or limit.remaining_s < LEAST_S:
                    break
                manifest = manifests.read(key)
                try:
                    found = _answered(lambda: into.load(settings.stream_name, manifest, manifests.open))  # noqa: B023
                except OutOfTimeError:
                    if current_deadline().stopping:  # nothing of it is loaded; the next load begins with it
                        break
                    raise
                result.waiting -= 1
                if found is not None:
                    result.manifests += 1
                    result.loaded.add(found)
                    logger.info("loaded: stream=%s manifest=%s rows=%d", settings.stream_name, key, found.rows)
                result.duration_s = round(time.monotonic() - began_s, 3)
                progress(result)
        finally:
            manifests.close()
            if own is not None and limit.remaining_s > 0 and not limit.stopping:
                own.close()  # else the process ends, or somebody may still wait in it
    result.duration_s = round(time.monotonic() - began_s, 3)
    return result


def _answered(ask: Callable[[], T]) -> T:
    """What a warehouse answers, by the deadline or soon after a stop: a server that has stopped answering says nothing
    of a connection that it holds open. What it does later is harmless: a manifest is loaded wholly, and once.

    Raises:
        OutOfTimeError: It has not answered.
    """
    try:
        return answer_in_time(ask)
    except NoAnswerError as error:
        raise OutOfTimeError(
            "warehouse", "it had not answered when the time was over", hint="nothing is lost: the next load goes on"
        ) from error


def warehouse_of(settings: Settings) -> Warehouse:
    """The warehouse of a stream.

    Raises:
        ConfigError: It has none, or of a kind that is not known.
    """
    uri = settings.warehouse_uri
    if uri is None:
        raise ConfigError(
            f"stream {settings.stream_name} has no warehouse", hint="set WAREHOUSE_URI = postgresql://HOST/DATABASE"
        )
    if uri.startswith(("postgresql://", "postgres://")):
        from docdb_stream.load.postgres import Postgres

        return Postgres(
            uri, secret=settings.warehouse_secret, schema=settings.warehouse_schema, watches=settings.watches
        )
    if uri.startswith(("redshift://", "redshift-data://")):
        from docdb_stream.load.redshift import Redshift
        from docdb_stream.load.staging import Staging

        return Redshift(
            _connection_to(uri, settings.warehouse_secret),
            Staging(settings),
            role=settings.warehouse_copy_role,
            schema=settings.warehouse_schema,
            watches=settings.watches,
        )
    raise ConfigError(
        f"WAREHOUSE_URI begins with {uri.partition(':')[0]}:, which is no warehouse that is known",
        hint="expected postgresql://HOST/DATABASE, redshift://HOST:5439/DATABASE or redshift-data://WORKGROUP/DATABASE",
    )


def _connection_to(uri: str, secret: str | None) -> Connection:
    """The way to Redshift that a URI means."""
    if uri.startswith("redshift-data://"):
        from docdb_stream.load.redshift_data import DataApi

        return DataApi(uri, secret=secret)
    from docdb_stream.load.redshift_wire import Wire

    return Wire(uri, secret=secret)
