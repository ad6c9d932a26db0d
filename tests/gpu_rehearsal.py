"""The engine's CUDA path on a GPU that computes nothing: launches, devices, copies and waits, not numbers.

Run in a process of its own by test_triton_kernels.py.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from fake_gpu import FakeGpu, FakeTensor, fake_gpu
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from instsel.engine import model as engine_model
from instsel.engine import replica as engine_replica
from instsel.engine import wrapped_models
from instsel.engine.execution import Execution, plan_work
from instsel.engine.guest import Guest
from instsel.engine.logprob import pair_logprobs, pair_logprobs_of_logits
from instsel.engine.model import CausalModel
from instsel.engine.requests import Prepared
from instsel.engine.wrapped_models import HeldModel
from instsel.kernels import TreeSegments, linear_logprob, tree_attention

SMALL = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
CONFIGURATIONS = {
    "llama": LlamaConfig(**SMALL),
    "gemma2": Gemma2Config(**SMALL, sliding_window=16, attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
}


@pytest.fixture(autouse=True)
def fake_weights_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine_model, engine_replica, wrapped_models):
        monkeypatch.setattr(module, "PLAIN_TENSORS", (*engine_replica.PLAIN_TENSORS, FakeTensor))


def sequences() -> tuple[list[np.ndarray], list[int]]:
    """Groups with prefixes in common, longer and shorter than a pack."""
    rng = np.random.default_rng(0)
    found = []
    for length in (20, 70, 150):
        prefix = rng.integers(2, 512, length)
        found += [np.concatenate([prefix, rng.integers(2, 512, rest)]) for rest in (5, 9, 30)]
    return [np.asarray(one, np.int32) for one in found], [len(one) - 4 for one in found]


def run_packs(gpu: FakeGpu, name: str, *, logits: bool = False) -> Execution:
    """All packs of some requests, their results asked for as scoring does, but not read."""
    loaded = AutoModelForCausalLM.from_config(CONFIGURATIONS[name], dtype=torch.bfloat16).eval().to(gpu.device)
    model = CausalModel(HeldModel(loaded, loaded), backend="triton")
    model.shareable_length = model.max_length
    guest = Guest(model)
    assert model.device == gpu.device and guest.head is not None
    prepared = Prepared.from_ids(*sequences())

    def consume(layout, rows):
        if logits:
            pair_logprobs_of_logits(rows, layout.pair_row, layout.pair_target, backend="triton")
        else:
            pair_logprobs(rows, guest.head, layout.pair_row, layout.pair_target, backend="triton")
        return lambda: None

    execution = Execution(guest, logits=logits, consume=consume, fail=pytest.fail, progress=lambda tokens: None)
    with gpu.busy():
        for work in plan_work(prepared.tokens, prepared.offsets, prepared.first_scored, 96, model.shareable_length):
            execution.run(work)
    return execution


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_packs_launch_on_the_models_own_device_and_wait_for_nothing(capability: tuple[int, int]) -> None:
    with fake_gpu("cuda:1", capability) as gpu:
        execution = run_packs(gpu, "llama")
    assert gpu.complaints == []
    assert execution.packs >= 5 and gpu.launches.count("tree_attention_kernel") == 2 * execution.packs
    assert {"linear_states_kernel", "join_states_kernel", "pairs_from_hidden_kernel"} < set(gpu.launches)
    assert gpu.current == 0, "the caller's current device is as it was"


@pytest.mark.parametrize("logits", [False, True])
def test_with_windows_and_soft_caps_and_with_the_models_own_logits(logits: bool) -> None:
    with fake_gpu() as gpu:
        run_packs(gpu, "gemma2", logits=logits)
    assert gpu.complaints == []
    assert ("row_states_kernel" in gpu.launches) == logits == ("pairs_from_logits_kernel" in gpu.launches)


def test_the_kernels_alone_launch_where_their_tensors_are() -> None:
    segments = TreeSegments.from_lists([0, 5, 9], [[], [(0, 5)]])
    with fake_gpu("cuda:3") as gpu:
        query = torch.empty(9, 4, 64, dtype=torch.bfloat16, device=gpu.device)
        key = torch.empty(9, 2, 64, dtype=torch.bfloat16, device=gpu.device)
        tree_attention(query, key, key, segments, backend="triton")
        index = torch.zeros(9, dtype=torch.int64, device=gpu.device)
        weight = torch.empty(512, 64, dtype=torch.bfloat16, device=gpu.device)
        offsets = torch.zeros(2, dtype=torch.int64, device=gpu.device)
        linear_logprob(query[:, 0], weight, index, index, offsets=offsets, argmax=True, backend="triton")
    assert gpu.complaints == [] and gpu.launches[0] == "tree_attention_kernel"
    assert gpu.launches[-1] == "sequence_sums_kernel"


def waiting_copy(gpu: FakeGpu) -> None:
    torch.zeros(3).to(gpu.device)


def pageable_copy(gpu: FakeGpu) -> None:
    torch.zeros(3).to(gpu.device, non_blocking=True)


def number_read(gpu: FakeGpu) -> None:
    torch.zeros(3, device=gpu.device).sum().item()


def rows_counted(gpu: FakeGpu) -> None:
    torch.zeros(3, device=gpu.device).nonzero()


def waiting_result(gpu: FakeGpu) -> None:
    torch.zeros(3, device=gpu.device).cpu()


def event_elsewhere(gpu: FakeGpu) -> None:
    torch.cuda.Event().record()


def launched_elsewhere(gpu: FakeGpu) -> None:
    from instsel.kernels.triton_pairs import join_states

    join_states(*(torch.zeros(2, 9, device=gpu.device) for _ in range(2)), None)


def tensor_elsewhere(gpu: FakeGpu) -> None:
    from instsel.kernels.triton_pairs import join_states

    with torch.cuda.device(gpu.device):
        join_states(torch.zeros(2, 9, device=gpu.device), torch.zeros(2, 9), None)


def grid_too_large(gpu: FakeGpu) -> None:
    from instsel.kernels.triton_linear_states import linear_states_kernel

    with torch.cuda.device(gpu.device):
        linear_states_kernel[(3, 65_536)]()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (waiting_copy, "from cpu to cuda that waits"),
        (pageable_copy, "not page-locked"),
        (number_read, "reads a number"),
        (rows_counted, "reads a number"),
        (waiting_result, "from cuda to cpu that waits"),
        (event_elsewhere, "an event was recorded while cuda:0"),
        (launched_elsewhere, "was launched while cuda:0"),
        (tensor_elsewhere, "a tensor on cpu"),
        (grid_too_large, "has the grid"),
    ],
)
def test_faults_made_on_purpose_are_seen(fault, said: str) -> None:
    with fake_gpu() as gpu, gpu.busy(), contextlib.suppress(Exception):  # tensors without numbers have none to give
        fault(gpu)
    assert any(said in complaint for complaint in gpu.complaints), gpu.complaints
