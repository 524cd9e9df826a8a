"""What indexes are called in OpenSearch."""

from __future__ import annotations

import re

from docdb_stream.position import Namespace
from docdb_stream.targets._names import distinct_name

# OpenSearch, MetadataCreateIndexService.validateIndexOrAliasName; a colon has been refused since Elasticsearch 7.
_FORBIDDEN = re.compile(r'[\\/*?"<>| ,#:]')
_INDEX_BYTES = 255


def index_name(prefix: str, name: Namespace | str) -> str:
    """The index of a collection: ``prefix`` and ``db-coll``, or the name that a template made; one that OpenSearch
    accepts.

    That is lower case, without ``\\ / * ? " < > | , # :`` and spaces (they become ``_``), not starting with ``-``,
    ``_`` or ``+``, and at most 255 bytes. A changed name gets a hash at its end (see ``distinct_name``), so
    ``shop.Orders`` has another index than ``shop.orders``. Only hyphens are ambiguous: ``a-b.c`` and
    ``a.b-c`` share one.
    """
    original = prefix + (name if isinstance(name, str) else name.label)
    accepted = _FORBIDDEN.sub("_", original.lower()).lstrip("-_+")
    return distinct_name(original, "index" if accepted in ("", ".", "..") else accepted, _INDEX_BYTES)
