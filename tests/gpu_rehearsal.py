"""The engine's CUDA path on a GPU that computes nothing: launches, devices, copies and waits, not numbers.

Run in a process of its own by test_triton_kernels.py.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen

pytest.importorskip("triton")
from fake_gpu import FakeGpu, FakeTensor, fake_gpu
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from instsel.engine import execution as execution_module
from instsel.engine import float8_layers, fused_layers, fused_modules, head_timing, model_checks, wrapped_models
from instsel.engine import model as engine_model
from instsel.engine import replica as engine_replica
from instsel.engine.execution import Execution
from instsel.engine.fused_layers import FusedLayers
from instsel.engine.layout import lay_out
from instsel.engine.logprob import pair_logprobs, pair_logprobs_of_logits
from instsel.engine.model import CausalModel
from instsel.engine.model_session import ModelSession
from instsel.engine.planned_tree import plan_trees
from instsel.engine.replica import Replica
from instsel.engine.requests import PreparedRequests
from instsel.engine.sharing_checks import CheckedTree
from instsel.engine.wrapped_models import UnwrappedModel
from instsel.kernels import (
    TreeNodes,
    TreeSegments,
    attention_probes,
    linear_logprob,
    row_logprob,
    tree_attention,
    tree_convolution,
    tree_delta_rule,
    tree_scan,
    triton_linear_logprob,
    varlen_attention,
)

SMALL = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
# Of a pack of two layers, on the average. A layer has 12: seven products, attention, two norms, a rotary embedding and
# a gate. Others copy what is kept for later packs, and put it before a layer's own keys and values; make embeddings,
# tables and the last norm; and are the head's.
LAUNCHES = 46
CONFIGURATIONS = {
    "llama": LlamaConfig(**SMALL),
    "gemma2": Gemma2Config(**SMALL, sliding_window=16, attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
}


@pytest.fixture(autouse=True)
def fake_weights_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine_model, engine_replica, float8_layers, fused_modules, wrapped_models):
        monkeypatch.setattr(module, "PLAIN_TENSORS", (*engine_replica.PLAIN_TENSORS, FakeTensor))


@pytest.fixture(autouse=True)
def a_cache_of_the_tests_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU without numbers")
    monkeypatch.setattr(head_timing, "milliseconds", lambda head, fused: 1.0 if fused else 2.0)


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


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_packs_launch_on_the_models_own_device_and_wait_for_nothing(capability: tuple[int, int]) -> None:
    with fake_gpu("cuda:1", capability) as gpu:
        execution = run_packs(gpu, "llama")
    assert gpu.complaints == [] and "unseen_values_kernel" not in gpu.launches
    assert execution.packs >= 5 and gpu.launches.count("tree_attention_kernel") == 2 * execution.packs
    assert {"linear_states_kernel", "join_states_kernel", "pairs_from_hidden_kernel"} < set(gpu.launches)
    # Two layers: two norms in each, with the sums before them, and the last one.
    for kernel, number in (("layer_norm_kernel", 5), ("layer_rotary_kernel", 2), ("layer_gate_kernel", 2)):
        assert gpu.launches.count(kernel) == number * execution.packs
    assert gpu.current == 0, "the caller's current device is as it was"


def test_layers_look_for_what_is_not_finite_where_they_are_asked_to() -> None:
    with fake_gpu() as gpu:
        execution = run_packs(gpu, "llama", find_again=True)
    assert gpu.launches.count("unseen_values_kernel") == 2 * execution.packs and gpu.complaints == []


def test_where_a_layer_runs_its_own_code_every_layer_looks() -> None:
    """What that code makes of a number that is not finite is not known."""
    with fake_gpu() as gpu:
        loaded = AutoModelForCausalLM.from_config(CONFIGURATIONS["llama"], dtype=torch.bfloat16).eval().to(gpu.device)
        model = CausalModel(UnwrappedModel(loaded, loaded), backend="triton")
        model.shareable_length = model.max_length
        fused = find_fused_layers(gpu, model)
        assert ModelSession(model, fused).rows_stay_nonfinite
        fused.whole = dict([*fused.whole.items()][:1])
        assert not ModelSession(model, fused).rows_stay_nonfinite and not ModelSession(model).rows_stay_nonfinite


def test_a_pack_is_given_before_the_one_before_it_is_waited_for() -> None:
    """So that the host lays out and launches while the GPU computes; and no pack waits longer."""
    with fake_gpu() as gpu:
        run_packs(gpu, "llama")
    count = len(gpu.events) // 2
    expected = [("recorded", 0)]
    for number in range(1, count):
        expected += [("recorded", number), ("waited for", number - 1)]
    assert count >= 4 and gpu.events == [*expected, ("waited for", count - 1)] and gpu.complaints == []


def test_launches_and_host_time_of_a_pack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Launches are counted; the time of laying out is only said."""
    laid_out: list[float] = []

    def timed(*given):
        began = time.process_time()
        layout = lay_out(*given)
        laid_out.append(time.process_time() - began)
        return layout

    monkeypatch.setattr(execution_module, "lay_out", timed)
    with fake_gpu() as gpu:
        packs = run_packs(gpu, "llama").packs
    launches = len(gpu.launches) + len(gpu.operations)
    with capsys.disabled():
        print(f"\n{launches / packs:.1f} launches and {1e3 * sum(laid_out) / packs:.2f} ms of laying out a pack")
    assert len(laid_out) == packs and launches <= packs * LAUNCHES


@pytest.mark.parametrize("failing", [("varlen",), ()])
def test_a_failing_attention_is_passed_over_and_prefixes_are_shared(
    failing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `backend="auto"`: torch's varlen attention, which some builds refuse, comes first where little is copied."""
    taken: list[str] = []

    def difference(backend: str, _: object) -> float:
        if backend in failing:
            raise RuntimeError("num_splits requires FA3")
        return 0.0

    def varlen(query, *arguments, **options):
        taken.append("varlen")
        return torch.empty_like(query)

    monkeypatch.setattr(attention_probes, "relative_difference", difference)
    monkeypatch.setattr(varlen_attention, "has_torch_varlen", lambda: True)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen)
    attention_probes.backend_failure.cache_clear()
    with warnings.catch_warnings(record=True) as said, fake_gpu() as gpu:
        warnings.simplefilter("always")
        execution = run_packs(gpu, "llama", backend="auto")
    assert "tree_attention_kernel" in gpu.launches or not failing
    assert bool(taken) == (not failing)
    assert len([one for one in said if "passed over" in str(one.message)]) == len(failing)
    assert execution.tokens_forwarded < sum(len(one) for one in sequences()[0]) and gpu.complaints == []


@pytest.mark.parametrize("faster", [True, False])
def test_the_head_is_timed_once_and_runs_as_it_was_found_faster(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At load, and not again by the next process: its packs run by what is kept."""
    asked: list[bool] = []

    def milliseconds(head: object, *, fused: bool) -> float:
        asked.append(fused)
        return 1.0 if fused == faster else 2.0

    monkeypatch.setattr(head_timing, "milliseconds", milliseconds)
    monkeypatch.setattr(triton_linear_logprob, "float32_product", lambda left, right, out: out)
    for _ in range(2):
        with fake_gpu() as gpu:
            run_packs(gpu, "llama")
        assert gpu.complaints == [] and asked == [True, False]
        kernel, other = ("linear_states_kernel", "row_states_kernel")[:: 1 if faster else -1]
        assert gpu.launches.count(kernel) > 1 and other not in gpu.launches


def test_few_variants_of_a_kernel_are_compiled_over_many_packs() -> None:
    """Each would take two seconds on its first launch."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(320):
        prefix = rng.integers(2, 512, rng.integers(5, 60))
        found += [
            np.concatenate([prefix, rng.integers(2, 512, rng.integers(2, 30))]) for _ in range(rng.integers(1, 5))
        ]
    given = [np.asarray(one, np.int32) for one in found], [len(one) - 1 for one in found]
    with fake_gpu() as gpu:
        execution = run_packs(gpu, "gemma2", given=given)
    assert execution.packs >= 200 and gpu.complaints == []
    counts = {name: len(variants) for name, variants in gpu.variants.items()}
    assert {"tree_attention_kernel", "layer_norm_kernel", "layer_rotary_kernel", "layer_gate_kernel"} < set(counts)
    assert max(counts.values()) <= 3, counts


@pytest.mark.parametrize("logits", [False, True])
def test_with_windows_and_soft_caps_and_with_the_models_own_logits(logits: bool) -> None:
    with fake_gpu() as gpu:
        run_packs(gpu, "gemma2", logits=logits)
    assert gpu.complaints == []
    assert ("row_states_kernel" in gpu.launches) == logits == ("pairs_from_logits_kernel" in gpu.launches)


def test_products_in_float8_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    own, taken = torch._scaled_mm, list[tuple[int, ...]]()

    def product(x, weight, **scales):
        assert x.dtype == weight.dtype == torch.float8_e4m3fn and x.stride(1) == weight.stride(0) == 1
        assert scales["scale_a"].shape == (len(x), 1) and scales["scale_b"].shape == (1, weight.shape[1])
        assert all(one.is_contiguous() and one.dtype == torch.float32 for one in (scales["scale_a"], scales["scale_b"]))
        taken.append(tuple(weight.shape))
        return own(x, weight, **scales)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    with fake_gpu() as gpu:
        execution = run_packs(gpu, "llama", float8=True)
    assert gpu.complaints == []
    # Of each of two layers queries, what attention gives, gate, up and down; keys and values have too few columns.
    assert len(taken) == 10 * execution.packs and set(taken) == {(64, 64), (64, 96), (96, 64)}
    assert gpu.launches.count("layer_gate_kernel") == 2 * execution.packs


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
        row_logprob(weight[:9], index, index, offsets=offsets, backend="triton")
    assert gpu.complaints == [] and gpu.launches[0] == "tree_attention_kernel"
    assert gpu.launches.count("sequence_sums_kernel") == 2
    assert gpu.launches[-1] == "sequence_sums_kernel"


def test_unfused_products_have_float32_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """16-bit logits would be off by up to 0.06 nats; every row of a chunk meets every entry of another."""
    products: list[tuple[int, int, int, int]] = []

    def mm(left, right, *, out, out_dtype=None):
        assert out.dtype == out_dtype == torch.float32
        assert left.shape[1] == right.shape[0] and out.shape == (left.shape[0], right.shape[1])
        products.append((left.storage_offset(), left.shape[0], right.storage_offset(), right.shape[1]))
        return out

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(triton_linear_logprob, "CHUNK_ROWS", 5)
    monkeypatch.setattr(triton_linear_logprob, "CHUNK_ENTRIES", 48)
    with fake_gpu("cuda:3") as gpu:
        hidden = torch.empty(9, 16, dtype=torch.bfloat16, device=gpu.device)
        weight = torch.empty(90, 16, dtype=torch.bfloat16, device=gpu.device)
        index = torch.zeros(9, dtype=torch.int64, device=gpu.device)
        linear_logprob(hidden, weight, index, index, argmax=True, backend="triton", fused=False)
    assert gpu.complaints == [] and gpu.launches.count("row_states_kernel") == 4
    assert products == [(0, 5, 0, 48), (80, 4, 0, 48), (0, 5, 768, 42), (80, 4, 768, 42)]


def test_recurrences_launch_a_level_at_a_time() -> None:
    nodes = TreeNodes.from_lists([0, 5, 9, 9, 12], [-1, 0, 0, -2], 1)  # of two levels
    with fake_gpu("cuda:3") as gpu:
        x = torch.empty(12, 2, 8, dtype=torch.bfloat16, device=gpu.device)
        steps = torch.empty(12, 2, device=gpu.device)
        state = torch.empty(1, 2, 8, 8, device=gpu.device)
        with gpu.busy():
            tree_delta_rule(x, x, x, steps, steps, nodes, initial=state, keep=[1], backend="triton")
            tree_scan(x, steps, steps[0], x, x, nodes, initial=state, backend="triton")
        begun = torch.empty(1, 1, 8, dtype=x.dtype, device=gpu.device)
        weight = x[0, :, :].T.contiguous()
        with gpu.busy():
            tree_convolution(x[:, 0], weight, nodes, initial=begun, keep=[1, 3], backend="triton")
    assert gpu.complaints == []
    assert gpu.launches == [*["tree_recurrence_kernel"] * 4, "tree_convolution_kernel"]


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
