"""What the mixers of a replica find in place of the functions that they call: the same along a pack's tree.

Where a function computes what an operation of the kernels does, that runs the pack in one call; else the function
itself does, a level of the tree at a time. Where no pack is running, and wherever a call has arguments that are not
expected, the model's own function is called as it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from instsel.kernels import tree_convolution, tree_delta_rule, tree_scan
from instsel.kernels.recurrence_backends import fast_backend
from instsel.layers.attention import PackState, UnsupportedAttentionError, current_pack
from instsel.layers.recurrence_agreement import is_channel_scan, is_convolution, is_delta_rule, is_scan
from instsel.layers.recurrence_levels import convolve_levels, initial_states, scan_levels
from instsel.planning.pack_tree import PackTree

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SEQUENCES = frozenset({"cu_seqlens", "seq_idx"})  # by which kernels of other packages part sequences


def convolution(own: Any, inputs: Tensor, weight: Tensor, *rest: Any, **more: Any) -> Any:
    """`causal_conv1d_fn`: inputs [1, C, T], weight [C, K]."""
    state = current_pack()
    if state is None:
        return own(inputs, weight, *rest, **more)
    tree = _tree(state, inputs, tokens=inputs.shape[-1])
    given = dict(zip(("bias", "activation"), rest, strict=False)) | more
    activation = given.get("activation")
    backend = _backend(state, inputs, weight)
    if (
        backend is not None
        and len(rest) <= 2
        and _understood(own, given, ("bias", "activation"))
        and activation in (None, "silu", "swish")
        and is_convolution(own, activation, backend, inputs.device)
    ):
        name = None if activation is None else "silu"
        run = partial(tree_convolution, bias=given.get("bias"), activation=name)
        x = inputs[0].T
        return _along_tree(run, state, tree, (x if x.stride(1) == 1 else x.contiguous(), weight), backend).T[None]
    return convolve_levels(lambda x: own(x, weight, *rest, **more), state, tree, inputs, weight.shape[-1])


def delta_rule(
    own: Any, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, **more: Any
) -> tuple[Tensor, Tensor | None]:
    """The gated delta rule, one decay a head or one a channel: all [1, T, heads, ...]."""
    state = current_pack()
    if state is None or more.get("initial_state") is not None or more.get("output_final_state"):
        return cast(tuple[Tensor, "Tensor | None"], own(query, key, value, g=g, beta=beta, **more))
    tree = _tree(state, query, tokens=query.shape[1])
    normalize = bool(more.get("use_qk_l2norm_in_kernel"))
    backend = _backend(state, query, key, value)
    if (
        backend is not None
        and _understood(own, more, ("use_qk_l2norm_in_kernel", "output_final_state", "chunk_size"))
        and is_delta_rule(own, g.ndim == 4, normalize, backend, query.device)
    ):
        parts = query[0], key[0], value[0], g[0].float(), beta[0].float()
        return _along_tree(partial(tree_delta_rule, normalize=normalize), state, tree, parts, backend)[None], None
    settings = {**more, "output_final_state": True}
    settings.pop("initial_state", None)

    def scan(part: dict[str, Tensor], initial: Tensor | None) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], own(**part, **settings, initial_state=initial))

    inputs = {"query": query, "key": key, "value": value, "g": g, "beta": beta}
    return scan_levels(scan, state, tree, inputs), None


def mamba2_scan(
    own: Any,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803  (the name by which it is given)
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    **more: Any,
) -> Any:
    """Mamba-2's scan: hidden states [1, T, heads, head size], steps [1, T, heads]."""
    state = current_pack()
    if state is None or more.get("initial_states") is not None or more.get("return_final_states"):
        own_steps = {"dt_bias": dt_bias, "dt_softplus": dt_softplus, "dt_limit": dt_limit}
        return own(hidden_states, dt, A, B, C, **own_steps, **more)
    tree = _tree(state, hidden_states, tokens=hidden_states.shape[1])
    # Steps are made here, so that those which fill a node up are none.
    steps = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    steps = (softplus(steps) if dt_softplus else steps).clamp(*dt_limit)
    backend = _backend(state, hidden_states, B, C)
    if (
        backend is not None
        and _understood(own, more, ("D", "chunk_size", "return_final_states"))
        and is_scan(own, backend, hidden_states.device)
    ):
        skip = more.get("D")
        parts = hidden_states[0], steps[0].float(), A.float(), B[0], C[0]
        run = partial(tree_scan, skip=None if skip is None else skip.float())
        return _along_tree(run, state, tree, parts, backend)[None]
    settings = {**more, "return_final_states": True}
    settings.pop("initial_states", None)

    def scan(part: dict[str, Tensor], initial: Tensor | None) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], own(**part, A=A, initial_states=initial, **settings))

    return scan_levels(scan, state, tree, {"hidden_states": hidden_states, "dt": steps, "B": B, "C": C})


def mamba_scan(
    own: Any,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **more: Any,
) -> Any:
    """Mamba-1's scan, token by token as the model's own takes no initial state: [1, channels, T]."""
    state = current_pack()
    if state is None or return_last_state:
        rest = (D, z, delta_bias, delta_softplus, return_last_state)
        return own(hidden_states, dt, A, B, C, *rest, **more)
    tree = _tree(state, hidden_states, tokens=hidden_states.shape[-1])
    steps = dt if delta_bias is None else dt + delta_bias.to(dt.dtype)[..., None]
    steps = softplus(steps) if delta_softplus else steps
    backend = _backend(state, hidden_states, B, C)
    if backend is not None and is_channel_scan(own, backend, hidden_states.device):
        x, step, write, read = (y[0].T.contiguous() for y in (hidden_states, steps.float(), B, C))
        parts = x[:, :, None], step, A.float(), write[:, None], read[:, None]
        out = _along_tree(partial(tree_scan), state, tree, parts, backend)[:, :, 0].T[None].to(hidden_states.dtype)
    else:
        inputs = {"x": hidden_states, "dt": steps, "B": B, "C": C}
        out = scan_levels(
            partial(_scan_tokens, A), state, tree, {name: x.transpose(1, 2) for name, x in inputs.items()}
        ).transpose(1, 2)
    if D is not None:
        out = out + hidden_states * D[None, :, None]
    return out if z is None else out * silu(z)


def _scan_tokens(rate: Tensor, part: dict[str, Tensor], initial: Tensor | None) -> tuple[Tensor, Tensor]:
    x, step = part["x"], part["dt"]
    held = x.new_zeros(x.shape[0], x.shape[2], rate.shape[-1]) if initial is None else initial
    outs = []
    for at in range(x.shape[1]):
        decay = torch.exp(rate * step[:, at, :, None])
        held = decay * held + step[:, at, :, None] * part["B"][:, at, None].float() * x[:, at, :, None].float()
        outs.append((held.to(x.dtype) @ part["C"][:, at, :, None])[..., 0])
    return torch.stack(outs, dim=1), held


ALONG_TREE: dict[str, Callable[..., Any]] = {
    "causal_conv1d_fn": convolution,
    "torch_chunk_gated_delta_rule": delta_rule,
    "chunk_kimi_delta_attention": delta_rule,
    "mamba2_chunk_scan": mamba2_scan,
    "mamba_selective_scan": mamba_scan,
}


def _tree(state: PackState, inputs: Tensor, *, tokens: int) -> PackTree:
    tree = cast("PackTree | None", state.tree)
    if inputs.shape[0] != 1 or tree is None or tokens != tree.nodes.num_tokens:
        raise UnsupportedAttentionError("a recurrent layer was given other tokens than the pack's")
    return tree


def _backend(state: PackState, *tensors: Tensor) -> str | None:
    """The kernels for tensors of one dtype; None where there are none."""
    first = tensors[0]
    known = first.dtype in _DTYPES and all(x.dtype == first.dtype for x in tensors)
    return fast_backend(state.backend, first.device) if known else None


def _understood(own: object, given: Mapping[str, object], known: tuple[str, ...]) -> bool:
    """Whether a call gives nothing beside what is known that the function would heed."""
    rest = given.keys() - known
    return not rest or all(given[name] is None for name in rest & (_named(own) | _SEQUENCES))


@functools.lru_cache(maxsize=64)
def _named(own: Any) -> frozenset[str]:
    """A function's arguments by name; mixers hand on others, such as positions, which it takes and leaves."""
    return frozenset(inspect.signature(own).parameters)


def _along_tree(
    run: Callable[..., tuple[Tensor, Tensor]],
    state: PackState,
    tree: PackTree,
    parts: tuple[Tensor, ...],
    backend: str,
) -> Tensor:
    """Output of an operation over the pack; keeps the states that are to be kept."""
    begun = initial_states(state, tree)
    keep = list(state.places.values())
    out, states = run(*parts, tree.nodes, initial=torch.stack(begun) if begun else None, keep=keep, backend=backend)
    state.keep_recurrent(lambda node: states[keep.index(node)])
    return out
