"""Which rows of the input a run takes in, where that is not all of them: a file in its folder that never changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from runner.atomic import replacing
from runner.errors import FatalError

NAME = "selection.parquet"
"""The file. Its one column, `position`, counts the rows of the whole input from 0, before `offset` and `limit`."""

_SCHEMA = pa.schema([pa.field("position", pa.int64(), nullable=False)])
_ROWS = 1 << 16


class Positions(Protocol):
    """Some rows of an input."""

    def positions(self) -> Iterator[int]:
        """Yield their positions in the whole input, in order."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of the input that a run takes in, in their order.

    Attributes:
        path: the file that lists them.
        rows: how many they are.
    """

    path: Path
    rows: int

    def positions(self) -> Iterator[int]:
        """Yield their positions in the whole input.

        Raises:
            FatalError: the file is lost or damaged.
        """
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                if file.schema_arrow.names != _SCHEMA.names or file.metadata.num_rows != self.rows:
                    raise OSError("it is the list of another run")
                for batch in file.iter_batches(_ROWS):
                    yield from batch.column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise FatalError(
                f"the list of the rows that this run takes in cannot be read: {error}",
                kind="damaged_selection",
                where=str(self.path),
                hint="restore it from a copy, or start afresh with `runner run`: what is answered is kept",
            ) from None


def save(folder: Path, positions: Iterator[pa.Array]) -> Selection:
    """Write the list of a run's rows into its folder, durably.

    Raises:
        OSError: the folder cannot be written to.
    """
    rows = 0
    with (
        replacing(folder / NAME) as temporary,
        pq.ParquetWriter(
            temporary, _SCHEMA, compression="zstd", use_dictionary=False, write_page_checksum=True,
            column_encoding={"position": "DELTA_BINARY_PACKED"},
        ) as writer,
    ):  # fmt: skip
        for some in positions:
            writer.write_table(pa.table([some.cast(pa.int64())], schema=_SCHEMA))
            rows += len(some)
    return Selection(folder / NAME, rows)
