"""The client libraries that come with optional extras: imported when a target is constructed, and kept quiet."""

from __future__ import annotations

import importlib
import logging
import ssl
import warnings
from types import ModuleType

from docdb_stream.errors import ConfigError, install_hint


def import_client(module: str, extra: str, *loggers: str) -> ModuleType:
    """Import a target's client library.

    What the library has to say, the target says in its errors; the library's own log lines would repeat it, some with
    documents in them. They are left out, unless a level was set for its loggers.

    Args:
        module: The library's module.
        extra: The extra of this package that installs it.
        loggers: The library's loggers, without those below them.

    Raises:
        ConfigError: It is not installed; the hint is the command which installs it.
    """
    try:
        with warnings.catch_warnings():
            # kafka-python 3 reads its schemas by importlib.resources.read_text, deprecated in Python 3.11 and 3.12.
            warnings.simplefilter("ignore", DeprecationWarning)
            client = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(
            f"{module} is not installed, which the extra {extra} brings", hint=install_hint(extra)
        ) from None
    for logger in map(logging.getLogger, loggers):
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL + 1)
    return client


def tls_context(ca: str | None) -> ssl.SSLContext:
    """A TLS context that verifies the server, by the CA bundle at the path ``ca`` or else by the system's.

    Raises:
        ConfigError: The bundle cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(f"cannot read the CA bundle {ca}: {error.strerror or error}") from error
