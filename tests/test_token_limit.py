"""The bound on a text's tokens by the longest token of the vocabulary: exact, and cheap for huge texts."""

from __future__ import annotations

import pytest
from small_tokenizers import byte_level, composing, dropping, metaspace, word_piece
from tokenizers import AddedToken

from instsel.prompts import encode_pairs


@pytest.mark.parametrize("build", [byte_level, metaspace, composing])
def test_bound_on_the_number_of_tokens_is_exact(build):
    """Nothing that fits is called too long, even the text of the longest token over and over."""
    tokenizer = build()
    longest = max(tokenizer.get_vocab(), key=len).replace("▁", " ").replace("Ġ", " ")
    marked = 0
    for text in (longest * 40, "the answer " * 50, "ab" * 300, "e\u0301" * 300, "\u1f82" * 300, "漢" * 400):
        count = len(tokenizer(text)["input_ids"])
        for limit in (1, 3, count // 2, count - 1, count, count + 1):
            [got] = encode_pairs(tokenizer, [(text[:2], text[2:])], max_tokens=max(limit, 1))
            marked += got.too_long
            assert not (got.too_long and count <= limit)
            assert got.too_long == (got.ids.size == 0)
    assert marked  # the bound does bite


def test_no_bound_where_characters_may_be_dropped():
    for tokenizer in (word_piece(), dropping()):
        [got] = encode_pairs(tokenizer, [("the" + " " * 10_000, "end")], max_tokens=10)
        assert not got.too_long and 0 < len(got.ids) <= 10
    swallowing = type(byte_level())(tokenizer_object=byte_level().backend_tokenizer, bos_token="<bos>")
    swallowing.add_tokens([AddedToken("<mask>", lstrip=True)])
    [got] = encode_pairs(swallowing, [("a", " " * 10_000 + "<mask>")], max_tokens=10)
    assert not got.too_long and len(got.ids) <= 10


def test_ten_megabytes_are_not_tokenised():
    tokenizer = byte_level()
    calls = []

    class Watched(type(tokenizer)):
        def __call__(self, text, *args, **kwargs):
            calls.append(sum(map(len, text)) if isinstance(text, list) else len(text))
            return super().__call__(text, *args, **kwargs)

    watched = Watched(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    pairs = [("a\n", "the answer " * 1_000_000), ("a\n", "the answer"), ("the " * 3_000_000, "")]
    long, short, nothing = encode_pairs(watched, pairs, max_tokens=2048)
    assert long.too_long and not short.too_long and not nothing.too_long
    assert nothing.ids.size == 0 and short.ids.size > 0
    assert max(calls) < 100
