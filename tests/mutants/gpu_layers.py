"""Faults of whole layers on a GPU: which columns, which tables, what attention is told, what is left to be added."""

from __future__ import annotations

from .faults import Fault

LAYER, ENGINE, MODULES = "kernels/gpu_layer.py", "instsel/engine/gpu_layers.py", "instsel/engine/fused_modules.py"


def bits(families: str) -> str:
    """Packs of these families held to the bits of the model's own layers."""
    return f"tests/test_gpu_layers.py -k 'have_the_bits and float32 and ({families})'"


LEFT = "tests/test_gpu_layers.py -k what_is_left"
FAULTS = [
    Fault("merged columns from the first", LAYER, "return rows[:, self.first : self.first + self.size]", "return rows[:, : self.size]", bits("Phi3")),
    Fault("runs of columns apart by their own length", LAYER, "(rows.stride(0), self.stride, 1)", "(rows.stride(0), self.size // self.heads, 1)", bits("GPTNeoX")),
    Fault("a layer's window forgotten", LAYER, "window=self.window", "window=None", bits("Gemma3")),
    Fault("a layer's sinks forgotten", LAYER, "sinks=self.sinks", "sinks=None", "tests/test_gpu_layers.py -k sinks"),
    Fault("one rotary embedding's tables for both", ENGINE, "key = attention.rotary, kind, id(given[0]), id(given[1])", "key = attention.rotary, kind", bits("Gemma3")),
    Fault("what is left is lost where a layer runs its own code", ENGINE, "            hidden_states[0].add_(added)\n        return otherwise", "            pass\n        return otherwise", LEFT),
    Fault("what is left is lost where a norm is given more", MODULES, "            if added is not None:\n                hidden_states.view(added.shape).add_(added)\n", "", LEFT),
    Fault("values kept for keys", LAYER, "given.keep(key, value)", "given.keep(value, key)", bits("Llama")),
    Fault("keys not turned", LAYER, "rotate_heads(query, *given.tables, more=key,", "rotate_heads(query, *given.tables, more=None,", bits("Llama")),
    Fault("the last sum scaled twice", LAYER, "else _scaled(self.rest, rows)\n", "else _scaled(self.rest, rows) * self.rest.factor\n", bits("Granite")),
]  # fmt: skip
