"""A backend of attention is taken where it agrees with the reference, and passed over, with a reason, elsewhere.

A GPU's are tried in the same way as the processor's are here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from instsel.kernels import TreeSegments, attention_kinds, attention_probes, tree_attention, varlen_attention
from instsel.kernels.attention_kinds import AttentionKind, AttentionOptions, implementation
from instsel.kernels.attention_probes import backend_failure, relative_difference
from instsel.kernels.tree_attention import choose_attention_backend

PLAIN = AttentionKind(torch.device("cpu"), torch.float32, 64, 3, False, False, False)
EVERYTHING = AttentionKind(torch.device("cpu"), torch.float32, 40, 1, True, True, True)


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    for found in (backend_failure, implementation):
        found.cache_clear()
    yield
    for found in (backend_failure, implementation):
        found.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [PLAIN, EVERYTHING])
def test_a_right_backend_is_within_the_tolerance_and_far_from_it(kind: AttentionKind, dtype: torch.dtype) -> None:
    given = AttentionKind(kind.device, dtype, *[getattr(kind, name) for name in kind.__slots__[2:]])
    for backend in ("reference", "cpu"):
        assert relative_difference(backend, given) < attention_probes.TOLERANCE[dtype] / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend_failure("cpu", given) is None


def without(option: str) -> Callable[..., Tensor]:
    """The reference, deaf to one option."""

    def run(query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions) -> Tensor:
        return implementation("reference")(query, key, value, segments, options._replace(**{option: None}))

    return run


def sees_its_siblings(
    query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions
) -> Tensor:
    """As if all tokens before one in the pack were its path."""
    whole = TreeSegments.from_lists([0, query.shape[0]], [[]])
    return implementation("reference")(query, key, value, whole, options)


def one_key_late(
    query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions
) -> Tensor:
    """A window that is off by one."""
    return implementation("reference")(query, key, value, segments, options._replace(window=options.window - 1))


def raises(error: Exception) -> Callable[..., Tensor]:
    def run(*given: Any, **options: Any) -> Tensor:
        raise error

    return run


def put(monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Tensor], name: str = "cpu") -> None:
    sound = implementation
    monkeypatch.setattr(attention_probes, "implementation", lambda asked: broken if asked == name else sound(asked))


@pytest.mark.parametrize(
    "broken", [without("window"), without("softcap"), without("sinks"), sees_its_siblings, one_key_late]
)
def test_a_backend_that_gives_other_numbers_is_passed_over(
    broken: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, broken)
    for dtype in (torch.float32, torch.bfloat16):
        given = AttentionKind(EVERYTHING.device, dtype, 64, 2, True, True, True)
        with pytest.warns(UserWarning, match=r"backend 'cpu' is passed over: it differs from the reference by \d"):
            assert backend_failure("cpu", given) is not None


def wrong_in_16_bits(
    query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions
) -> Tensor:
    found = implementation("reference")(query, key, value, segments, options)
    return found if query.dtype == torch.float32 else found.roll(1, 0)


def no_numbers(query: Tensor, *given: Any, **options: Any) -> Tensor:
    return torch.full_like(query, float("nan"))


def one_head_for_another(
    query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions
) -> Tensor:
    """As if all query heads of a group were its first."""
    group = query.shape[1] // key.shape[1]
    return implementation("reference")(query[:, ::group].repeat_interleave(group, 1), key, value, segments, options)


@pytest.mark.parametrize("broken", [wrong_in_16_bits, no_numbers, one_head_for_another])
def test_a_backend_that_fails_in_the_calls_own_type_and_heads(
    broken: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, broken)
    given = AttentionKind(torch.device("cpu"), torch.bfloat16, 64, 3, False, False, False)
    with pytest.warns(UserWarning, match="is passed over: it differs from the reference"):
        assert backend_failure("cpu", given) is not None


def test_a_backend_that_raises_is_passed_over_and_lack_of_memory_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, raises(RuntimeError("num_splits requires FA3\nand a second line")))
    with pytest.warns(
        UserWarning, match="head size 64: backend 'cpu' is passed over: RuntimeError: num_splits requires FA3$"
    ):
        assert backend_failure("cpu", PLAIN) == "RuntimeError: num_splits requires FA3"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert backend_failure("cpu", PLAIN) is not None
    put(monkeypatch, raises(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        backend_failure("cpu", EVERYTHING)


@pytest.mark.parametrize(
    ("failing", "short", "long"),
    [((), "varlen", "triton"), (("varlen",), "triton", "triton"), (("triton",), "varlen", "varlen"),
     (("varlen", "triton"), "reference", "reference")],
)  # fmt: skip
def test_the_first_that_agrees_is_taken(
    failing: tuple[str, ...], short: str, long: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree with few copies of a key, and one with many."""
    module = __import__("sys").modules[tree_attention.__module__]
    monkeypatch.setattr(module, "backend_failure", lambda name, kind: "no" if name in failing else None)
    monkeypatch.setattr(module, "varlen_error", lambda kind: None)
    monkeypatch.setattr(module, "triton_error", lambda device: None)
    for children, expected in ((2, short), (20, long)):
        offsets = [0, 50, *range(51, 51 + children)]
        segments = TreeSegments.from_lists(offsets, [[], *[[(0, 50)]] * children])
        query = torch.empty(50 + children, 4, 64, device="meta")
        query = FakeCuda(query)
        chosen = choose_attention_backend("auto", query, query, segments, AttentionOptions(0.125))
        assert chosen == expected


class FakeCuda:
    """Of a tensor on a GPU what the choice looks at."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self.device = tensor.shape, torch.bfloat16, torch.device("cuda:0")


def test_what_flash_attention_is_known_not_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(varlen_attention, "has_flash_attn", lambda: True)

    def error(head_size: int = 64, dtype: torch.dtype = torch.float16) -> str | None:
        kind = AttentionKind(torch.device("cuda:0"), dtype, head_size, 4, True, True, True)
        return varlen_attention.varlen_error(kind)

    assert error() is None and error(256) is None
    assert "up to 256, got 264" in str(error(264)) and "multiples of 8" in str(error(60))
    assert "no float32" in str(error(dtype=torch.float32))
    with monkeypatch.context() as patch:  # torch's own
        patch.setattr(varlen_attention, "has_flash_attn", lambda: False)
        options = frozenset({"enable_gqa", "window_size", "num_splits", "return_aux"})
        patch.setattr(varlen_attention, "torch_varlen_options", lambda: options)
        assert "no soft-cap" in str(error())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert "8.0 or later" in str(error())
    assert attention_kinds.IMPLEMENTATIONS["varlen"] == ".varlen_attention"
