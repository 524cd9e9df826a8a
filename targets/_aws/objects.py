"""The objects that S3's target is making: what is in them until they are uploaded.

Owns how much of it is in memory. When an object begins and ends, and its name, are the target's.
"""

from __future__ import annotations

import zlib
from tempfile import SpooledTemporaryFile
from typing import Any, Protocol

from docdb_stream.format import FileFormat, FileWriter, Whole

_COMPRESS_BYTES = 256 * 1024
"""As much as zlib's own state takes (zlib.h, deflateInit2): collections with fewer bytes than that, and a stream may
have thousands of them, are compressed at the end, so that memory stays in proportion to what is held."""
_IN_MEMORY_BYTES = 4 * 1024 * 1024
"""Compressed bytes of one object that are held in memory; beyond, they are in a temporary file."""
_ISAL_LEVEL = 2
"""Of ISA-L, if it is there (the extra s3): a fifth of the time that zlib takes at its level 3, for the same size."""
_ZLIB_LEVEL = 3
"""Twice as fast as zlib's default of 6, which would be the slowest step of all, for objects that are a tenth larger."""
_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""zlib manual, deflateInit2: 16 added means a gzip header, in which the time is 0: equal events, equal bytes."""


class PendingObject(Protocol):
    """One object to come.

    Attributes:
        key: Its name.
        content_type: Its ``Content-Type``.
    """

    key: str
    content_type: str

    def append(self, payloads: list[bytes]) -> None:
        """Add events."""
        ...

    def finished(self) -> SpooledTemporaryFile[bytes]:
        """The object, as it is uploaded. More can be appended afterwards: it is then in the next one that this gives,
        with all that was before."""
        ...

    def close(self) -> None:
        """Let go of its content."""
        ...


def pending(key: str, file_format: FileFormat) -> PendingObject:
    """An empty object with files of this format in it."""
    return GzipObject(key, file_format) if has_gzip(file_format) else WholeObject(key, file_format)


def has_gzip(file_format: FileFormat) -> bool:
    """Whether files of this format are compressed on the way; others do it themselves."""
    return not (isinstance(file_format, Whole) and file_format.is_whole)


def suffix_of(file_format: FileFormat) -> str:
    """How the names of objects with such files end."""
    return file_format.suffix + (".gz" if has_gzip(file_format) else "")


class GzipObject:
    """One of files that can be put one after another: compressed once there is enough of it."""

    content_type = "application/gzip"

    def __init__(self, key: str, file_format: FileFormat) -> None:
        self.key = key
        self._content = bytearray()
        self._writer = file_format.writer(self._add)
        self._file = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - closed by close()
        self._compressor: Any = None

    def append(self, payloads: list[bytes]) -> None:
        """See ``PendingObject``."""
        self._writer.append(payloads)

    def _add(self, content: bytes) -> None:
        self._content += content
        # In pieces of one size, whatever the batches were: what ISA-L makes of them depends on where they end.
        while len(self._content) >= _COMPRESS_BYTES:
            self._compress(_COMPRESS_BYTES)

    def finished(self) -> SpooledTemporaryFile[bytes]:
        """See ``PendingObject``: what is appended afterwards becomes another gzip member of the same file."""
        if self._content:
            self._compress(len(self._content))
        if self._compressor is not None:
            self._file.write(self._compressor.flush())
            self._compressor = None
        return self._file

    def close(self) -> None:
        """See ``PendingObject``."""
        self._file.close()

    def _compress(self, size_bytes: int) -> None:
        if self._compressor is None:
            self._file.seek(0, 2)  # an upload may have left it elsewhere
            self._compressor = compressor()
        self._file.write(self._compressor.compress(self._content[:size_bytes]))
        del self._content[:size_bytes]


class WholeObject:
    """One of a file that has a beginning and an end: written once all of it is there."""

    content_type = "application/octet-stream"

    def __init__(self, key: str, file_format: FileFormat) -> None:
        self.key = key
        self._file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115
        self._writer: FileWriter = file_format.writer(lambda content: self._file.write(content))
        self._is_finished = False

    def append(self, payloads: list[bytes]) -> None:
        """See ``PendingObject``."""
        self._writer.append(payloads)
        self._is_finished = False

    def finished(self) -> SpooledTemporaryFile[bytes]:
        """See ``PendingObject``."""
        if not self._is_finished:
            self._file.seek(0)
            self._file.truncate()
            self._writer.finish()
            self._is_finished = True
        return self._file

    def close(self) -> None:
        """See ``PendingObject``."""
        self._file.close()
        close = getattr(self._writer, "close", None)
        if close is not None:
            close()


def compressor() -> Any:
    """What compresses an object's lines: gzip by ISA-L where it is installed, else by zlib."""
    try:
        from isal import isal_zlib
    except ModuleNotFoundError:
        return zlib.compressobj(_ZLIB_LEVEL, wbits=_GZIP_WINDOW_BITS)
    return isal_zlib.compressobj(_ISAL_LEVEL, wbits=_GZIP_WINDOW_BITS)
