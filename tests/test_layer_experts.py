"""A mixture's experts in one call against the formula in float64, and how their modules are recognised."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import instruction_sets
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GptOssConfig, JetMoeConfig, OlmoeConfig

import instsel
from instsel.engine.model_checks import ScoringWarning
from instsel.engine.model_session import ModelSession
from instsel.kernels.layer_experts import ExpertGate, Experts, ExpertWeights
from instsel.kernels.layer_memory import Storage
from instsel.layers.fused_experts import KnownExperts, experts_forward, find_experts, why_unknown

pytestmark = pytest.mark.usefixtures("two_threads", "bfloat16_products")

CLAMPED = ExpertGate(alpha=1.702, limit=2.0, offset=1.0)
EPS = torch.finfo(torch.bfloat16).eps


@pytest.fixture(params=instruction_sets.long_but_best(instruction_sets.WITH_BFLOAT16))
def bfloat16_products(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_sets.forced(request.param) as name:
        yield name


class Mixture(NamedTuple):
    """Weights [E, 2 I, H] and [E, H, I], rows, and what they have chosen."""

    gate_up: Tensor
    gate_up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    x: Tensor
    chosen: Tensor
    weights: Tensor

    @classmethod
    def drawn(cls, rows: int, experts: int, chosen: int, hidden: int, inner: int) -> Mixture:
        generator = torch.Generator().manual_seed(rows + hidden)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, generator=generator)).bfloat16()

        scores = torch.randn(rows, experts, generator=generator)
        scores[:, 1] = -math.inf  # which nobody chooses
        weights, places = scores.softmax(-1).topk(chosen)
        gate_up = draw(experts, 2 * inner, hidden, scale=2 / math.sqrt(hidden))
        down = draw(experts, hidden, inner, scale=1 / math.sqrt(inner))
        return cls(gate_up, draw(experts, 2 * inner), down, draw(experts, hidden), draw(rows, hidden), places, weights)

    def experts(self, gate: ExpertGate, *, known: KnownExperts, bias: bool) -> Experts:
        """The kernel on weights that lie in memory as `known` says."""
        module: Any = nn.Module()
        gate_up, gate_up_bias = self.gate_up, self.gate_up_bias
        if known.in_turns:
            gate_up, gate_up_bias = (torch.stack(x.chunk(2, 1), 2).flatten(1, 2) for x in (gate_up, gate_up_bias))
        module.gate_up_proj, module.down_proj = (
            nn.Parameter(x.transpose(1, 2).contiguous() if known.outputs_last else x) for x in (gate_up, self.down)
        )
        if bias:
            module.gate_up_proj_bias, module.down_proj_bias = nn.Parameter(gate_up_bias), nn.Parameter(self.down_bias)
        return known._replace(gate=gate).of(module)

    def exact(self, gate: ExpertGate, *, bias: bool) -> tuple[Tensor, Tensor]:
        """In float64, and a bound of what rounding the gated rows and the experts' results moves."""
        x, out, bound = self.x.double(), torch.zeros(self.x.shape).double(), torch.zeros(self.x.shape).double()
        for expert in range(len(self.down)):
            rows, k = torch.where(self.chosen == expert)
            both = x[rows] @ self.gate_up[expert].double().T + (self.gate_up_bias[expert].double() if bias else 0)
            inner = gate.of(*both.chunk(2, dim=-1))
            down = self.down[expert].double()
            result = inner @ down.T + (self.down_bias[expert].double() if bias else 0)
            weights = self.weights[rows, k, None].double()
            out[rows] += weights * result
            bound[rows] += weights * EPS * (inner.abs() @ down.abs().T + result.abs())
        return out, bound + EPS * out.abs() + 1e-4


@pytest.mark.parametrize("gate", [ExpertGate(), ExpertGate(gelu_tanh=True), CLAMPED])
@pytest.mark.parametrize("outputs_last", [False, True])
@pytest.mark.parametrize("in_turns", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_experts_are_the_formula(gate: ExpertGate, outputs_last: bool, in_turns: bool, bias: bool) -> None:
    mixture = Mixture.drawn(77, 4, 2, 64, 96)
    known = KnownExperts(outputs_last, in_turns, gate)
    got = mixture.experts(gate, known=known, bias=bias).forward(mixture.x, mixture.chosen, mixture.weights)
    exact, bound = mixture.exact(gate, bias=bias)
    assert ((got.double() - exact).abs() <= bound).all()
    # Negative control: the other gate, or one expert for another, is seen.
    other = ExpertGate() if gate != ExpertGate() else CLAMPED
    assert ((got.double() - mixture.exact(other, bias=bias)[0]).abs() > bound).any()
    swapped = mixture._replace(chosen=mixture.chosen.flip(1))
    assert ((got.double() - swapped.exact(gate, bias=bias)[0]).abs() > bound).any()


@pytest.mark.parametrize(
    ("rows", "experts", "chosen", "hidden", "inner"),
    [(1, 3, 1, 32, 32), (33, 2, 1, 704, 32), (300, 3, 2, 672, 1312), (5, 40, 8, 32, 64), (600, 2, 1, 64, 32)],
)
def test_any_sizes(rows: int, experts: int, chosen: int, hidden: int, inner: int) -> None:
    """Depths that are multiplied in several parts, more groups of rows than are multiplied at once, idle experts."""
    mixture = Mixture.drawn(rows, experts, chosen, hidden, inner)
    experts_ = mixture.experts(ExpertGate(), known=KnownExperts(False, False, ExpertGate()), bias=True)
    got = experts_.forward(mixture.x, mixture.chosen, mixture.weights)
    exact, bound = mixture.exact(ExpertGate(), bias=True)
    assert ((got.double() - exact).abs() <= bound).all()


def test_an_expert_that_is_not_there_gives_nothing() -> None:
    mixture = Mixture.drawn(40, 4, 2, 64, 64)
    mixture.chosen[::3, 0] = 4
    mixture.chosen[1] = 4
    experts = mixture.experts(CLAMPED, known=KnownExperts(True, True, CLAMPED), bias=True)
    got = experts.forward(mixture.x, mixture.chosen, mixture.weights)
    exact, bound = mixture.exact(CLAMPED, bias=True)
    assert ((got.double() - exact).abs() <= bound).all()
    assert (got[1] == 0).all()
    assert experts.forward(mixture.x[:0], mixture.chosen[:0], mixture.weights[:0]).shape == (0, 64)


def test_a_row_is_the_same_bits_in_any_company() -> None:
    mixture = Mixture.drawn(330, 3, 2, 704, 96)
    experts = mixture.experts(CLAMPED, known=KnownExperts(True, True, CLAMPED), bias=True)
    storage = Storage()
    together = experts.forward(mixture.x, mixture.chosen, mixture.weights, storage)
    for rows in ([0], [329], list(range(7, 45)), list(range(330))[::-1]):
        given = mixture.x[rows], mixture.chosen[rows], mixture.weights[rows]
        assert torch.equal(experts.forward(*given, storage), together[rows])
    spoilt = mixture.x.clone()
    spoilt[3] = math.nan
    got = experts.forward(spoilt, mixture.chosen, mixture.weights, storage)
    assert got[3].isnan().all()
    assert torch.equal(got[4:], together[4:])


def test_weights_that_the_kernel_does_not_take() -> None:
    weight = torch.zeros(2, 64, 64).bfloat16()
    assert ExpertWeights(weight).can_multiply()
    assert not ExpertWeights(weight.float()).can_multiply()
    assert not ExpertWeights(weight[:, :33]).can_multiply()
    assert not ExpertWeights(weight[:, :, :0]).can_multiply()
    assert not ExpertWeights(
        torch.zeros(2, 256, 256)[:, ::4, ::4].bfloat16().expand(2, 64, 64)[:, ::2, ::2]
    ).can_multiply()


SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
CONFIGS = [OlmoeConfig(**SIZES, num_experts=4), GptOssConfig(**SIZES, head_dim=16, num_local_experts=4)]


def assert_near_own(experts: Any, known: KnownExperts) -> None:
    """The kernel gives what the module's own code gives for random rows."""
    x = torch.randn(50, 64).bfloat16()
    weights, chosen = torch.randn(50, 4).softmax(-1).bfloat16().topk(2)
    with torch.no_grad():
        own, ours = experts(x, chosen, weights), experts_forward(experts, known)(x, chosen, weights)
    assert (own.float() - ours.float()).norm() <= 0.02 * own.float().norm()


@pytest.mark.parametrize("config", CONFIGS, ids=["olmoe", "gpt_oss"])
def test_experts_of_families(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    experts = model.model.layers[1].mlp.experts
    known = find_experts(experts)
    is_gpt_oss = isinstance(config, GptOssConfig)
    assert known is not None
    assert (known.outputs_last, known.in_turns) == (is_gpt_oss, is_gpt_oss)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert_near_own(experts, known)
    # As a scorer runs them.
    loaded = instsel.Scorer(model).model
    assert loaded.fused_layers is not None
    assert len(loaded.fused_layers.experts) == 2
    session = ModelSession(loaded)
    with session.inference_context():
        assert torch.isfinite(session.forward_alone(torch.arange(9).numpy(), torch.arange(9).numpy())).all()
    session.close()


@pytest.mark.parametrize("limit", [3.0, 20.0, 500.0])
def test_a_limit_of_activations_is_found_however_large(limit: float) -> None:
    torch.manual_seed(0)
    config = GptOssConfig(**SIZES, head_dim=16, num_local_experts=4, swiglu_limit=limit)
    experts = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).model.layers[0].mlp.experts
    nn.init.normal_(experts.gate_up_proj, std=limit / 4)  # a deviation of twice the limit
    nn.init.normal_(experts.down_proj, std=0.1)
    known = find_experts(experts)
    assert known is not None
    assert_near_own(experts, known)


def test_experts_of_another_kind_run_their_own_code_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = JetMoeConfig(**SIZES | {"num_attention_heads": 2}, num_local_experts=4, kv_channels=16)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    weights_of_jetmoe = "JetMoeParallelExperts runs its own code .it has weight for weights"
    with pytest.warns(ScoringWarning, match=weights_of_jetmoe):
        loaded = instsel.Scorer(model).model
    assert loaded.fused_layers is not None and not loaded.fused_layers.experts
    model = AutoModelForCausalLM.from_config(CONFIGS[0], dtype=torch.bfloat16).eval()
    experts: Any = type(model.model.layers[0].mlp.experts)
    with monkeypatch.context() as patch:
        own = experts._apply_gate
        patch.setattr(experts, "_apply_gate", lambda self, gate_up: own(self, gate_up) * 1.01)
        assert find_experts(model.model.layers[0].mlp.experts) is None
        assert "something else" in why_unknown(model.model.layers[0].mlp.experts)
    # Where there is no kernel for any experts, and where somebody looks in, there is nothing to say.
    hooked, wide = model.model.layers[0].mlp.experts, model.float().model.layers[1].mlp.experts
    hooked.register_forward_hook(lambda *_: None)
    assert why_unknown(hooked) == why_unknown(wide) == why_unknown(nn.Conv1d(8, 8, 3).bfloat16()) == ""


def test_other_modules_are_left_alone() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[1], dtype=torch.bfloat16).eval()
    experts: Any = model.model.layers[0].mlp.experts
    before = dict(experts._parameters)
    own = type(experts)._apply_gate
    for other in (lambda gate_up: own(experts, gate_up) ** 2, lambda gate_up: own(experts, gate_up) * 1.01):
        experts._apply_gate = other
        assert find_experts(experts) is None
    del experts._apply_gate
    assert find_experts(experts) is not None
    assert all(experts._parameters[name] is parameter for name, parameter in before.items())
    # One that does more after its products.
    with pytest.MonkeyPatch.context() as patch:
        forward = type(experts).forward
        patch.setattr(type(experts), "forward", lambda self, *given: forward(self, *given) * 1.1)
        assert find_experts(experts) is None
    experts.scale = nn.Parameter(torch.ones(1).bfloat16())
    assert find_experts(experts) is None
    del experts.scale
    experts.register_forward_hook(lambda *_: None)
    assert find_experts(experts) is None
    assert (
        find_experts(AutoModelForCausalLM.from_config(CONFIGS[0], dtype=torch.float32).model.layers[0].mlp.experts)
        is None
    )  # float32
