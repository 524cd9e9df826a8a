"""What can be set about what of the events is delivered, and how it is written.

Owns names, types, defaults and meaning of these keys of a stream. ``stream`` puts them together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from docdb_stream.settings.model import Heading
from docdb_stream.settings.reading import ReadingSettings
from docdb_stream.settings.types import FormatName, FunctionPath, SecretReference, Words


class ShapingSettings(ReadingSettings):
    """And what is delivered of it: which events, which fields, in which format."""

    operations: Annotated[Words, Heading("What is delivered")] = Field(
        default=(),
        description="Only these operations, with commas: insert, update, replace, delete, drop, rename, dropDatabase, "
        "invalidate. Absent: all.",
        examples=["insert, update, replace, delete"],
    )
    namespaces: Words = Field(
        default=(),
        description="Only these collections, with commas, each as db.coll; * stands for any text. Watch their database "
        "or the whole deployment for it. Absent: all that is watched.",
        examples=["shop.orders, shop.invoices_*"],
    )
    match: str | None = Field(
        default=None,
        description="Only events that match, in MongoDB's query language over the change event, as Extended JSON. "
        "Events without a document (delete, drop, ...) always pass. Absent: all.",
        examples=['{"fullDocument.total": {"$gte": 100}}'],
    )
    on_exit: Literal["delete", "ignore"] | None = Field(
        default=None,
        description="What becomes of an update after which the document does not match any more: delete (a delete of "
        "its key is delivered), or ignore. Absent: delete where match is about the document and a target keeps "
        "documents by their key (OpenSearch, MongoDB), else ignore.",
        examples=["ignore"],
    )
    filter_at: Literal["auto", "server", "client"] = Field(
        default="auto",
        description="Who leaves events out. client: docdb-stream, which counts them. server: the cluster, which spares "
        "the network but tells no count. auto: the server for namespaces where that is safe, docdb-stream for the "
        "rest.",
    )
    fields_keep: Words = Field(
        default=(),
        description="Only these fields of documents, with commas, as dotted paths; _id always stays. Absent: all.",
        examples=["customer.id, total, items.sku"],
    )
    fields_drop: Words = Field(
        default=(),
        description="Fields that are left out, with commas, as dotted paths. Absent: none.",
        examples=["customer.notes"],
    )
    fields_mask: Words = Field(
        default=(),
        description='Fields whose values become "***", with commas, as dotted paths. Absent: none.',
        examples=["customer.card, items.card"],
    )
    fields_hash: Words = Field(
        default=(),
        description="Fields whose values become their HMAC-SHA-256, by which equal ones can still be told, with "
        "commas, as dotted paths. Absent: none.",
        examples=["customer.email"],
    )
    fields_hash_key: SecretReference = Field(
        default=None,
        description="Where the key for fields_hash is: the name or ARN of a Secrets Manager secret, env:NAME or "
        "file:PATH. Needed for fields_hash.",
        examples=["env:HASH_KEY"],
    )
    transform: FunctionPath | None = Field(
        default=None,
        description="A Python function of your own that each event goes through last, as package.module:function. It "
        "takes a ChangeEvent and returns one, None, or several. See docs/steps.md. Absent: none.",
        examples=["shop_stream.rules:enrich"],
    )
    transform_seconds: float = Field(
        default=30,
        gt=0,
        le=900,
        description="Seconds that the function may take for the events of one batch, up to 900. After that the run "
        "ends with an error, and the next one tries again.",
    )
    payload_format: FormatName = Field(
        default="extended",
        description="extended: the whole change event as relaxed MongoDB Extended JSON v2. document: the AWS sample's "
        "payload. Or the name of another format, see docs/formats.md. A target can have its own. OpenSearch always "
        "takes plain JSON documents.",
    )
