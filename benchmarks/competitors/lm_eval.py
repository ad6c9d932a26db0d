"""lm-evaluation-harness's own `HFLM.loglikelihood`, from its package `lm-eval`."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from workloads import Workload

BATCH_SIZES = (1, 4, 16)
GPU_BATCH_SIZES = (8, 16, 32, 64)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """The harness around the same loaded model, the requests as texts of which each word is one token's number."""
    logging.disable(logging.WARNING)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = model.config.vocab_size
    names = ["<s>", "</s>", *map(str, range(2, vocabulary))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    # By itself the harness takes the log-softmax in the model's dtype, which in bfloat16 gives other numbers.
    harness = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=False, softmax_dtype="float32"
    )

    def text(ids: list[int]) -> str:
        return " ".join(names[i] for i in ids)

    instances = [
        Instance("loglikelihood", {}, (text(context), " " + text(continuation)), i)
        for i, (context, continuation) in enumerate(work.requests)
    ]
    lengths = np.array([len(continuation) for _, continuation in work.requests])

    def score() -> np.ndarray:
        return np.array([total for total, _ in harness.loglikelihood(instances, disable_tqdm=True)]) / lengths

    return score
