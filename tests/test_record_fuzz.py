"""A fuzzer over the record reader: whatever the bytes, rows come out or one ValueError, soon.

A thousand files in the suite; more by hand: INSTSEL_FUZZ_CASES=100000 INSTSEL_FUZZ_SEED=7 pytest -k mutated_files
"""

from __future__ import annotations

import os
import random
import time
import warnings
from pathlib import Path

import pytest
from hostile_inputs import FILES

from instsel.records import open_rows, to_examples, to_groups
from instsel.records.files import iter_batches
from instsel.records.formats import detect_layout

CASES = int(os.environ.get("INSTSEL_FUZZ_CASES", "1000"))
SEED = int(os.environ.get("INSTSEL_FUZZ_SEED", "0"))
SLOWEST = 20.0  # seconds of the processor that a file of some kilobytes may take
SEEDS = {name: content for name, content in FILES.items() if len(content) < 20_000}
PIECES = [
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u", b"\\ud800", b"\n", b"\r", b"\0", b"\xff", b"null",
    b"1e999", b"-", b'"instruction":', b'"output":', b'"messages":', b'"candidates":', b'{"role":"user","content":',
    b"PAR1", b"{}",
]  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with a few bytes changed, cut, doubled, or taken from another file."""
    out = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and out:
            out[min(place, len(out) - 1)] = rng.randrange(256)
        elif kind == 1:
            out[place:place] = rng.choice(PIECES)
        elif kind == 2:
            del out[place : place + rng.randint(1, 40)]
        elif kind == 3:
            out[place:place] = out[place : place + rng.randint(1, 200)]
        elif kind == 4:
            other = SEEDS[rng.choice(list(SEEDS))]
            start = rng.randrange(len(other) + 1)
            out[place:place] = other[start : start + rng.randint(1, 300)]
        else:
            del out[place:]
    return bytes(out)


def read(path: Path) -> int:
    """Read a file the whole way to records; the number of rows, or -1 for an error of one line that names something."""
    found = -1
    for kind, convert in (("example", to_examples), ("group", to_groups)):
        try:
            count = 0
            for batch in iter_batches(path):
                names, _ = open_rows(batch)
                layout = detect_layout(names, kind=kind)
                count += len(convert(batch, layout=layout))  # type: ignore[operator]
            found = max(found, count)
        except (ValueError, TypeError) as error:
            assert len(str(error)) > 10, "an error must say something"
    return found


@pytest.mark.long
def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    good = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tried in range(CASES):
            name = rng.choice(list(SEEDS))
            content = mutated(SEEDS[name], rng)
            path = tmp_path / f"case{Path(name).suffix}"
            path.write_bytes(content)
            start = time.process_time()
            try:
                good += read(path) >= 0
            except Exception as error:
                pytest.fail(
                    f"{type(error).__name__}: {error} from {name} (seed {SEED}, case {tried}): {content[:2000]!r}"
                )
            assert time.process_time() - start < SLOWEST, (name, content[:2000])
    assert 0 < good < CASES, "a fuzzer that only ever meets one outcome tests nothing"
