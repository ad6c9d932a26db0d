"""The engine's CUDA path on a GPU that computes nothing: launches, devices, copies and waits, not numbers.

Run in a process of its own by test_triton_kernels.py.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen

pytest.importorskip("triton")
from fake_gpu import FakeTensor, fake_gpu
from rehearsed_packs import CONFIGURATIONS, find_fused_layers, run_packs, sequences
from transformers import AutoModelForCausalLM

from instsel.engine import execution as execution_module
from instsel.engine import head_timing, wrapped_models
from instsel.engine import model as engine_model
from instsel.engine.model import CausalModel
from instsel.engine.model_session import ModelSession
from instsel.engine.wrapped_models import UnwrappedModel
from instsel.kernels import (
    attention_probes,
    triton_linear_logprob,
    varlen_attention,
)
from instsel.layers import float8_layers, fused_modules
from instsel.layers import replica as engine_replica
from instsel.planning.layout import lay_out

# Of a pack of two layers, on the average. A layer has 12: seven products, attention, two norms, a rotary embedding and
# a gate. Others copy what is kept for later packs, and put it before a layer's own keys and values; make embeddings,
# tables and the last norm; and are the head's.
LAUNCHES = 46


@pytest.fixture(autouse=True)
def fake_weights_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine_model, engine_replica, float8_layers, fused_modules, wrapped_models):
        monkeypatch.setattr(module, "PLAIN_TENSORS", (*engine_replica.PLAIN_TENSORS, FakeTensor))


@pytest.fixture(autouse=True)
def a_cache_of_the_tests_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU without numbers")
    monkeypatch.setattr(head_timing, "milliseconds", lambda head, fused: 1.0 if fused else 2.0)


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
