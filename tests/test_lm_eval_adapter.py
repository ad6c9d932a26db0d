"""The model `instsel` of lm-evaluation-harness gives what the harness's own `hf` gives: figures, flags, choices."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from harness_tasks import TASKS, write_tasks
from random_models import new_llama
from small_tokenizers import LongestMatch, blank_ending, byte_level, metaspace, unigram
from tiny_model import tiny_model_folder

pytest.importorskip("lm_eval")
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import instsel.integrations.lm_eval as adapter
from instsel.integrations.lm_eval import InstselLM

CONTEXT = 96
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOKENIZERS = {
    "bytes": lambda: byte_level(),
    "bytes-bos": lambda: byte_level(bos=True),
    "bytes-across-words": lambda: byte_level(split=False, trim=True),
    "llama-2": lambda: metaspace(),
    "unigram": lambda: unigram(),
    "blank-ending": lambda: blank_ending(),
    "python": lambda: LongestMatch(),
}
OPTIONS = (" the", " end", "ab", " b", "b", " a", " bb", "\n")
PAIRS = [
    ("", " the answer"),
    ("", "the"),
    ("the theory of", " the other"),
    ("the theory of ", "the other"),
    ("the theory of \n ", "mother"),
    ("unhapp", "iness"),
    ("the", " e"),
    ("<bos>the theory", " of"),
    ("<s>the theory", " of"),
    ("question " * 90, " a much too long context"),
    ("question " * 90, " the"),
    ("", "naïve café — 漢字 🙂🙂"),
    *[("Question: what?\nAnswer:", f" {option}") for option in ("a", "b", "the", "the end", "the end", "42")],
    *[("many words " * n, "ab " * (n % 4 + 1)) for n in range(1, 13)],
    *[(context, option) for context in ("a", "b the", "aab", "many words", "ab b") for option in OPTIONS],
]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def models(kind: str, **options):
    """The harness's model and ours, of the same weights.

    Without `logits_cache`: with it the harness reads the wrong rows where two requests are the same tokens, divided
    into context and continuation at different places, as periodic texts are by rolling windows.
    """
    pair = []
    for make in (HFLM, InstselLM):
        tokenizer = copy.deepcopy(TOKENIZERS[kind]())
        tokenizer.chat_template = TEMPLATE
        model = new_llama(vocab_size=520, max_position_embeddings=CONTEXT)
        likely = sorted({i for option in OPTIONS for i in tokenizer.encode("a" + option)})
        others = [i for i in range(520) if i not in likely]
        model.lm_head.weight.data[others] *= 0.1  # so that some of the options are what the model would say
        pair.append(make(model, tokenizer=tokenizer, **{"batch_size": 4, "logits_cache": False, **options}))
    return pair


def instances(kind: str, arguments):
    return [Instance(kind, {}, argument, i) for i, argument in enumerate(arguments)]


def assert_same(theirs, ours):
    assert len(theirs) == len(ours)
    np.testing.assert_allclose([a for a, _ in ours], [a for a, _ in theirs], rtol=0, atol=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def scorable(hf, pairs):
    """Without those whose last characters merge into fewer tokens, at which the harness stops."""
    return [pair for pair in pairs if not pair[0] or hf._encode_pair(*pair)[1]]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("bos", [None, True, False])
def test_loglikelihoods_and_flags(kind, bos):
    hf, ours = models(kind, add_bos_token=bos)
    pairs = scorable(hf, PAIRS)
    assert len(pairs) > 40
    theirs = hf.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    assert_same(theirs, ours.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True))
    assert not all(greedy for _, greedy in theirs)
    assert any(greedy for _, greedy in theirs) or kind == "blank-ending"
    texts = [("",), ("é",), ("the other mother " * 3,), ("aa aaa bb\n" * 40,), ("ab " * 700,)]
    rolling = hf.loglikelihood_rolling(instances("loglikelihood_rolling", texts), disable_tqdm=True)
    mine = ours.loglikelihood_rolling(instances("loglikelihood_rolling", texts), disable_tqdm=True)
    np.testing.assert_allclose(mine, rolling, rtol=1e-6, atol=1e-4)


def test_chat_template_and_name_are_those_of_the_tokenizer():
    hf, ours = models("bytes-bos")
    history = [{"role": "user", "content": "the end?"}, {"role": "assistant", "content": "yes"}]
    assert ours.apply_chat_template(history) == hf.apply_chat_template(history)
    pair = [(ours.apply_chat_template(history), " the"), (ours.apply_chat_template(history), " end")]
    assert_same(*(lm.loglikelihood(instances("loglikelihood", pair), disable_tqdm=True) for lm in (hf, ours)))
    assert ours.tok_encode(pair[0][0]).count(0) == 1  # the template's own BOS and no second one
    assert ours.tokenizer_name == hf.tokenizer_name and ours.chat_template(True) == TEMPLATE


def test_shorter_and_longer_limits_than_the_models():
    for limit in (20, CONTEXT, 2 * CONTEXT):
        hf, ours = models("bytes", max_length=limit)
        pairs = [("question " * n, " the end") for n in (1, 10, 60)]
        theirs = hf.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
        assert_same(theirs, ours.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True))


def evaluated(lm, folder, **options):
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(
        lm, tasks=list(TASKS), task_manager=manager, log_samples=True, bootstrap_iters=0, verbosity="ERROR", **options
    )
    return found["results"], found["samples"]


@pytest.mark.parametrize(
    "kind, options",
    [
        ("bytes", {}),
        ("llama-2", {"num_fewshot": 2}),
        ("unigram", {"num_fewshot": 1, "apply_chat_template": True}),
        ("bytes-bos", {"num_fewshot": 2, "apply_chat_template": True, "fewshot_as_multiturn": True}),
    ],
)
def test_figures_of_whole_tasks(kind, options, tmp_path):
    folder = write_tasks(tmp_path)
    (theirs, their_samples), (ours, our_samples) = (evaluated(lm, folder, **options) for lm in models(kind))
    for task in TASKS:
        for name, value in theirs[task].items():
            if not isinstance(value, float):
                assert ours[task][name] == value
            else:
                assert ours[task][name] == pytest.approx(value, rel=1e-5, abs=1e-9), (task, name)
        for there, here in zip(their_samples[task], our_samples[task], strict=True):
            if task != "generated":
                values = [np.ravel(np.array(one["resps"], dtype=object)).astype(str) for one in (there, here)]
                np.testing.assert_allclose(
                    *[[float(v == "True") if v in ("True", "False") else float(v) for v in one] for one in values],
                    rtol=1e-6, atol=1e-4,
                )  # fmt: skip
            else:
                assert here["resps"] == there["resps"]
    assert {"acc,none", "acc_norm,none"} <= set(ours["choices"]) and "word_perplexity,none" in ours["rolling"]


def test_options_of_a_question_are_forwarded_once():
    _, ours = models("bytes")
    header = "the other mother's question and its answer " * 2
    pairs = [(f"{header}{q}?", f" {option}") for q in range(5) for option in ("the", "end", "42", "bread")]
    seen = []
    real = adapter.score_batch
    adapter.score_batch = lambda *args, **options: seen.append(real(*args, **options)) or seen[-1]
    try:
        ours.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    finally:
        adapter.score_batch = real
    assert len(seen) == 1 and seen[0].stats.sharing_factor > 5


def test_interrupted_runs_keep_what_is_done(tmp_path, monkeypatch):
    """With --use_cache a second run asks for nothing that the first one finished."""
    pytest.importorskip("sqlitedict")
    from lm_eval.api.model import CachingLM

    monkeypatch.setattr(adapter, "_SAVED_AT_A_TIME", 8)
    _, ours = models("bytes")
    caching = CachingLM(ours, str(tmp_path / "cache.db"))
    pairs = scorable(ours, PAIRS)
    requests = instances("loglikelihood", pairs)
    real, calls = adapter.score_batch, []

    def stops(scorer, pairs, **options):
        calls.append(len(pairs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(scorer, pairs, **options)

    monkeypatch.setattr(adapter, "score_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        caching.loglikelihood(requests)
    calls.append(0)
    answers = caching.loglikelihood(requests)
    assert calls[:3] == [8, 8, 8] and 0 < sum(calls[4:]) <= len(pairs) - 14
    assert_same(ours.loglikelihood(requests, disable_tqdm=True), answers)


def test_what_the_engine_cannot_score_is_answered_by_the_harness():
    import torch

    hf, ours = models("bytes")
    for lm in (hf, ours):  # a token that no context ever gives: HFLM says minus infinity
        head = lm.model.lm_head
        lm.model.lm_head = torch.nn.Linear(head.in_features, head.out_features, bias=True)
        lm.model.lm_head.weight = head.weight
        lm.model.lm_head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
        lm.model.lm_head.bias.data[ours.tok_encode(" the")[0]] = -torch.inf
    ours = InstselLM(ours.model, tokenizer=ours.tokenizer)
    pairs = [("a", " the"), ("a", " end")]
    theirs, mine = (lm.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True) for lm in (hf, ours))
    assert mine[0] == theirs[0] == (-np.inf, False)
    assert mine[1][0] == pytest.approx(theirs[1][0], abs=1e-4)


def test_an_adapter_of_the_weights_counts(tmp_path):
    peft = pytest.importorskip("peft")
    import torch

    torch.manual_seed(3)
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder())
    tuned = peft.get_peft_model(
        base, peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    )
    tuned.save_pretrained(tmp_path)
    pairs = [("the thing", " is"), ("the thing", " the other")]
    options = {"pretrained": tiny_model_folder(), "device": "cpu", "dtype": "float32"}
    results = [
        lm.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
        for lm in (HFLM(peft=str(tmp_path), **options), InstselLM(peft=str(tmp_path), **options), InstselLM(**options))
    ]
    assert_same(results[0], results[1])
    assert abs(results[2][0][0] - results[1][0][0]) > 1e-2


def test_refusals_name_the_argument():
    with pytest.raises(ValueError, match="parallelize: the engine runs a model on one device"):
        InstselLM(tiny_model_folder(), parallelize=True)
    with pytest.raises(ValueError, match=r"mixed_precision_dtype: .*give dtype"):
        InstselLM(tiny_model_folder(), mixed_precision_dtype="bfloat16")
    _, ours = models("bytes")
    with pytest.raises(ValueError, match="continuation: expected 1 to 96 tokens"):
        ours.loglikelihood(instances("loglikelihood", [("a", " the" * 200)]), disable_tqdm=True)


@pytest.mark.long
def test_command_line(tmp_path):
    folder = write_tasks(tmp_path)
    command = [sys.executable, "-m", "instsel.integrations.lm_eval", "run", "--model", "instsel", "--tasks", "choices"]
    command += ["--model_args", f"pretrained={tiny_model_folder()},dtype=float32,max_batch_tokens=512"]
    command += ["--include_path", str(folder), "--output_path", str(tmp_path / "out"), "--num_fewshot", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    [result] = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(result.read_text())["results"]["choices"]
    hf = HFLM(tiny_model_folder(), device="cpu", dtype="float32")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    theirs = simple_evaluate(hf, tasks=["choices"], num_fewshot=1, task_manager=manager, verbosity="ERROR")
    assert found["acc,none"] == theirs["results"]["choices"]["acc,none"]
    assert "|acc_norm|" in done.stdout.replace(" ", "")
