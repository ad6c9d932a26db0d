"""The columns of a stage over all rows, read when they are asked for; wide ones as memory-mapped arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instsel.records.score_columns import from_table


class StageColumns(Mapping[str, np.ndarray]):
    """A complete stage's columns from its shards' files, in the order of its rows.

    A column of lists of numbers, such as embeddings, is written to a `.npy` file of `scratch` once and mapped from
    there, so that it takes no memory that the system cannot have back; others are arrays in memory. The shard is the
    unit of reading: at no time is there a Python object a row for more rows than one shard has.
    """

    def __init__(self, name: str, paths: list[Path], rows: int, scratch: Path) -> None:
        self._name, self._paths, self._rows, self._scratch = name, paths, rows, scratch
        self._schema: pa.Schema = pq.read_schema(paths[0]) if paths else pa.schema([])
        self._read: dict[str, np.ndarray] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._schema.names)

    def __len__(self) -> int:
        return len(self._schema.names)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._read:
            kind = self._schema.field(name).type
            wide = pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type)
            self._read[name] = self._mapped(name) if wide else np.concatenate(list(self._parts(name)))
        return self._read[name]

    def _parts(self, name: str) -> Iterator[np.ndarray]:
        for path in self._paths:
            yield from_table(pq.read_table(path, columns=[name]))[name]

    def _mapped(self, name: str) -> np.ndarray:
        self._scratch.mkdir(exist_ok=True)
        path = self._scratch / f"{self._name}.{name}.npy"
        write_array(path, self._parts(name), self._rows)
        return np.load(path, mmap_mode="c", allow_pickle=False)

    def forget(self) -> None:
        """Remove the files of mapped columns; arrays that are still held stay as they are."""
        for name in self._read:
            (self._scratch / f"{self._name}.{name}.npy").unlink(missing_ok=True)


def write_array(path: Path, parts: Iterable[np.ndarray], rows: int) -> None:
    """Write blocks of rows `[r, d]` one after another as a `.npy` file of `[rows, d]`.

    By plain writes and not through a map, where a full disk would be a signal that ends the process.
    """
    with open(path, "wb") as file:
        dtype: np.dtype | None = None
        for part in parts:
            if dtype is None:
                dtype = part.dtype
                about = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *part.shape[1:])}
                np.lib.format.write_array_header_1_0(file, about)
            file.write(np.ascontiguousarray(part, dtype).data)
