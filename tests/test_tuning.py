"""Tuning learns from right answers only, and what is measured on held-out rows is what plain forwards give."""

import random

import numpy as np
import pytest
import torch
from demo_model.in_context import mean_losses
from transformers import AutoModelForCausalLM, AutoTokenizer

from instsel.demo.generator import make_held_out_rows, make_pool
from instsel.demo.run import MODEL_FOLDER
from instsel.demo.tuning import IGNORED, encode_rows, held_out, padded, shuffled, tune
from instsel.prompts import build_request


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_FOLDER)


def untuned():
    return AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def rows():
    pool = make_pool(5, 300, corrupted_share=0.0)
    name = pool[0]["family"]
    fresh = make_held_out_rows(5, 110, pool_size=300, corrupted_share=0.0)
    return [row for row in pool if row["family"] == name][:20], [row for row in fresh if row["family"] == name]


def test_held_out_rows_share_conventions_with_the_pool_and_no_exercise():
    pool, fresh = make_pool(3, 200), make_held_out_rows(3, 60, pool_size=200)
    assert {row["family"] for row in fresh} == {row["family"] for row in pool}
    asked = {(row["instruction"], row["input"]) for row in pool}
    assert not asked & {(row["instruction"], row["input"]) for row in fresh}
    assert {row["truth"] for row in fresh} == {"clean"}
    # Another seed has other conventions: the same control finds nothing in common.
    assert make_held_out_rows(4, 60, pool_size=200) != fresh


def test_rows_without_corruption_are_all_clean_and_a_share_too_large_is_refused():
    assert {row["truth"] for row in make_pool(0, 100, corrupted_share=0.0)} == {"clean"}
    with pytest.raises(ValueError, match=r"corrupted_share must be from 0 to 0\.16, .* got 0\.3"):
        make_pool(0, 100, corrupted_share=0.3)


@pytest.mark.long
def test_loss_and_exact_answers_are_those_of_plain_forwards(tokenizer, rows):
    model, (_, fresh) = untuned(), rows
    pairs = encode_rows(tokenizer, fresh)
    found = held_out(model, pairs, batch_size=3)
    means = mean_losses(model, tokenizer, [tuple(build_request(row)) for row in fresh])
    lengths = [len(answer) for _, answer in pairs]
    assert found.loss == pytest.approx(np.average(means, weights=lengths), abs=0.02)  # products are in bfloat16
    # After the same example as a demonstration the model copies many answers whole; by forwards one at a time:
    copied = [(prompt + answer + prompt[1:], answer) for prompt, answer in pairs]
    exact = []
    for context, answer in copied:
        with torch.no_grad():
            best = model(input_ids=torch.tensor([context + answer])).logits[0].argmax(-1)
        exact.append(best[len(context) - 1 : -1].tolist() == answer)
    assert 0 < sum(exact) < len(exact)
    assert held_out(model, copied, batch_size=4).exact == pytest.approx(np.mean(exact), abs=1.5 / len(exact))


@pytest.mark.long
def test_right_answers_teach_and_answers_to_other_questions_do_not(tokenizer, rows):
    train, fresh = rows
    pairs, unseen = encode_rows(tokenizer, train), encode_rows(tokenizer, fresh)
    answers = [answer for _, answer in pairs]
    random.Random(0).shuffle(answers)
    wrong = [(prompt, answer) for (prompt, _), answer in zip(pairs, answers, strict=True)]
    before = held_out(untuned(), unseen).loss
    options = {"steps": 12, "batch_size": 10, "learning_rate": 4e-3, "seed": 0}
    right = held_out(tune(untuned(), pairs, **options), unseen).loss
    assert right < 0.7 * before
    assert held_out(tune(untuned(), wrong, **options), unseen).loss > right + 0.1
    assert held_out(tune(untuned(), pairs, **options), unseen).loss == right  # the same bits again


def test_a_batch_predicts_every_answer_token_once_and_nothing_else():
    ids, targets = padded([([5, 6], [7, 8, 9]), ([5], [6])], "cpu")
    assert ids.tolist() == [[5, 6, 7, 8, 9], [5, 6, IGNORED, IGNORED, IGNORED]]
    assert targets.tolist() == [[IGNORED, 7, 8, 9, IGNORED], [6, IGNORED, IGNORED, IGNORED, IGNORED]]


def test_rows_come_in_another_order_each_time_and_none_is_left_out():
    rows = shuffled(9, seed=1)
    first, second = ([next(rows) for _ in range(9)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(9))
    assert first != second
