"""A folder without its vocabulary is refused by name; token ids need no tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tokenizers import LongestMatch, byte_level, metaspace, unigram, word_piece
from tiny_model import make_tiny_model, tiny_model_folder

import instsel
from instsel.engine.tokenizer_checks import check_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["GemmaTokenizer", "Qwen2Tokenizer", "LlamaTokenizer", "GPT2Tokenizer", None])
def test_a_folder_without_a_vocabulary_is_refused(kind: str | None, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings = {"bos_token": "<s>", "eos_token": "</s>"} | ({"tokenizer_class": kind} if kind else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    scorer = instsel.Scorer(str(folder), device="cpu")
    with pytest.raises(ValueError, match=r"tokenizer: cannot load .*: .*lacks .*(tokenizer|vocab).json") as caught:
        instsel.score_batch(scorer, [("a", " b")])
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_token_ids_need_no_tokenizer(folder: Path) -> None:
    ids: list[Any] = [([5, 6, 7], [8, 9]), (np.array([3]), [4])]
    expected = instsel.score_batch(instsel.Scorer(str(folder), device="cpu"), ids).sum_logprob
    for path in folder.glob("*token*"):
        path.unlink()
    found = instsel.score_batch(instsel.Scorer(str(folder), device="cpu"), ids).sum_logprob
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="tokenizer: cannot load"):
        instsel.score_batch(instsel.Scorer(str(folder), device="cpu"), [*ids, ("a", " b")])


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    larger = tiny_model_folder()
    shutil.copy(path, folder / "kept")
    for rows, said in (
        (50, "it is of another model: it gives the token"),
        (100_000, "it has 262 tokens besides special"),
    ):
        path.write_text(json.dumps({**json.loads((folder / "kept").read_text()), "vocab_size": rows}))
        with pytest.raises(ValueError, match=said):
            _ = instsel.Scorer(str(folder), tokenizer=larger).tokenizer


@pytest.mark.parametrize("make", [byte_level, metaspace, unigram, word_piece, LongestMatch])
def test_tokenizers_that_lose_something_pass(make: Any) -> None:
    check_tokenizer(make(), 512, "folder")


@pytest.mark.parametrize("make", [byte_level, metaspace, unigram, word_piece])
def test_an_embedding_may_be_padded(make: Any) -> None:
    tokenizer = make()
    check_tokenizer(tokenizer, 16 * len(tokenizer.get_vocab()), "folder")
