"""Ids, keys and signatures as Standard Webhooks has them, version 1.0.0, "Signature scheme" and "Webhook headers".

Owns what is signed and by which keys. Never shows a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence

from docdb_stream.errors import ConfigError
from docdb_stream.secret import read_text

logger = logging.getLogger(__name__)

KEY_PREFIX = "whsec_"
KEY_BYTES = range(24, 65)
"""Standard Webhooks, "Signature scheme": between 24 and 64 bytes."""

READ_AGAIN_S = 300.0
"""How soon a rotated secret is noticed; the old key signs beside the new one for longer than that."""

_HINT = "store one key or several, newest first: whsec_ and the base64 of 24 to 64 random bytes, divided by blanks"


def message_id(stream: str, event_ids: Sequence[str]) -> str:
    """The ``webhook-id`` of a request: ``msg_`` and the SHA-256 of the stream's name and the events' ids. So it is the
    same for the same events, another one for others, and without the dot that divides what is signed."""
    digest = hashlib.sha256()
    for part in (stream, *event_ids):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(encoded), encoded))
    return f"msg_{digest.hexdigest()}"


def signature(keys: Sequence[bytes], message: str, timestamp: int, body: bytes) -> str:
    """The ``webhook-signature``: one for each key, in their order."""
    content = b"%b.%d.%b" % (message.encode(), timestamp, body)
    digests = (hmac.digest(key, content, "sha256") for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def parse_keys(text: str) -> tuple[bytes, ...]:
    """The keys of a secret: divided by blanks or line ends, or a JSON list.

    Raises:
        ValueError: It holds none, or something else; the message shows nothing of it.
    """
    words: object = text.split()
    if text.strip().startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            raise ValueError("it is no valid JSON list") from None
    if not isinstance(words, list) or not words:
        raise ValueError("it holds no key")
    return tuple(_key(word, number) for number, word in enumerate(words, 1))


def _key(word: object, number: int) -> bytes:
    if not isinstance(word, str) or not word.startswith(KEY_PREFIX):
        raise ValueError(f"key {number} does not begin with {KEY_PREFIX}")
    encoded = word.removeprefix(KEY_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):  # ValueError: it is not ASCII
        raise ValueError(f"key {number} is not base64 after {KEY_PREFIX}") from None
    if len(key) not in KEY_BYTES:
        raise ValueError(f"key {number} has {len(key)} bytes, not {KEY_BYTES.start} to {KEY_BYTES.stop - 1}")
    return key


class Keys:
    """The keys that a secret holds, read when they are first needed and every READ_AGAIN_S. For several threads.

    Args:
        reference: Where they are, as ``read_text`` takes it.
        clock: A monotonic one, in seconds.

    Raises:
        ConfigError: ``reference`` is a key itself.
    """

    def __init__(self, reference: str, clock: Callable[[], float] = time.monotonic) -> None:
        if reference.startswith((KEY_PREFIX, "[")):  # not shown
            raise ConfigError("WEBHOOK_SECRET is a key itself", hint="say where it is: env:NAME, file:PATH or a secret")
        self._reference = reference
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: tuple[bytes, ...] = ()
        self._read_at_s = 0.0

    def current(self) -> tuple[bytes, ...]:
        """The keys, newest first. Those that are known serve on where the secret cannot be read again.

        Raises:
            ConfigError: It cannot be read at all, or holds something else.
        """
        with self._lock:
            if self._keys and self._clock() < self._read_at_s + READ_AGAIN_S:
                return self._keys
            try:
                self._keys = self._read()
            except ConfigError as error:
                if not self._keys:
                    raise
                logger.warning("the keys cannot be read again, the known ones serve on", extra={"error": str(error)})
            self._read_at_s = self._clock()
            return self._keys

    def forget(self) -> None:
        """Have the next request read them anew."""
        with self._lock:
            self._keys = ()

    def _read(self) -> tuple[bytes, ...]:
        try:
            return parse_keys(read_text(self._reference))
        except ValueError as error:
            raise ConfigError(f"WEBHOOK_SECRET {self._reference}: {error}", hint=_HINT) from None
