"""Files as the bytes and the text that they hold, compressed or not: decided from how they begin, not by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TextIO, cast

from instsel.error_text import first_line

SUFFIXES = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}

_BLOCK = 1 << 18  # compressed bytes read at once


def compression_of(path: Path) -> str | None:
    """ "gzip", "zstd", "bzip2", "xz", or None."""
    with open(path, "rb") as file:
        head = file.read(6)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def data_suffix(path: PurePath) -> str:
    """The suffix in small letters that says what a file holds, a compression's left out.

    >>> data_suffix(Path("rows.jsonl.gz")), data_suffix(Path("rows.CSV"))
    ('.jsonl', '.csv')
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def open_bytes(path: Path) -> BinaryIO:
    """A file for reading the bytes that it holds when decompressed; ValueError, while reading, where it is damaged."""
    kind = compression_of(path)
    if kind is None:
        return open(path, "rb")
    return io.BufferedReader(_Decompressed(path, kind), 1 << 18)


def open_text(path: Path, *, newline: str) -> TextIO:
    """A file for reading the UTF-8 text that it holds, compressed or not, a byte order mark left out."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline=newline)


class _Decompressed(io.RawIOBase):
    """Decompressed bytes, as a stream; what decoders raise for damaged data becomes a ValueError naming the file."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self.stream = _OPENERS[kind](path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except MemoryError:
            raise
        except Exception as error:  # every decoder has exceptions of its own
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk
            reason = first_line(error)
            raise ValueError(f"{self.path} is not a whole {self.kind} file: {reason}") from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


class _Streams:
    """The bytes of streams one after another, as bzip2 on several cores writes them.

    The standard library's own readers take what begins no stream for the end of the file, and with it a damaged stream
    and all that follow.
    """

    def __init__(self, path: Path, decoder: Callable[[], Any]) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - until `close`
        self._new, self._decoder = decoder, decoder()

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        while True:
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data.lstrip(b"\0")  # zeros may fill up a file
                while not data:
                    block = self._file.read(_BLOCK)
                    if not block:
                        return b""
                    data = block.lstrip(b"\0")
                self._decoder = self._new()
            elif self._decoder.needs_input:
                data = self._file.read(_BLOCK)
                if not data:
                    raise EOFError("it ends before its last stream does")
            if found := self._decoder.decompress(data, size):
                return bytes(found)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _gzip(path: Path) -> BinaryIO:
    import gzip

    return cast(BinaryIO, gzip.open(path, "rb"))


def _bzip2(path: Path) -> BinaryIO:
    import bz2

    return cast(BinaryIO, _Streams(path, bz2.BZ2Decompressor))


def _xz(path: Path) -> BinaryIO:
    import lzma

    return cast(BinaryIO, _Streams(path, lzma.LZMADecompressor))


def _zstd(path: Path) -> BinaryIO:
    import pyarrow

    return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd}
