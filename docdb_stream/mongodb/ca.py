"""The certificates by which a cluster is trusted: the file that PyMongo is given."""

from __future__ import annotations

import functools
import os
import tempfile
from urllib.parse import urlsplit

from docdb_stream.errors import ConfigError


def ca_file(reference: str) -> str:
    """The path of the CA bundle that DOCUMENTDB_TLS_CA names, which is a path already, or ``s3://bucket/key``.

    Raises:
        ConfigError: There is no such file, or it cannot be fetched.
    """
    if reference.startswith("s3://"):
        return _from_s3(reference)
    if not os.path.isfile(reference):
        raise ConfigError(
            f"documentdb_tls_ca: there is no file {reference}",
            hint="for DocumentDB download https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem",
        )
    return reference


@functools.cache
def _from_s3(reference: str) -> str:
    """Fetch the bundle once per process: a Lambda's container keeps it while it is warm."""
    from docdb_stream import aws

    parts = urlsplit(reference)
    s3, bundle = aws.Service("s3"), {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}
    hint = "expected s3://bucket/key, and s3:GetObject on it"
    try:
        body = aws.patiently(lambda: s3.client.get_object(**bundle)["Body"].read())
    except (*aws.request_errors(), ValueError) as error:
        raise ConfigError(f"documentdb_tls_ca: cannot fetch {reference}: {error}", hint=hint) from error
    with tempfile.NamedTemporaryFile(prefix="docdb-stream-ca-", suffix=".pem", delete=False) as file:
        file.write(body)
    return file.name
