"""llama.cpp with its own sharing: a prefix is decoded once as a part of all the sequences that begin with it.

Recurrent layers as well: llama.cpp divides such a pack into micro-batches of equally many tokens of each sequence.
Needs the packages `llama-cpp-python` (built for this processor: CMAKE_ARGS="-DGGML_NATIVE=ON") and `gguf`, which writes
the same weights as a file that it reads. Packs, logits of the rows that are needed and no others, and flash attention
but in float32: it takes keys and values in float16 alone, by which scores were 1e-3 nats a token from the reference.
"""

from __future__ import annotations

import ctypes
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from workloads import Workload

from competitors.gguf_weights import write_gguf
from competitors.packs import Pack, packs_of

BATCH_SIZES = (512, 1024, 2048)  # tokens of a pack, which goes through the model as one micro-batch
LARGEST_SHARED = 64  # sequences that llama.cpp keeps apart in one pack; parts of larger groups repeat the prefix


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Writes the weights as GGUF, loads them and plans the packs."""
    import llama_cpp

    packs = packs_of(work, batch_size, most=LARGEST_SHARED)
    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(model, path)
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers, settings.use_mmap = 0, False
        loaded = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
    tokens = max(LARGEST_SHARED, *(len(pack.ids) for pack in packs))
    context = _context(loaded, tokens, exact=model.dtype == torch.float32)
    lengths = np.array([len(continuation) for _, continuation in work.requests])

    def score() -> np.ndarray:
        total = np.zeros(len(work))
        for pack in packs:
            np.add.at(total, pack.requests, _logprobs(context, pack, model.config.vocab_size))
        return total / lengths

    weakref.finalize(score, _free, context, loaded)  # of a trial: the next one needs its memory
    return score


def _free(context: Any, loaded: Any) -> None:
    import llama_cpp

    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(loaded)


def _silent(level: int, text: bytes, data: Any) -> None:
    """Says nothing of what it loads."""


_SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_silent)


def _context(loaded: Any, tokens: int, *, exact: bool) -> Any:
    import llama_cpp

    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = tokens
    settings.n_seq_max, settings.kv_unified = LARGEST_SHARED, True
    settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
    settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    if exact:
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
    context = llama_cpp.llama_init_from_model(loaded, settings)
    if not context:
        raise RuntimeError("llama.cpp gave no context")
    return context


def _logprobs(context: Any, pack: Pack, vocabulary: int) -> np.ndarray:
    """Log-probabilities of a pack's targets, from one forward in an empty cache."""
    import llama_cpp

    members = pack.sequences()
    batch = llama_cpp.llama_batch_init(len(pack.ids), 0, max(map(len, members)))
    rows, index = np.unique(pack.rows, return_inverse=True)
    wanted = set(rows.tolist())
    batch.n_tokens = len(pack.ids)
    for place, (token, position, sequences) in enumerate(zip(pack.ids, pack.positions, members, strict=True)):
        batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, position, len(sequences)
        batch.logits[place] = place in wanted
        for entry, sequence in enumerate(sequences):
            batch.seq_id[place][entry] = sequence
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
    if code := llama_cpp.llama_decode(context, batch):
        raise RuntimeError(f"llama_decode gave {code}")
    llama_cpp.llama_batch_free(batch)
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(rows), vocabulary))
    found = torch.from_numpy(logits)
    targets = torch.tensor(pack.targets)
    places = torch.from_numpy(index)
    return (found[places, targets].double() - found.logsumexp(-1)[places].double()).numpy()
