"""What one pack asks of a GPU, by count: FLOP, bytes and launches for each kind of work, for a model of any shape.

    python benchmarks/pack_budget.py [--shape llama-3.1-8b] [--tokens 16384] [--workload wici-k5] [--unfused]
                                    [--write docs/project/speed.md]

A shape is a name of models.py or a folder with a configuration. The engine's own code runs on tensors that have a shape
and no numbers: what PyTorch dispatches and what Triton would launch is counted, so nothing here has to be kept true by
hand. Bytes are each operand once, as if nothing stayed in a cache; of the attention kernel, keys and values once. The
pack is the one of the workload with the most tokens.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from models import NAMES, make_config
from tables import insert
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM
from workloads import make_workload

from instsel.engine import logprob
from instsel.engine.logprob import pair_logprobs
from instsel.engine.model import CausalModel, Head
from instsel.engine.model_session import ModelSession
from instsel.engine.requests import PreparedRequests
from instsel.engine.sharing_checks import CheckedTree
from instsel.engine.wrapped_models import UnwrappedModel
from instsel.layers import fused_layers
from instsel.layers.fused_layers import FusedLayers
from instsel.planning.layout import Layout, lay_out
from instsel.planning.planned_tree import plan_trees

KINDS = ("layer products", "attention", "elementwise", "gathers and copies", "head")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
MOVES = ("embedding", "index", "index_select", "cat", "clone", "copy_", "_to_copy", "constant_pad_nd")
WITHOUT_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "_unsafe_view", "lift_fresh", "alias")
COLUMNS = ("TFLOP", "GB", "launches")


class Budget(TorchDispatchMode):
    """Adds up `[FLOP, bytes, launches]` of each kind of work."""

    def __init__(self, keys: int) -> None:
        super().__init__()
        self.keys = keys  # that the tokens of the pack see, all of them together
        self.counts = {kind: np.zeros(3) for kind in KINDS}
        self.head = False

    def add(self, kind: str, flop: float, moved: float) -> None:
        self.counts["head" if self.head else kind] += flop, moved, 1

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode operations come here before they have been taken apart
            taken_apart = function.decompose(*args, **kwargs)
        if taken_apart is not NotImplemented:
            return taken_apart
        out = function(*args, **kwargs)
        made = [one for one in tree_leaves(out) if isinstance(one, torch.Tensor)]
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        name = function.overloadpacket.__name__
        on_host = any(one.device.type == "cpu" and one.ndim for one in given)  # a copy from it is no launch
        if function.is_view or name in WITHOUT_KERNEL or on_host or not any(one.is_meta for one in made):
            return out
        moved = float(sum(one.numel() * one.element_size() for one in (*made, *given)))
        if name in PRODUCTS:
            left, right = given[-2:]
            flop = 2.0 * left.numel() * right.shape[-1]
            self.add("layer products" if left.ndim == 2 else "elementwise", flop, moved)
        elif name in MOVES:
            result = made[0].numel() * made[0].element_size()
            self.add("gathers and copies" if name != "_to_copy" else "elementwise", 0.0, 2.0 * result)
        else:
            self.add("elementwise", float(made[0].numel()), moved)
        return out

    def launch(self, kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        """One of our kernels."""
        given = {**dict(zip(kernel.arg_names, arguments, strict=False)), **constants}
        name = kernel.fn.__name__
        kind, flop, moved = getattr(self, name)(given)
        self.add(kind, flop, moved)

    def layer_norm_kernel(self, given: dict[str, Any]) -> tuple[str, float, float]:
        numbers = given["num_rows"] * given["columns"]
        size = given["hidden"].element_size()
        return "elementwise", 6.0 * numbers, numbers * size * (4.0 if given["has_added"] else 2.0)

    def layer_rotary_kernel(self, given: dict[str, Any]) -> tuple[str, float, float]:
        tokens, turned = given["x"].shape[0], 2 * given["half"]
        numbers = tokens * turned * (given["heads"] + given["more_heads"])
        tables = 2.0 * tokens * turned * given["cos"].element_size()
        return "elementwise", 3.0 * numbers, 2.0 * numbers * given["x"].element_size() + tables

    def layer_gate_kernel(self, given: dict[str, Any]) -> tuple[str, float, float]:
        numbers = given["gate"].shape[0] * given["columns"]
        return "elementwise", 5.0 * numbers, 3.0 * numbers * given["gate"].element_size()

    def tree_attention_kernel(self, given: dict[str, Any]) -> tuple[str, float, float]:
        tensors = [given[name] for name in ("query", "key", "value", "result")]
        flop = 4.0 * given["num_heads"] * given["head_size"] * self.keys
        return "attention", flop, float(sum(one.numel() * one.element_size() for one in tensors))

    def unseen_values_kernel(self, given: dict[str, Any]) -> tuple[str, float, float]:
        return "attention", 0.0, float(given["result"].numel() * given["result"].element_size())

    def linear_states_kernel(self, given: dict[str, Any]) -> tuple[str, float, float]:
        hidden, weight = given["hidden"], given["weight"]
        tensors = hidden, weight, given["maxima"], given["sums"]
        flop = 2.0 * hidden.numel() * weight.shape[0]
        return "head", flop, float(sum(one.numel() * one.element_size() for one in tensors))

    def join_states_kernel(self, given: dict[str, Any]) -> tuple[str, float, float]:
        return "head", 0.0, float(sum(given[name].numel() * given[name].element_size() for name in ("maxima", "sums")))

    def pairs_from_hidden_kernel(self, given: dict[str, Any]) -> tuple[str, float, float]:
        numbers = given["rows"].numel() * given["hidden"].shape[1]
        return "head", 2.0 * numbers, 2.0 * numbers * given["hidden"].element_size()


@contextlib.contextmanager
def counted(budget: Budget) -> Iterator[None]:
    def launched(kernel: Any, grid: Any) -> Any:
        return lambda *arguments, **constants: budget.launch(kernel, grid, arguments, constants)

    with (
        mock.patch.object(triton.runtime.jit.JITFunction, "__getitem__", launched),
        mock.patch.object(torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
        mock.patch.object(logprob, "to_host", lambda tensor: None),  # there are no numbers to be copied
        budget,
    ):
        yield


def session_of(config: Any, *, fused: bool) -> ModelSession:
    """Of a model without numbers, whose layers are found but cannot be held against their own rows."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    info = CausalModel(UnwrappedModel(model, model), backend="triton")
    info.shareable_length = info.max_length
    session = ModelSession(info)
    info.signature = session.replica.signature
    if fused:
        tree = CheckedTree(info, session, np.arange(3, 27))
        with (
            mock.patch.object(fused_layers, "gives_the_same_on_gpu", lambda *_: True),
            counted(Budget(0)),
            torch.inference_mode(),
            session.ready(),
        ):
            info.fused_layers = FusedLayers(session.replica, partial(tree.run_first_pack, session), "triton")
    session.close()
    return ModelSession(info)


def fullest_pack(requests: list[tuple[list[int], list[int]]], tokens: int) -> tuple[Layout, list[int]]:
    """The pack with the most tokens, and the lengths of the nodes that were kept for it."""
    sequences = [np.asarray(context + answer, np.int32) for context, answer in requests]
    prepared = PreparedRequests.from_ids(sequences, [len(context) for context, _ in requests])
    trees = plan_trees(prepared.tokens, prepared.offsets, prepared.first_scored, tokens, None)
    planned, step = max(((one, step) for one in trees for step in one.steps), key=lambda found: found[1].num_tokens)
    lengths = [int(planned.tree.lengths[node]) for node in step.cached]
    return lay_out(planned.tree, planned.spans, step), lengths


def pack_budget(config: Any, layout: Layout, cached: list[int], *, fused: bool = True) -> dict[str, np.ndarray]:
    """`[FLOP, bytes, launches]` of each kind of work."""
    session = session_of(config, fused=fused)
    segments = layout.segments
    lengths = segments.query_offsets.diff().double()
    budget = Budget(int((segments.context_length * lengths + lengths * (lengths + 1) / 2).sum()))
    sizes = config.num_key_value_heads, getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    with torch.device("meta"):
        kept = [[(torch.empty(n, *sizes, dtype=torch.bfloat16),) * 2] * config.num_hidden_layers for n in cached]
    session.find_again = not session.rows_stay_nonfinite  # as scoring has it
    with counted(budget), torch.inference_mode(), session.ready():
        rows, _ = session.forward_pack(layout, kept)
        budget.head = True
        head = Head(session.base.get_output_embeddings().weight)  # which the engine reads only where it has numbers
        pair_logprobs(rows, head, layout.pair_row, layout.pair_target, backend="triton")
    session.close()
    return budget.counts


def table(counts: dict[str, np.ndarray]) -> str:
    rows = {**counts, "in all": sum(counts.values(), np.zeros(3))}
    lines = ["| kind of work | TFLOP | GB | launches |", "| --- | --- | --- | --- |"]
    lines += [f"| {kind} | {n[0] / 1e12:.1f} | {n[1] / 1e9:.1f} | {n[2]:.0f} |" for kind, n in rows.items()]
    return "\n".join(lines)


def main() -> dict[str, np.ndarray]:
    """Prints the table, or puts it into a document; gives what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", default="llama-3.1-8b", help=f"a folder, or one of {', '.join(NAMES)}")
    parser.add_argument("--tokens", type=int, default=16_384, help="of a pack at most")
    parser.add_argument("--workload", default="wici-k5")
    parser.add_argument("--unfused", action="store_true", help="the model's own code between products")
    parser.add_argument("--write", type=Path, help="a document with the marks of the section 'budget'")
    given = parser.parse_args()
    if given.shape not in NAMES and not Path(given.shape).is_dir():
        parser.error(f"--shape: expected a folder or one of {', '.join(NAMES)}, got {given.shape}")
    config = make_config(given.shape) if given.shape in NAMES else AutoConfig.from_pretrained(given.shape)
    layout, cached = fullest_pack(make_workload(given.workload, vocabulary=config.vocab_size).requests, given.tokens)
    counts = pack_budget(config, layout, cached, fused=not given.unfused)
    size = f"a pack of {len(layout.ids):,} tokens with {len(layout.rows):,} scored rows"
    text = f"{table(counts)}\n\n{given.shape}, {given.workload}: {size}."
    if given.write is None:
        print(text)
    else:
        given.write.write_text(insert(given.write.read_text(), text, "budget"))
    return counts


if __name__ == "__main__":
    main()
