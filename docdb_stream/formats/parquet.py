"""Parquet: a file of events, a row each, with a column for each field of their documents (``formats.arrow``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Final

from docdb_stream.formats.arrow import RowTable, WaitingRows
from docdb_stream.formats.cells import arrow
from docdb_stream.formats.row import ROW

_READ_ROWS: Final = 1024
_GROUP_BYTES: Final = 32 * 1024 * 1024
"""Bytes of a row group before compression, about: groups are written one by one, so this bounds the memory. Readers
would have more (Parquet's documentation, "Configurations": 512 MB to 1 GB), which a function has not got."""


class Parquet:
    """Rows of events: ``_key``, ``_operation``, ``_cluster_time``, ``_version``, ``_event_id``, ``_has_document``, the
    document's fields with their types, and ``_raw``, the whole event as Extended JSON.

    Compressed with Snappy, which every reader has. A row of an event without a document, as a delete, has the fields of
    the document key and no others.

    Attributes:
        is_nested: Whether nested documents and arrays are structs and lists; else they are JSON as text.
    """

    name = "parquet"
    suffix = ".parquet"
    takes = ROW
    is_whole = True

    def __init__(self, *, is_nested: bool = False) -> None:
        self.is_nested = is_nested

    def writer(self, write: Callable[[bytes], object]) -> ParquetWriter:
        """See ``FileFormat``.

        Raises:
            ConfigError: pyarrow is not installed.
        """
        return ParquetWriter(write, is_nested=self.is_nested)

    def event_ids(self, file: IO[bytes]) -> Iterator[Sequence[str]]:
        """See ``Tabular``."""
        arrow()
        from pyarrow.parquet import ParquetFile

        with ParquetFile(file) as content:
            for batch in content.iter_batches(_READ_ROWS, columns=["_event_id"]):
                yield batch.column(0).to_pylist()


PARQUET: Final = Parquet()


class ParquetWriter:
    """A file in the making."""

    def __init__(self, write: Callable[[bytes], object], *, is_nested: bool) -> None:
        self._write = write
        self._is_nested = is_nested
        self._rows = WaitingRows()

    def append(self, payloads: Sequence[bytes]) -> None:
        """See ``FileWriter``."""
        self._rows.append(payloads)

    def finish(self) -> None:
        """Write the whole file. More can be appended afterwards: ``finish`` then writes another one, with all of it."""
        pa = arrow()
        from pyarrow.parquet import ParquetWriter as Writer

        table = RowTable(self._rows.columns(), is_nested=self._is_nested)
        with Writer(_Sink(self._write), table.schema, compression="snappy") as file:
            group: list[Any] = []
            for rows in self._rows.parts():
                group.append(table.batch(rows))
                if sum(batch.nbytes for batch in group) >= _GROUP_BYTES:
                    file.write_table(pa.Table.from_batches(group))
                    group = []
            if group:
                file.write_table(pa.Table.from_batches(group))

    def close(self) -> None:
        """Let go of what was appended."""
        self._rows.close()


class _Sink:
    """A file for pyarrow, which writes it from its beginning to its end."""

    closed = False

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._at = 0

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._write(content)
        self._at += len(content)
        return len(content)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False
