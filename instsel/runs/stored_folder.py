"""Run folders behind addresses of stores that fsspec knows, such as `s3://bucket/runs/pool`.

The folder at work is a temporary one here, because its files are renamed and locked, which stores cannot do. What the
store has is brought here first, and each file is put there once it is whole: shards as they come, by several threads,
and the manifest after what it speaks of. A driver that is killed thus loses the shards under way and nothing else, and
the same command continues on any machine.

The store keeps no lock. Two drivers that write to one address do the work twice; the numbers are the same.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from instsel.error_text import first_line
from instsel.runs.folder import RunFolder
from instsel.runs.interrupts import Interrupts
from instsel.runs.run_files import LOCK, MANIFEST, NEXT, is_ours

_THREADS = 8  # a store answers late and takes much at a time


class StoreError(OSError):
    """A store cannot be reached, read or written, or its package is not installed."""


class StoredCopy:
    """The files of a run folder in a store, by their names relative to it."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._threads = ThreadPoolExecutor(_THREADS, "instsel-store")
        self._under_way: list[Future[None]] = []
        with _explained():
            import fsspec

            self._store, self._root = fsspec.core.url_to_fs(self.address)
            self._root = self._root.rstrip("/")

    def names(self) -> list[str]:
        """All names that are there."""
        with _explained():
            self._store.invalidate_cache()  # it may be another's work that is continued
            found = self._store.find(self._root) if self._store.exists(self._root) else []
        return sorted(name.removeprefix(self._root).lstrip("/") for name in found)

    def fetch(self, folder: Path, names: list[str]) -> None:
        """Bring files to a folder."""

        def fetch_one(name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with _explained():
                self._store.get_file(f"{self._root}/{name}", str(folder / name))

        list(self._threads.map(fetch_one, names))

    def put(self, folder: Path, name: str) -> None:
        """Begin to put a file there; raises StoreError where an earlier one could not be."""
        still = [future for future in self._under_way if not future.done()]
        for future in set(self._under_way) - set(still):
            future.result()
        self._under_way = [*still, self._threads.submit(self._put, folder, name)]

    def _put(self, folder: Path, name: str) -> None:
        with _explained():
            self._store.put_file(str(folder / name), f"{self._root}/{name}")

    def flush(self) -> None:
        """Wait until all files are there; raises StoreError where one could not be put."""
        waited, self._under_way = self._under_way, []
        for future in waited:
            future.result()

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with _explained(), contextlib.suppress(FileNotFoundError):
            self._store.rm_file(f"{self._root}/{name}")

    def close(self) -> None:
        """Wait for what is under way, whether it succeeds or not."""
        self._threads.shutdown()


class StoredRunFolder(RunFolder):
    """A run folder whose files are kept in a store. See `RunFolder`, whose errors name the address."""

    def __init__(
        self,
        path: Path,
        copy: StoredCopy,
        settings: Mapping[str, object],
        about: Mapping[str, object],
        *,
        overwrite: bool = False,
        inputs: Sequence[Path] = (),
        interrupts: Interrupts | None = None,
    ) -> None:
        self._copy = copy
        super().__init__(path, settings, about, overwrite=overwrite, inputs=inputs, interrupts=interrupts)

    @property
    def name(self) -> str:
        """The address."""
        return self._copy.address

    def written(self, path: Path) -> None:
        """Put a file in the store; a manifest when all else is there."""
        name = path.relative_to(self.home).as_posix()
        if path.name == MANIFEST:
            self._copy.flush()
        self._copy.put(self.home, name)
        if path.name == MANIFEST:
            self._copy.flush()

    def removed(self, path: Path) -> None:
        """Remove a file from the store."""
        self._copy.flush()
        self._copy.remove(path.relative_to(self.home).as_posix())

    def finish(self, **fields: object) -> None:
        """See `RunFolder.finish`; under `next` the store has the whole run until it has it in the old one's place."""
        overwrites = self.path != self.home
        super().finish(**fields)
        if overwrites:
            with self.explained():
                for name in self._names_here():
                    self._copy.put(self.home, name)
                self.written(self.home / MANIFEST)
                self._copy.remove(f"{NEXT}/{MANIFEST}")

    def close(self) -> None:
        """See `RunFolder.close`; what is no longer in the folder does not stay in the store."""
        super().close()
        with contextlib.suppress(StoreError):
            for name in set(filter(is_ours, self._copy.names())) - self._names_here():
                self._copy.remove(name)

    def _names_here(self) -> set[str]:
        paths = (path for path in self.home.rglob("*") if path.is_file())
        return {path.relative_to(self.home).as_posix() for path in paths} - {LOCK}


@contextlib.contextmanager
def copy_here(address: str) -> Iterator[tuple[Path, StoredCopy]]:
    """A block with a temporary folder that holds what the store has of a run folder, and with the store's copy.

    Raises ValueError naming the address where the store cannot be reached or the address holds something else.
    """
    with tempfile.TemporaryDirectory(prefix="instsel-run-", ignore_cleanup_errors=True) as name:
        path = Path(name) / "run"
        with _reached(address):
            copy = StoredCopy(address)
        try:
            with _reached(address):
                names = copy.names()
                if strangers := [name for name in names if not is_ours(name)]:
                    there = ", ".join(strangers[:3])
                    raise ValueError(f"{address} is not empty and not a run folder (it holds {there})")
                copy.fetch(path, [name for name in names if name != LOCK])
            yield path, copy
        finally:
            copy.close()


@contextlib.contextmanager
def _reached(address: str) -> Iterator[None]:
    """A store that cannot be reached as ValueError."""
    try:
        yield
    except StoreError as error:
        raise ValueError(f"output folder {address} cannot be reached: {error}") from error


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Errors of any store, network or credentials as StoreError."""
    try:
        yield
    except Exception as error:
        raise StoreError(first_line(error)) from error
