"""Whether a tokenizer that was loaded can read text: without its vocabulary transformers makes one all the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCE = "The quick brown fox jumps over the lazy dog."
_FEWEST_TOKENS = 4
_SHARE = 100  # a vocabulary is at least so much of the model's: what is padded or added is never so much more
_READING_TOKENS = 256  # so many could write any ASCII text; fewer may be of nucleotides, or of a test's words


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, rows: int | None, folder: str) -> None:
    """ValueError, naming the folder and its missing files, for a tokenizer without its vocabulary.

    rows: of the model's embedding table, if it is known. A tokenizer whose tokens are of another model is refused by
    what it makes of a sentence. One may lower-case, or write unknown characters as bytes or as an unknown token.
    """
    added = set(getattr(tokenizer, "added_tokens_encoder", {}))
    count = len(set(tokenizer.get_vocab()) - added)
    if count < max(_FEWEST_TOKENS, 0 if rows is None else rows // _SHARE):
        model = "" if rows is None else f", where the model's embedding has {rows:,} rows"
        raise ValueError(f"it has {count:,} tokens besides special ones{model}; {missing_files(tokenizer, folder)}")
    ids = list(tokenizer(_SENTENCE, add_special_tokens=False)["input_ids"])
    if rows is not None and ids and max(ids) >= rows:
        raise ValueError(f"it is of another model: it gives the token {max(ids)}, and the embedding has {rows:,} rows")
    back = str(tokenizer.decode(ids)).casefold() if ids else ""
    letters = [letter for letter in _SENTENCE.casefold() if letter.isalpha()]
    kept = sum(letter in back for letter in letters)
    if not ids or (count >= _READING_TOKENS and 2 * kept < len(letters)):
        raise ValueError(f"it cannot give back {_SENTENCE!r}, but {back!r}; {missing_files(tokenizer, folder)}")


def missing_files(tokenizer: PreTrainedTokenizerBase | None, folder: str) -> str:
    """Which of a tokenizer's files a folder lacks, for a message."""
    names = list(dict.fromkeys(getattr(tokenizer, "vocab_files_names", {}).values())) or ["tokenizer.json"]
    lacking = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if not Path(folder).is_dir():
        return f"{folder} gives no vocabulary ({', '.join(names)})"
    return f"the folder {folder} lacks {' and '.join(lacking)}" if lacking else f"the files of {folder} may be broken"
