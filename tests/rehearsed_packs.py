"""A small model on a GPU that computes nothing, and packs of requests run through it as scoring does."""

from __future__ import annotations

import contextlib
from functools import partial
from unittest import mock

import numpy as np
import torch
from fake_gpu import FakeGpu
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from instsel.engine import model_checks
from instsel.engine.execution import Execution
from instsel.engine.logprob import pair_logprobs, pair_logprobs_of_logits
from instsel.engine.model import CausalModel
from instsel.engine.model_session import ModelSession
from instsel.engine.requests import PreparedRequests
from instsel.engine.sharing_checks import CheckedTree
from instsel.engine.wrapped_models import UnwrappedModel
from instsel.layers import float8_layers, fused_layers
from instsel.layers.fused_layers import FusedLayers
from instsel.layers.replica import Replica
from instsel.planning.planned_tree import plan_trees

SMALL = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
CONFIGURATIONS = {
    "llama": LlamaConfig(**SMALL),
    "gemma2": Gemma2Config(**SMALL, sliding_window=16, attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
}


def sequences() -> tuple[list[np.ndarray], list[int]]:
    """Groups with prefixes in common, longer and shorter than a pack."""
    rng = np.random.default_rng(0)
    found = []
    for length in (20, 70, 150):
        prefix = rng.integers(2, 512, length)
        found += [np.concatenate([prefix, rng.integers(2, 512, rest)]) for rest in (5, 9, 30)]
    return [np.asarray(one, np.int32) for one in found], [len(one) - 4 for one in found]


def find_fused_layers(gpu: FakeGpu, model: CausalModel) -> FusedLayers:
    """As at load, but that there are no numbers to hold them against."""
    session = ModelSession(model)
    model.signature = session.replica.signature
    tree = CheckedTree(model, session, np.arange(3, 27))
    same = mock.patch.object(fused_layers, "gives_the_same_on_gpu", lambda *_: True)
    with same, session.inference_context(), session.ready():
        found = FusedLayers(session.replica, partial(tree.run_first_pack, session), "triton")
    session.close()
    assert len(found.whole) == 2 and found.reasons == {}
    gpu.launches.clear()
    gpu.operations.clear()
    gpu.variants.clear()
    return found


def run_packs(
    gpu: FakeGpu,
    name: str,
    *,
    logits: bool = False,
    backend: str = "triton",
    given: tuple[list[np.ndarray], list[int]] | None = None,
    find_again: bool = False,
    float8: bool = False,
) -> Execution:
    """All packs of some requests, their results asked for and waited for as scoring does."""
    loaded = AutoModelForCausalLM.from_config(CONFIGURATIONS[name], dtype=torch.bfloat16).eval().to(gpu.device)
    model = CausalModel(UnwrappedModel(loaded, loaded), backend=backend)
    model.shareable_length = model.max_length
    model.fused_layers = find_fused_layers(gpu, model)
    model_checks._choose_head(model)
    if float8:
        replica = Replica(loaded)
        places = float8_layers.find_places(replica, replica.of(loaded.model), loaded.config)
        model.float8 = float8_layers.Float8Layers(places, keep=True)
    session = ModelSession(model)
    assert model.device == gpu.device and session.head is not None and session.rows_stay_nonfinite
    session.find_again = find_again
    prepared = PreparedRequests.from_ids(*(given or sequences()))

    def output(layout, rows):
        if logits:
            read = pair_logprobs_of_logits(rows, layout.pair_row, layout.pair_target, backend="triton")
        else:
            read = pair_logprobs(rows, session.head, layout.pair_row, layout.pair_target, backend="triton")

        def waited() -> np.ndarray:
            with contextlib.suppress(Exception):  # tensors without numbers have none to give
                read()
            return np.zeros(0)

        return waited

    trees = plan_trees(prepared.tokens, prepared.offsets, prepared.first_scored, 96, model.shareable_length)
    execution = Execution(session, trees, output, sequences=len(prepared), logits=logits, progress=lambda tokens: None)
    with gpu.busy(), contextlib.closing(execution.results()) as results:
        assert len(list(results)) > 1
    assert not execution.failed.any()
    return execution
