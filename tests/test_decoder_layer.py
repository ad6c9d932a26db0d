"""A decoder layer in one run of kernels against the same formulas in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import instruction_sets
import pytest
import torch
from layer_formula import (
    CACHED,
    HEADS,
    HIDDEN_SIZE,
    SEGMENTS,
    SIZE,
    TOKENS,
    Problem,
    built,
    draw,
    error,
    exact,
    weights,
)
from torch import Tensor

from instsel.kernels import tree_attention
from instsel.kernels.decoder_layer import HIDDEN, Call, DecoderLayer, Step, Sum
from instsel.kernels.float_products import LIBRARIES, VARIABLE
from instsel.kernels.layer_memory import LayerMemory, Storage
from instsel.kernels.layer_norms import Norm
from instsel.kernels.layer_operations import gate_in_place, rotate_in_place
from instsel.kernels.layer_products import OnednnProduct, TorchProduct, make_product
from instsel.kernels.rotary_tables import Rotary

pytestmark = pytest.mark.usefixtures("two_threads")

# Errors relative to the size of the result: of a chain of float32 sums; of eight roundings to bfloat16, each of a
# quarter of its eps on the average.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2 * torch.finfo(torch.bfloat16).eps}
KINDS = ("plain", "biases", "norms of heads", "window and cap")


def check(dtype: torch.dtype, kind: str) -> None:
    w, problem = weights(dtype, kind), Problem.drawn(dtype)
    wanted = exact(w, problem.x, problem.cos, problem.sin, problem.cached)
    for got, want in zip(problem.run(built(w)), wanted, strict=True):
        assert error(got, want) <= TOLERANCE[dtype]


@pytest.fixture(params=instruction_sets.long_but_best(instruction_sets.NAMES))
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_sets.forced(request.param) as name:
        yield name


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_in_float32_is_the_formula(
    kind: str, library: str, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, library)
    made = make_product(torch.ones(2, 2))
    assert type(made) is (OnednnProduct if library == "onednn" else TorchProduct)
    check(torch.float32, kind)


@pytest.mark.parametrize("name", instruction_sets.long_but_best(instruction_sets.WITH_BFLOAT16))
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_in_bfloat16_is_the_formula(kind: str, name: str) -> None:
    with instruction_sets.forced(name):
        check(torch.bfloat16, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["query", "value", "out", "up", "down", "attention_norm", "feed_forward_norm", "cos"])
def test_the_tolerance_sees_every_part(part: str, kind: str) -> None:
    """Negative control: one number of a part that is another by a hundredth is seen in float32."""
    w, problem = weights(torch.float32, kind), Problem.drawn(torch.float32)
    wanted = exact(w, problem.x, problem.cos, problem.sin, problem.cached)
    changed = problem.cos if part == "cos" else getattr(w, part)
    changed.view(-1)[0] += 0.01
    assert error(problem.run(built(w))[0], wanted[0]) > 2 * TOLERANCE[torch.float32]


def test_memory_serves_one_layer_after_another() -> None:
    """With other weights and other rotary tables: nothing of the layer before is left."""
    first, problem = weights(torch.float32, "norms of heads"), Problem.drawn(torch.float32)
    second = replace(weights(torch.float32, "biases"), query=first.query.flip(0))
    memory = LayerMemory(built(first).shape, SEGMENTS, CACHED, torch.float32, Storage())
    alone = [problem.run(built(first)), replace(problem, cos=problem.sin, sin=problem.cos).run(built(second))]
    together = [
        problem.run(built(first), memory),
        replace(problem, cos=problem.sin, sin=problem.cos).run(built(second), memory),
    ]
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_layer_is_the_sum_of_its_parts() -> None:
    """Called one by one, with a tensor made for each, they give the same within rounding."""
    w, problem = weights(torch.float32, "plain"), Problem.drawn(torch.float32)
    got, keys, values = problem.run(built(w))
    linear, rms_norm = torch.nn.functional.linear, torch.nn.functional.rms_norm
    normed = rms_norm(problem.x, w.attention_norm.shape, w.attention_norm, 1e-5)
    queries = rotate_in_place(linear(normed, w.query).view(TOKENS, HEADS, SIZE), problem.cos, problem.sin)
    all_keys, all_values = (torch.cat(pair) for pair in zip(problem.cached, (keys, values), strict=True))
    attended = tree_attention(queries, all_keys, all_values, SEGMENTS, backend="cpu").flatten(1)
    x = problem.x + linear(attended, w.out)
    normed = rms_norm(x, w.feed_forward_norm.shape, w.feed_forward_norm, 1e-5)
    x = x + linear(gate_in_place(linear(normed, w.gate), linear(normed, w.up), "silu"), w.down)
    assert error(got, x.double()) <= TOLERANCE[torch.float32]


def test_what_has_no_product_here() -> None:
    assert make_product(torch.ones(3, 64).half()) is None
    assert make_product(torch.ones(0, 64)) is None
    with instruction_sets.forced("avx2"):
        assert make_product(torch.ones(3, 64).bfloat16()) is None
    w = weights(torch.float32, "plain")
    layer = built(w)
    assert layer.attention is not None and not replace(layer.attention, head_size=32 * 3).can_run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_of_every_kind(dtype: torch.dtype) -> None:
    """Two norms of the same rows, one of them added; a factor; a part of the model's own; the sum in its place."""
    one = draw(dtype)
    x, weights = one(TOKENS, HIDDEN_SIZE), [one(HIDDEN_SIZE, scale=0.3, mean=1.0) for _ in range(2)]
    norms = [
        Norm.of(weight, 0.0, 1e-5, centred=centred) for weight, centred in zip(weights, (False, True), strict=True)
    ]
    steps = (
        Step(norms[0], HIDDEN, 1),
        Step(Call(torch.tanh), 1, 2),
        Step(norms[1], 2, HIDDEN, add=True),
        Sum(1, factor=0.5, scale=2.0),
        Sum(HIDDEN, factor=0.0, scale=0.25),
    )
    layer = DecoderLayer(steps, HIDDEN_SIZE, dtype)
    assert layer.shape.slots == 2 and layer.attention is None and not layer.only_kernels

    def norm(values: Tensor, weight: Tensor) -> Tensor:
        return values * (values.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()

    normed = norm(x.double(), weights[0])
    inner = normed.tanh()
    wanted = (2 * (x.double() + norm(inner - inner.mean(-1, keepdim=True), weights[1])) + normed / 2) / 4
    got = x.clone()
    layer.forward(got, None, LayerMemory(layer.shape, SEGMENTS, CACHED, dtype, Storage()))
    assert error(got, wanted) <= TOLERANCE[dtype]
    copied = DecoderLayer((steps[0], Sum(1, scale=0.0)), HIDDEN_SIZE, dtype)
    copied.forward(x, None, LayerMemory(copied.shape, SEGMENTS, CACHED, dtype, Storage()))
    assert error(x, normed) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    "rotary", [Rotary(True), Rotary(False, "halves", 6), Rotary(True, "pairs", 6), Rotary(False, "as given", 4)]
)
def test_tables_in_any_order(rotary: Rotary) -> None:
    one = draw(torch.float32)
    given, heads = one(5, 12), one(5, 2, SIZE)
    table = rotary.table(given)
    used = given[:, : rotary.columns]
    columns = {"as given": lambda i: i, "halves": lambda i: i % 6, "pairs": lambda i: i // 2}[rotary.order]
    assert all(torch.equal(table[:, i], used[:, columns(i)]) for i in range(table.shape[1]))
    got, half = (
        rotate_in_place(heads.clone(), table, table.flip(0), interleaved=rotary.interleaved),
        table.shape[1] // 2,
    )
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if rotary.interleaved else (i, i + half)
        want = heads[..., a] * table[:, None, a] - heads[..., b] * table.flip(0)[:, None, a]
        assert torch.allclose(got[..., a], want, atol=1e-5)
