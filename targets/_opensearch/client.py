"""Requests to an OpenSearch domain: where it is, how to sign in, and what is worth another attempt."""

from __future__ import annotations

import base64
import re
import threading
from typing import Any, Literal
from urllib.parse import urlsplit

from docdb_stream.context import check_lease, current_deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.retry import Backoff
from docdb_stream.secret import read_credentials
from docdb_stream.settings.model import without_secrets
from docdb_stream.targets._client import import_client, tls_context

_REQUEST_S = 30.0
"""How long one request may take: opensearch-py's 10 s are short for 10 MiB at a busy domain."""
_AWS_HOST = re.compile(r"\.(?P<region>[a-z0-9-]+)\.(?:es|aoss)\.amazonaws\.com(?:\.cn)?$|\.amazonaws\.com(?:\.cn)?$")


class ResponseError(Exception):
    """OpenSearch refused a request as a whole, for a reason that another attempt does not change."""

    def __init__(self, status: int, kind: str) -> None:
        super().__init__(f"{status} {kind}")
        self.status = status
        self.type = kind


class OpenSearchClient:
    """opensearch-py's transport, connected at the first request.

    Args:
        target: The target's name, for errors.
        uri: As ``OpenSearchTarget`` takes it, and so are the others.
        auth: How to sign in.
        secret: Credentials for basic, read when connecting.
        service: The service that sigv4 signs for.
        tls_ca: Path of the CA bundle.
        connections: Requests side by side, at most; it can be used by as many threads.

    Raises:
        ConfigError: opensearch-py is not installed, or the arguments make no sense.
    """

    def __init__(
        self,
        target: str,
        uri: str,
        *,
        auth: Literal["none", "basic", "sigv4"] | None,
        secret: str | None,
        service: Literal["es", "aoss"],
        tls_ca: str | None,
        connections: int = 1,
    ) -> None:
        self._library: Any = import_client("opensearchpy", "opensearch", "opensearch", "opensearchpy.trace")
        self._target = target
        self._host, is_aws = _host(uri)
        self._tls = tls_context(tls_ca) if self._host["use_ssl"] else None
        self._auth = auth or ("basic" if secret else "sigv4" if is_aws else "none")
        if self._auth == "basic" and secret is None:
            raise ConfigError("OPENSEARCH_AUTH basic needs credentials", hint="set OPENSEARCH_SECRET")
        self._secret = secret
        self._service = service
        self._connections = connections
        self._connecting = threading.Lock()
        self._client: Any = None

    def request(self, method: str, path: str, body: bytes | None = None, backoff: Backoff | None = None) -> Any:
        """Send a request and return the decoded answer; again and again while the domain is unreachable or too busy.

        Raises:
            ResponseError: The domain refused it.
            TargetError: There was no answer in time, or TLS failed.
        """
        backoff = backoff or Backoff()
        errors = self._library.exceptions
        headers = {"content-type": "application/x-ndjson" if path.startswith("/_bulk") else "application/json"}
        while True:
            check_lease()
            timeout_s = max(1.0, min(_REQUEST_S, current_deadline().remaining_s))
            try:
                transport = self._connected().transport
                return transport.perform_request(method, path, body=body, headers=headers, timeout=timeout_s)
            except errors.SSLError as error:
                hint = "check OPENSEARCH_TLS_CA, and that the URI's host is the one in the certificate"
                raise TargetError(self._target, f"TLS failed: {error.error}", hint=hint) from error
            except errors.ConnectionError as error:  # a time-out, too
                if not backoff.wait():
                    raise TargetError(
                        self._target,
                        f"{self._host['host']} does not answer: {error.error}",
                        hint="check ELASTICSEARCH_URI, and that network and security groups let this machine in",
                    ) from error
            except errors.TransportError as error:
                if error.status_code != 429 and error.status_code < 500:
                    raise ResponseError(error.status_code, str(error.error)[:200]) from error
                if not backoff.wait():
                    raise self.too_busy() from error
            except errors.OpenSearchException as error:
                hint = "see that ELASTICSEARCH_URI is an OpenSearch or Elasticsearch domain"
                raise TargetError(self._target, "the answer is not OpenSearch's", hint=hint) from error

    def refused(self, status: int, kind: str, index: str = "") -> TargetError:
        """The error for a refusal that no document is to blame for."""
        if status in (401, 403):
            self.close()  # the next attempt reads the credentials anew
            hint = "check OPENSEARCH_AUTH, OPENSEARCH_SECRET, and that this user or role may write to the index"
        elif status == 404:
            hint = f"create the index {index}, or let OpenSearch create indexes (action.auto_create_index)"
        else:
            hint = "see to the index or the domain; the next run sends again"
        return TargetError(self._target, f"{status} {kind}" + (f", index {index}" if index else ""), hint=hint)

    def too_busy(self) -> TargetError:
        """The error for a domain that kept answering "later" until patience or the run ended."""
        hint = "give the domain larger instances, or lower BATCH_SIZE; the next run sends again"
        return TargetError(self._target, "the domain is too busy", hint=hint)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        signer, headers = None, {}
        if self._auth == "sigv4":
            signer = self._signer()
        elif self._auth == "basic" and self._secret is not None:
            credentials = read_credentials(self._secret)
            pair = f"{credentials.username}:{credentials.password}".encode()
            headers = {"authorization": "Basic " + base64.b64encode(pair).decode()}
        return self._library.OpenSearch(
            hosts=[self._host],
            http_auth=signer,
            headers=headers,
            ssl_context=self._tls,
            pool_maxsize=self._connections,
            max_retries=0,  # retrying is Backoff's
        )

    def _signer(self) -> Any:
        from docdb_stream import aws

        session = aws.session()
        credentials = session.get_credentials()
        known = _AWS_HOST.search(self._host["host"])
        region = (known and known["region"]) or session.region_name
        if credentials is None or region is None:
            missing = "credentials" if credentials is None else "region"
            raise ConfigError(
                f"OPENSEARCH_AUTH sigv4: no AWS {missing} found", hint="set AWS_REGION, or credentials as for boto3"
            )
        return self._library.Urllib3AWSV4SignerAuth(credentials, region, self._service)


def _host(uri: str) -> tuple[dict[str, Any], bool]:
    """opensearch-py's description of a host, and whether it is one of AWS."""
    if without_secrets(uri) != uri:  # before anything that could repeat a part of it
        raise _credentials()
    try:
        url = urlsplit(uri if "://" in uri else f"https://{uri}")
        port = url.port
    except ValueError as error:
        raise ConfigError(f"ELASTICSEARCH_URI: {error}", hint="give https://host") from error
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError("ELASTICSEARCH_URI is not an address", hint="give https://host")
    if url.username:
        raise _credentials()
    secure = url.scheme == "https"
    host = {
        "host": url.hostname,
        "port": port or (443 if secure else 9200),
        "use_ssl": secure,
        "url_prefix": url.path.strip("/"),
    }
    return host, _AWS_HOST.search(url.hostname) is not None


def _credentials() -> ConfigError:
    return ConfigError("ELASTICSEARCH_URI holds credentials", hint="put them where OPENSEARCH_SECRET names")
