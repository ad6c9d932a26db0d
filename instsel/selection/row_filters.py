"""Rows that are left out for what their texts are, whatever their score: repetition, cut off answers, duplicates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from instsel.records import Example, Group
from instsel.records.repetition import REPEATED, grams_of, repeated_share, words_of

# What each word means and its usual limit; None where it has none.
ROW_FILTERS: Mapping[str, float | None] = {
    "repetition": REPEATED,
    "cut-off": None,
    "duplicates": None,
    "near-duplicates": 0.8,
}
Progress = Callable[[int, int], None]
_PERMUTATIONS = 128
_CLOSERS = "\"'\u201d\u2019\u00bb\uff09)]}*_`"  # quotation marks, brackets, emphasis
_PROSE = 8  # words of a last line from which it is a sentence, and no entry of a list


def left_out(
    records: Sequence[Example | Group], filters: Mapping[str, float | None], progress: Progress | None = None
) -> list[str | None]:
    """The first filter that leaves each row out, None where it stays.

    repetition       more than this share of an answer's 4-grams are repeated (see `repeated_share`)
    cut-off          an answer ends within a sentence or a block of code (see `is_cut_off`)
    duplicates       prompt and answer of an earlier row, but for blanks and case
    near-duplicates  a Jaccard similarity of at least this much to an earlier row that stays, of the sets of 4-grams of
                     prompt and answer, estimated by MinHash with 128 permutations

    `filters` maps these names to limits, None for the usual one; `progress` is told of the rows done, and how many they
    are, by near-duplicates, which take longest. A group is left out where all of its answers are, or as a duplicate of
    another group. Raises ValueError naming the filter, ImportError where near-duplicates need datasketch.

    Source: repeated n-grams arXiv 1908.04319; MinHash: Broder, On the resemblance and containment of documents, 1997.

    >>> add, say = Example("Add.", "1 1", "2."), Example("Say it.", "", "no no no no no no no")
    >>> left_out([add, add, say], {"duplicates": None, "repetition": 0.5})
    [None, 'duplicates', 'repetition']
    """
    limits = checked_filters(filters)
    found: list[str | None] = [None] * len(records)
    for name in ("repetition", "cut-off"):
        if name in limits:
            for row, record in enumerate(records):
                answers = _answers(record)
                if found[row] is None and answers and all(_is_bad(one, name, limits[name]) for one in answers):
                    found[row] = name
    if "duplicates" in limits:
        seen: set[bytes] = set()
        for row, record in enumerate(records):
            if found[row] is None:
                digest = hashlib.blake2b(" ".join(words_of(_whole(record))).encode(), digest_size=16).digest()
                if digest in seen:
                    found[row] = "duplicates"
                seen.add(digest)
    if "near-duplicates" in limits:
        kept = [row for row in range(len(records)) if found[row] is None]
        texts = [_whole(records[row]) for row in kept]
        for row in _near_duplicates(texts, limits["near-duplicates"], progress):
            found[kept[row]] = "near-duplicates"
    return found


def checked_filters(filters: Mapping[str, float | None]) -> dict[str, float]:
    """The filters with their limits; ValueError for an unknown one or a limit that is none."""
    limits = {}
    for name, limit in filters.items():
        if name not in ROW_FILTERS:
            raise ValueError(f"filters: expected names of {', '.join(ROW_FILTERS)}, got {name!r}")
        usual = ROW_FILTERS[name]
        if usual is None and limit is not None:
            raise ValueError(f"filters: {name} has no limit, got {limit!r}")
        if limit is not None and not 0 < limit < 1:
            raise ValueError(f"filters: the limit of {name} must be a share above 0 and below 1, got {limit!r}")
        limits[name] = float(usual or 0.0) if limit is None else float(limit)
    return limits


def recorded_filters(filters: Mapping[str, float | None]) -> dict[str, float | bool]:
    """The filters as a manifest keeps them, each with the limit that it has, or true: null would be no filter."""
    return {name: limit or True for name, limit in sorted(checked_filters(filters).items())}


def filters_at_hand(filters: Mapping[str, float | None]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The filters whose packages are there, and of each of the others what is missing and how to install it."""
    absent = {}
    if "near-duplicates" in filters:
        try:
            _need_datasketch()
        except ImportError as error:
            absent["near-duplicates"] = str(error)
    return {name: limit for name, limit in filters.items() if name not in absent}, absent


def is_cut_off(text: str) -> bool:
    """Whether an answer seems to stop in the middle.

    Either a fenced block of code is not closed, or the last line reads as prose (eight words or more) that ends in a
    letter, a digit, a comma, a dash or an opening bracket although the answer ends its other sentences with a mark.

    >>> is_cut_off("It rained. The roads were wet and so the old man went back to the")
    True
    >>> is_cut_off("a red house"), is_cut_off("It rained. The old man went back to the house by the sea.")
    (False, False)
    """
    stripped = text.rstrip()
    if sum(line.lstrip().startswith("```") for line in stripped.splitlines()) % 2:
        return True
    last = stripped.splitlines()[-1] if stripped else ""
    end = last.rstrip(_CLOSERS)[-1:] or last[-1:]
    if len(last.split()) < _PROSE or not (end.isalnum() or end in ",-\u2013\u2014(["):
        return False
    return re.search(r"[^\W\d]{2,}[.!?](\s|$)", stripped) is not None


def _answers(record: Example | Group) -> tuple[str, ...]:
    return record.responses if isinstance(record, Group) else (record.response,)


def _is_bad(answer: str, name: str, limit: float) -> bool:
    return is_cut_off(answer) if name == "cut-off" else repeated_share(answer) > limit


def _whole(record: Example | Group) -> str:
    turns = [f"{role}: {text}" for role, text in record.history]
    return "\n".join([*turns, record.instruction, record.input, *_answers(record)])


def _near_duplicates(texts: Sequence[str], threshold: float, progress: Progress | None) -> list[int]:
    """Texts that are near-duplicates of an earlier one that is none itself."""
    _need_datasketch()
    from datasketch import MinHash, MinHashLSH

    # What lies in a band is looked up by a number in place of its 100 bytes; what meets by chance is compared below.
    index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, hashfunc=hash)
    empty = MinHash(num_perm=_PERMUTATIONS, seed=1)
    kept: dict[int, np.ndarray] = {}
    found = []
    for row, text in enumerate(texts):
        sketch = empty.copy()  # with its permutations, which take longer to draw than most texts to hash
        sketch.update_batch({" ".join(gram).encode() for gram in grams_of(text)})
        values = sketch.hashvalues.astype(np.uint32)
        if any(np.mean(kept[other] == values) >= threshold for other in index.query(sketch)):
            found.append(row)
        else:
            index.insert(row, sketch, check_duplication=False)
            kept[row] = values
        if progress is not None:
            progress(row + 1, len(texts))
    return found


def _need_datasketch() -> None:
    from instsel.optional_packages import need_package

    need_package("datasketch", "datasketch", ">=1.6", extra="duplicates")
