"""The kernels alone on a GPU that computes nothing, and what that GPU must complain of.

Run in a process of its own by test_triton_kernels.py.
"""

from __future__ import annotations

import contextlib

import pytest
import torch

pytest.importorskip("triton")
from fake_gpu import FakeGpu, fake_gpu

from instsel.kernels import (
    TreeNodes,
    TreeSegments,
    linear_logprob,
    row_logprob,
    tree_attention,
    tree_convolution,
    tree_delta_rule,
    tree_scan,
    triton_linear_logprob,
)


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
