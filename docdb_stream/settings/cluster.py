"""What can be set about the cluster, the state and what is watched.

Owns names, types, defaults and meaning of these keys of a stream. ``stream`` puts them together.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from docdb_stream.settings.model import Heading, SettingsModel
from docdb_stream.settings.types import Address, CollectionName, DatabaseName, SecretReference, WatchedDatabase

NO_CLUSTER = "read-by-lambda"
"""Stands for the cluster's address where another one reads it, and pushes what it has read."""
TABLES_DATABASE = "dynamodb"
"""The database of the namespaces of DynamoDB tables: the collection is the table."""


class ClusterSettings(SettingsModel):
    """The cluster, the state in it, and what is watched."""

    documentdb_uri: Annotated[str, Heading("The cluster"), Address("documentdb_secret")] = Field(
        min_length=1,
        description="MongoDB connection string of the replica set or DocumentDB cluster. A host name alone is taken as "
        "an Amazon DocumentDB cluster endpoint (TLS, replica set rs0, port 27017). No password here: see "
        "documentdb_secret. readPreference says where the stream is read; the state is always the primary's. The "
        "options maxPoolSize, timeoutMS and retryWrites are not used, and a socketTimeoutMS below 5000 counts as 5000.",
        examples=["mongodb://127.0.0.1:27017/?replicaSet=rs0"],
    )
    documentdb_secret: SecretReference = Field(
        default=None,
        description='Where user name and password are, as JSON {"username": "...", "password": "..."}: the name or ARN '
        "of a Secrets Manager secret, env:NAME or file:PATH. Absent: those of the connection string, if any.",
        examples=["docdb/stream-reader"],
    )
    documentdb_tls_ca: str | None = Field(
        default=None,
        description="CA bundle for TLS: a path or s3://bucket/key, fetched once per process. Setting it turns TLS on. "
        "Absent: TLS as the connection string says, with the system's CAs.",
        examples=["s3://my-bucket/global-bundle.pem"],
    )

    state_db: Annotated[
        DatabaseName, Heading("The state: one collection keeps the checkpoints of all streams of a cluster")
    ] = Field(default="docdb_stream", min_length=1, description="Database of the checkpoints.")
    state_collection: CollectionName = Field(
        default="checkpoints",
        min_length=1,
        description="Collection of the checkpoints; rejected events go to the collection of this name + "
        '"_dead_letters".',
    )

    watched_db_name: WatchedDatabase | None = Field(
        default=None, description="The watched database. Absent: the whole deployment.", examples=["shop"]
    )
    watched_collection_name: CollectionName | None = Field(
        default=None,
        description="The watched collection. Absent: every collection of the database.",
        examples=["orders"],
    )
    stream_name: str = Field(
        default="",
        description="Names the stream and its checkpoint. In a section [stream NAME] it is NAME. Absent: db.coll, db.* "
        "or *, after what is watched.",
        examples=["shop.orders"],
    )
