"""The kernels on a GPU: checked against float64 and timed beside what else there is; a step of `gpu_run`.

Medians of CUDA events on random data, inputs larger than the cache.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from instsel.kernels import TreeSegments, linear_logprob, row_logprob, tree_attention

SIZE, VOCABULARY = 4096, 128_256  # the head of Llama-3.1-8B


def milliseconds(call: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return float(do_bench(call, warmup=100, rep=600, return_mode="median"))


def extra_megabytes(call: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def ceilings() -> dict[str, Any]:
    """What the machine can do: bytes read plus written by a copy, and a bfloat16 product of random matrices."""
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    copy = milliseconds(partial(target.copy_, source))
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    product = milliseconds(lambda: a @ b)
    return {"copy_gb_per_s": 2 * 4 * (1 << 30) / copy / 1e6, "product_tflop_per_s": 2 * 8192**3 / product / 1e9}


def rows() -> dict[str, Any]:
    num_rows, vocabulary = 8192, 151_936
    logits = torch.randn(num_rows, vocabulary, device="cuda").bfloat16()
    index, targets = torch.arange(num_rows, device="cuda"), torch.randint(0, vocabulary, (num_rows,), device="cuda")
    got = row_logprob(logits, index, targets, argmax=True)
    sample = logits[:64].double()
    exact = torch.log_softmax(sample, -1)[torch.arange(64), targets[:64]]
    error = float((got.logprob[:64] - exact).abs().max())
    assert error < 2e-5, error
    again = row_logprob(logits, index, targets, argmax=True)
    assert torch.equal(got.logprob, again.logprob)
    alone = row_logprob(logits[7:8], index[:1], targets[7:8])
    assert torch.equal(alone.logprob[0], got.logprob[7])
    size = logits.numel() * 2 / 1e6
    usual = torch.compile(lambda x, t: x.gather(1, t[:, None])[:, 0].float() - torch.logsumexp(x.float(), -1))
    result: dict[str, Any] = {"shape": [num_rows, vocabulary], "error": error}
    for name, call in {
        "instsel": lambda: row_logprob(logits, index, targets),
        "instsel with arg max": lambda: row_logprob(logits, index, targets, argmax=True),
        "compiled logsumexp and gather": lambda: usual(logits, targets),
    }.items():
        time_ms = milliseconds(call)
        result[name] = {"ms": time_ms, "gb_per_s": size / time_ms}
    return result


def competitors(hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, Callable[[], Any]]:
    """Other people's forward passes of the same loss, where they are installed."""
    found: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        found["cut-cross-entropy"] = lambda: linear_cross_entropy(hidden, weight, targets, reduction="none")
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.ops.fused_linear_cross_entropy import fused_linear_cross_entropy_forward

        found["Liger"] = lambda: fused_linear_cross_entropy_forward(hidden, weight, targets)
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        function = torch.nn.functional.linear_cross_entropy
        found["torch linear_cross_entropy"] = lambda: function(hidden, weight, targets, reduction="none")
    compiled = torch.compile(lambda h, w, t: torch.nn.functional.cross_entropy((h @ w.T).float(), t, reduction="none"))
    found["compiled product and cross-entropy"] = lambda: compiled(hidden, weight, targets)
    return found


def head(num_rows: int) -> dict[str, Any]:
    hidden = torch.randn(num_rows, SIZE, device="cuda").bfloat16()
    weight = (torch.randn(VOCABULARY, SIZE, device="cuda") * 0.02).bfloat16()
    index, targets = torch.arange(num_rows, device="cuda"), torch.randint(0, VOCABULARY, (num_rows,), device="cuda")
    exact = torch.log_softmax(hidden[:32].double() @ weight.double().T, -1)[torch.arange(32), targets[:32]]
    result: dict[str, Any] = {"shape": [num_rows, SIZE, VOCABULARY]}
    flop = 2 * num_rows * SIZE * VOCABULARY
    calls: dict[str, Callable[[], Any]] = {}
    for fused in (True, False):
        for argmax in (False, True):
            options: dict[str, Any] = {"fused": fused, "argmax": argmax}
            got = linear_logprob(hidden, weight, index, targets, **options)
            error = float((got.logprob[:32] - exact).abs().max())
            assert error < 2e-5 * SIZE**0.5, error
            if fused:
                alone = linear_logprob(hidden[5:6], weight, index[:1], targets[5:6], **options)
                assert torch.equal(alone.logprob[0], got.logprob[5]), "a row depends on its batch"
            name = f"instsel {'fused' if fused else 'unfused'}{' with arg max' if argmax else ''}"
            calls[name] = lambda options=options: linear_logprob(hidden, weight, index, targets, **options)
            result[name] = {"error": error}
    calls["bare product"] = lambda: torch.mm(hidden, weight.T)
    calls |= competitors(hidden, weight, targets)
    for name, call in calls.items():
        entry = result.setdefault(name, {})
        try:
            entry["extra_mb"] = extra_megabytes(call)
            entry["ms"] = milliseconds(call)
            entry["tflop_per_s"] = flop / entry["ms"] / 1e9
        except Exception as error:  # a competitor that does not run here is a result too
            entry["failed"] = f"{type(error).__name__}: {error}"[:300]
            torch.cuda.empty_cache()
    return result


def attention() -> dict[str, Any]:
    """Packs of Llama-3.1-8B's heads: the Triton kernel against flash attention over gathered paths."""
    result: dict[str, Any] = {}
    for prefix, answer, answers in ((196, 196, 40), (2048, 64, 200), (512, 4, 1000)):
        offsets = [0, *range(prefix, prefix + answer * answers + 1, answer)]
        segments = TreeSegments.from_lists(offsets, [[], *[[(0, prefix)]] * answers])
        query, key, value = (torch.randn(offsets[-1], h, 128, device="cuda").bfloat16() for h in (32, 8, 8))
        expected = tree_attention(query, key, value, segments, backend="reference")
        pairs = prefix**2 / 2 + answers * (answer * prefix + answer**2 / 2)
        entry: dict[str, Any] = {}
        for backend in ("triton", "varlen"):
            try:
                got = tree_attention(query, key, value, segments, backend=backend)
                error = float((got - expected).abs().max())
                assert error < 0.05, error
                time_ms = milliseconds(partial(tree_attention, query, key, value, segments, backend=backend))
                entry[backend] = {"ms": time_ms, "tflop_per_s": 4 * 32 * 128 * pairs / time_ms / 1e9, "error": error}
            except Exception as error:
                entry[backend] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        result[f"prefix {prefix}, {answers} answers of {answer}"] = entry
    return result


def calls(device: str, tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """The timings as a step of `gpu_run`, what decides most first; nothing where there is no GPU to time."""
    if torch.device(device).type != "cuda":
        return {"kernels": lambda: {"ok": True, "left_out": f"kernels are timed on a GPU, not on {device}"}}

    def section(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return {"ok": True, **run()}

    sections = {
        "ceilings": ceilings,
        "tree_attention": attention,
        "linear_logprob 16384": partial(head, 16_384),
        "row_logprob": rows,
        "linear_logprob 4096": partial(head, 4096),
    }
    return {name: partial(section, run) for name, run in sections.items()}
