"""The packaged model: really trained, small, and able to learn from a demonstration of what it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from demo_model.in_context import in_context_gain, mean_losses
from transformers import AutoModelForCausalLM, AutoTokenizer

from instsel.demo.generator import make_groups, make_pool
from instsel.demo.run import MODEL_FOLDER

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32).eval()


def test_the_files_are_few_and_small() -> None:
    files = [path for path in MODEL_FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert (MODEL_FOLDER / "model.safetensors").is_file()
    assert not [path for path in files if path.suffix not in (".safetensors", ".json")]


def test_it_is_an_ordinary_llama(model) -> None:
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.max_position_embeddings >= 512


def test_the_tokenizer_begins_with_bos_and_gives_every_text_back(tokenizer) -> None:
    rows = make_pool(11, 100)
    texts = [row["instruction"] + "\n" + row["input"] + "\n" + row["output"] for row in rows]
    for text in [*texts, "ünïcode \U0001f642\ttab  two spaces\r\n"]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
    # The prompts end with a line feed, which is a token of its own: prompt and answer can be tokenised apart.
    for row in rows:
        prompt = row["instruction"] + "\n"
        apart = tokenizer(prompt)["input_ids"] + tokenizer(row["output"], add_special_tokens=False)["input_ids"]
        assert tokenizer(prompt + row["output"])["input_ids"] == apart


def test_a_demonstration_of_the_same_convention_helps_and_one_of_another_family_does_not(model, tokenizer) -> None:
    gain = in_context_gain(model, tokenizer, seed=99, exercises=6)
    assert gain.same_reduction >= 0.30
    assert gain.other_reduction <= gain.same_reduction / 10


def test_a_model_with_random_weights_learns_nothing_from_a_demonstration(model, tokenizer) -> None:
    """Negative control of the test above."""
    torch.manual_seed(0)
    random_model = type(model)(model.config).eval()
    assert in_context_gain(random_model, tokenizer, seed=99, exercises=5).same_reduction < 0.05


def test_mean_losses_is_the_loss_of_transformers(model, tokenizer) -> None:
    rows = make_pool(12, 50)[:12]
    pairs = [(row["instruction"] + "\n", row["output"]) for row in rows]
    found = mean_losses(model, tokenizer, pairs, batch_size=5)
    for (prompt, answer), loss in zip(pairs, found, strict=True):
        ids = torch.tensor([tokenizer(prompt + answer)["input_ids"]])
        labels = ids.clone()
        labels[:, : len(tokenizer(prompt)["input_ids"])] = -100
        with torch.no_grad():
            expected = float(model.double()(input_ids=ids, labels=labels).loss)
        model.float()
        assert loss == pytest.approx(expected, abs=2e-5)


def test_its_own_style_is_the_likeliest(model, tokenizer) -> None:
    groups = make_groups(99, 20)
    picked = []
    for group in groups:
        losses = mean_losses(
            model, tokenizer, [(group["instruction"] + "\n", one["response"]) for one in group["candidates"]]
        )
        picked.append(int(np.argmin(losses)) == group["own"])
    assert np.mean(picked) >= 0.9


def test_bfloat16_and_float32_agree_on_the_figures(model, tokenizer) -> None:
    low = AutoModelForCausalLM.from_pretrained(Path(MODEL_FOLDER), dtype=torch.bfloat16).eval()
    exact, rough = (in_context_gain(one, tokenizer, seed=98, exercises=4) for one in (model, low))
    assert rough.without == pytest.approx(exact.without, rel=0.02)
    assert rough.same_convention == pytest.approx(exact.same_convention, rel=0.02)
