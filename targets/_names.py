"""Names that a service accepts, made from namespaces that it would not always accept."""

from __future__ import annotations

import hashlib


def distinct_name(original: str, accepted: str, max_bytes: int) -> str:
    """``original`` where the service accepts it, else a name as near to it that no other original shares.

    A changed name ends in ``-`` and eight hexadecimal digits of the original's SHA-256, so that ``shop.Orders`` and
    ``shop.orders`` never end up in one place unnoticed.

    Args:
        original: The wanted name.
        accepted: The wanted name with everything replaced that the service does not accept.
        max_bytes: The service's limit, in bytes of UTF-8.
    """
    if accepted == original and len(original.encode()) <= max_bytes:
        return original
    suffix = "-" + hashlib.sha256(original.encode()).hexdigest()[:8]
    return accepted.encode()[: max_bytes - len(suffix)].decode(errors="ignore") + suffix
