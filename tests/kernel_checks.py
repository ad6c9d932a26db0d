"""Calls of the kernels in which every argument matters, against float64: for any way in which they can be run.

Every stride is another, some nodes and sequences are empty, targets repeat, maxima are shared.
"""

from __future__ import annotations

from typing import Any

import test_linear_logprob as linear
import test_tree_attention as tree
import torch
from accuracy import assert_within_budget
from torch import Tensor

from instsel.kernels import TreeSegments, linear_logprob, row_logprob, tree_attention
from instsel.kernels.layer_elementwise import GATES, add_norm, gate_rows, rotate_heads

HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias and scale": {"scale": 1.25},
    "bias, scale and cap": {"scale": 0.75, "softcap": 12.0},
}
# The second node's path is three ranges; the third is empty; the fourth has no context; 11 keys are cached.
TREE = ([0, 20, 43, 43, 61, 70], [[(0, 7)], [(0, 5), (5, 7), (11, 31)], [(0, 11)], [], [(2, 9), (31, 47)]], 11)


def spaced(tensor: Tensor, gap: int) -> Tensor:
    """The same numbers in memory with `gap` columns of others between the rows: finite ones, as NaN is found again."""
    wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + gap), 9.0, dtype=tensor.dtype)
    view = wide[..., : tensor.shape[-1]]
    view.copy_(tensor)
    return view


def with_gaps(tensor: Tensor) -> Tensor:
    """The same numbers in memory with another between each and the next."""
    return torch.stack([tensor, torch.full_like(tensor, 1)], -1)[..., 0]


def check_attention(shape: tuple[int, int, int], dtype: torch.dtype, given: Any = TREE, **options: Any) -> Tensor:
    query, key, value = tree.tensors(given, shape, dtype)
    exact, low = (of(query, key, value, given, **options) for of in (tree.oracle, tree.naive))
    query, key = spaced(query, 8), spaced(key, 24)
    # The value's heads lie further apart than its tokens.
    value = spaced(value.transpose(0, 1).contiguous(), 16).transpose(0, 1)
    segments = TreeSegments.from_lists(given[0], given[1])
    got = tree_attention(query, key, value, segments, backend="triton", **options)
    tree.assert_within_budget(got, exact, low)
    return got


def check_unseen_values(shape: tuple[int, int, int], dtype: torch.dtype, **options: Any) -> None:
    """An infinity in a value: results are as without it, but of rows that see it."""
    query, key, value = tree.tensors(TREE, shape, dtype)
    segments = TreeSegments.from_lists(TREE[0], TREE[1])
    before = tree_attention(query, key, value, segments, backend="triton", **options)
    at, window = 11 + 37, options.get("window")  # a token of the second node that no other node sees
    value[at] = float("inf")
    apart = spaced(query, 8), spaced(key, 24), spaced(value, 16)
    after = tree_attention(*apart, segments, backend="triton", **options)
    last = 43 if window is None else min(43, 37 + window)
    sees = torch.zeros(len(query), dtype=torch.bool)
    sees[37:last] = True
    # Infinite, or NaN where a sink leaves float32 no probability to multiply it by.
    assert not bool(after[sees].isfinite().any()), "what is seen is not left out"
    exact = tree.oracle(query, key, torch.where(value.isinf(), 0, value), TREE, **options)
    assert bool(after[~sees].isfinite().all())
    bound = 4 * torch.finfo(dtype).eps * float(exact.abs().max())
    assert float((after.double() - exact)[~sees].abs().max()) <= max(
        bound, 2 * float((before.double() - exact)[~sees].abs().max())
    )


def shared_maxima(hidden: Tensor, weight: Tensor, apart: int) -> Tensor:
    """Makes some entries of the vocabulary the largest of each row, in equal pairs; gives the first of each.

    Pairs of one tile, of two tiles of a split, of two splits, and of two tiles neither of which is in the first split.
    """
    vocabulary, kinds = len(weight), torch.arange(len(hidden)) % 4
    middle = vocabulary // 2
    places = torch.tensor(
        [[5, 9], [min(10, vocabulary - 3), min(10 + apart, vocabulary - 2)], [7, vocabulary - 1], [middle, middle + 40]]
    )
    hidden[:, :4] = 0
    hidden[torch.arange(len(hidden)), kinds] = 8.0
    weight[:, :4] = 0
    for kind, pair in enumerate(places.tolist()):
        for entry in pair:
            weight[entry] = 0
            weight[entry, kind] = 6.0
    return places[:, 0][kinds]


def masked_pairs(count: int) -> tuple[Tensor, Tensor]:
    """A mask, and the offsets of sequences of which one is empty and one is masked."""
    mask = torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[3:5], mask[0] = False, True
    return mask, torch.tensor([0, 3, 5, 5, count])


def check_sums(got: Any, mask: Tensor, offsets: Tensor) -> None:
    assert torch.equal(got.logprob.isnan(), ~mask)
    for place, (first, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        counted = got.logprob[first:stop][mask[first:stop]].double()
        assert abs(float(got.sum[place]) - float(counted.sum())) < 1e-9
        assert bool(got.mean[place].isnan()) == (len(counted) == 0)
        assert len(counted) == 0 or abs(float(got.mean[place]) - float(counted.mean())) < 1e-9


def check_linear(shape: tuple[int, int, int], head: str, dtype: torch.dtype, *, fused: bool, apart: int = 40) -> None:
    """`apart`: from one of two equal maxima to the other."""
    num_rows, size, vocabulary = shape
    hidden, weight, rows, targets = linear.problem(num_rows, size, vocabulary, dtype)
    first = shared_maxima(hidden, weight, apart)
    targets[: len(targets) // 3] = first[rows[: len(targets) // 3]]
    bias = None if head == "plain" else torch.randn(vocabulary, generator=torch.Generator().manual_seed(2))
    if bias is not None:
        bias[-1] = bias[7]  # of entries with equal products
        bias[[5, 9, min(10, vocabulary - 3), min(10 + apart, vocabulary - 2)]] = 0.25
        bias[[vocabulary // 2, vocabulary // 2 + 40]] = 0.25
    mask, offsets = masked_pairs(len(rows))
    options = {"bias": bias, **HEADS[head]}
    got = linear_logprob(
        spaced(hidden, 16), spaced(weight, 32), rows, targets, mask=mask, offsets=offsets, argmax=True,
        backend="triton", fused=fused, **options,
    )  # fmt: skip
    exact, low = (
        linear.oracle(hidden, weight, rows, targets, dtype=kind, **options) for kind in (torch.float64, torch.float32)
    )
    check_sums(got, mask, offsets)
    assert_within_budget(got.logprob[mask], exact[mask], low[mask])
    assert float(got.logprob[mask].max()) <= 0.0
    z = hidden.double() @ weight.double().T
    z = (z if bias is None else z + bias) * options.get("scale", 1.0)
    z = z if "softcap" not in options else options["softcap"] * torch.tanh(z / options["softcap"])
    assert float((got.logsumexp - torch.logsumexp(z, 1)).abs().max()) < 1e-4
    assert got.argmax is not None
    if "softcap" not in options:
        assert torch.equal(got.argmax, z.argmax(1)) and torch.equal(got.argmax, first)


def check_rows(shape: tuple[int, int], head: str, dtype: torch.dtype) -> None:
    num_rows, vocabulary = shape
    logits = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 4).to(dtype)
    first, second = vocabulary // 3, vocabulary - 2
    logits[:, [first, second]] = 14.0
    logits[0, first + 1] = 14.0
    logits[1, [first, second]] = 0.0  # the maximum of another place
    bias = None if head == "plain" else torch.randn(vocabulary, generator=torch.Generator().manual_seed(2))
    if bias is not None:
        bias[[first, first + 1, second]] = 3.5
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, num_rows - 1, (300,), generator=generator)  # the last row is in no pair
    targets = torch.randint(0, vocabulary, (300,), generator=generator)
    targets[:40] = first
    mask, offsets = masked_pairs(len(rows))
    options = {"bias": bias, **HEADS[head]}
    got = row_logprob(
        spaced(logits, 8), rows, targets, mask=mask, offsets=offsets, argmax=True, backend="triton", **options
    )
    z = logits.double()
    z = (z if bias is None else z + bias) * options.get("scale", 1.0)
    z = z if "softcap" not in options else options["softcap"] * torch.tanh(z / options["softcap"])
    exact = torch.log_softmax(z, 1)[rows, targets]
    check_sums(got, mask, offsets)
    assert float((got.logprob - exact)[mask].abs().max()) < 4e-6 * float(exact.abs().max())
    needed = torch.zeros(num_rows, dtype=torch.bool)
    needed[rows[mask]] = True
    assert torch.equal(got.logsumexp.isnan(), ~needed) and not needed.all()
    assert float((got.logsumexp - torch.logsumexp(z, 1))[needed].abs().max()) < 1e-5
    assert got.argmax is not None and bool((got.argmax[~needed] == -1).all())
    if "softcap" not in options:
        assert torch.equal(got.argmax[needed], z.argmax(1)[needed])


FAR = 3 * 2**29  # elements between rows: the third begins beyond what 32 bits hold


def far_apart(rows: Tensor, stride: int) -> Tensor:
    """The same rows in memory that nothing else of is ever touched, `stride` elements from one to the next."""
    apart = torch.empty(stride * (len(rows) - 1) + rows[0].numel(), dtype=rows.dtype)
    return apart.as_strided(rows.shape, (stride, *rows[0].stride())).copy_(rows)


def check_far_weights(vocabulary: int, dtype: torch.dtype) -> None:
    """A weight of more than 2^31 elements, whose rows from the middle on lie beyond what 32 bits hold.

    A vocabulary that no tile divides has such rows in the main loop and in the ragged end.
    """
    hidden, weight, rows, targets = linear.problem(3, 32, vocabulary, dtype)
    apart = far_apart(weight, 2**32 // vocabulary // 16 * 16)
    assert apart.stride(0) * (vocabulary // 2 + 2) > 2**31
    got = linear_logprob(hidden, apart, rows, targets, argmax=True, backend="triton", fused=True)
    exact, low = (linear.oracle(hidden, weight, rows, targets, dtype=kind) for kind in (torch.float64, torch.float32))
    assert_within_budget(got.logprob, exact, low)
    assert got.argmax is not None and torch.equal(got.argmax, (hidden.double() @ weight.double().T).argmax(1))


def check_layers(dtype: torch.dtype) -> None:
    """The layers' elementwise kernels against the plain code: equal but for last digits of sums and functions."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return (2 * torch.randn(*shape, generator=generator)).to(dtype)

    def check(got: Tensor, expected: Tensor) -> None:
        difference = (got.double() - expected.double()).abs()
        bound = (32 if dtype == torch.float32 else 4) * torch.finfo(dtype).eps
        assert bool((difference <= bound * (1 + expected.double().abs())).all())
        assert dtype == torch.float32 or float((got != expected).float().mean()) <= 0.05

    hidden, added, weight, bias = draw(5, 300), draw(5, 300), draw(300), draw(300)
    llama: dict[str, Any] = {"added": added}
    centred: dict[str, Any] = {"bias": bias, "centred": True, "rounds_first": False}
    for options in (llama, centred):
        own, ours = hidden.clone(), spaced(hidden, 20)
        expected = add_norm(own, weight, 1e-6, **options)
        if "added" in options:
            options["added"] = spaced(added, 4)
        check(add_norm(ours, weight, 1e-6, backend="triton", **options), expected)
        assert torch.equal(ours, own)
    heads = draw(3, 7, 24)[:, 1:6:2]
    check(add_norm(heads, weight[:24], 1e-5, backend="triton"), add_norm(heads, weight[:24], 1e-5))
    x, cos, sin = draw(4, 40, 48), draw(4, 36).clamp(-1, 1), draw(4, 36).clamp(-1, 1)
    for interleaved in (False, True):
        got = rotate_heads(spaced(x, 8), spaced(cos, 4), spaced(sin, 12), interleaved=interleaved, backend="triton")
        assert torch.equal(got, rotate_heads(x.clone(), cos, sin, interleaved=interleaved))
    gate, up = draw(2, 2060), draw(2, 2060)
    for activation in GATES:
        got = gate_rows(spaced(gate, 4), spaced(up, 12), activation, backend="triton")
        check(got, gate_rows(gate.clone(), up, activation))


def check_far_layers(dtype: torch.dtype) -> None:
    """Rows whose third begins beyond what 32 bits hold."""
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    near, apart = x.clone(), far_apart(x, FAR)
    expected = add_norm(near, x[0].contiguous(), 1e-6, added=x)
    got = add_norm(apart, x[0].contiguous(), 1e-6, added=far_apart(x, FAR), backend="triton")
    assert torch.equal(apart, near) and float((got.double() - expected.double()).abs().max()) < 0.1
    heads, table = x.view(3, 2, 8), x[:, :8].contiguous()
    turned = rotate_heads(far_apart(heads, FAR), far_apart(table, FAR), far_apart(table, FAR), backend="triton")
    assert torch.equal(turned, rotate_heads(heads.clone(), table, table))
    gated = gate_rows(far_apart(x, FAR), far_apart(x, FAR), "silu", backend="triton")
    assert float((gated.double() - gate_rows(x.clone(), x, "silu").double()).abs().max()) < 0.1
