"""Faults of whole layers on a GPU: which columns, which tables, what attention is told, what is left to be added."""

from __future__ import annotations

from .faults import Fault

LAYER, ENGINE, NORMS = "kernels/gpu_layer.py", "instsel/layers/gpu_layers.py", "instsel/layers/fused_norms.py"


def bits(families: str) -> str:
    """Packs of these families held to the bits of the model's own layers."""
    return f"tests/test_gpu_layers.py -k 'have_the_bits and float32 and ({families})'"


LEFT = "tests/test_gpu_layers.py -k what_is_left"
FAULTS = [
    Fault("merged columns from the first", LAYER, "return rows[:, self.first : self.first + self.size]", "return rows[:, : self.size]", bits("Phi3")),
    Fault("runs of columns apart by their own length", LAYER, "(rows.stride(0), self.stride, 1)", "(rows.stride(0), self.size // self.heads, 1)", bits("GPTNeoX")),
    Fault("a layer's window forgotten", LAYER, "**self.options._asdict()", "**self.options._replace(window=None)._asdict()", bits("Gemma3")),
    Fault("a layer's sinks forgotten", LAYER, "**self.options._asdict()", "**self.options._replace(sinks=None)._asdict()", "tests/test_gpu_layers.py -k sinks"),
    Fault("one rotary embedding's tables for both", ENGINE, "key = attention.rotary, kind, id(given[0]), id(given[1])", "key = attention.rotary, kind", bits("Gemma3")),
    Fault("what is left is lost where a layer runs its own code", ENGINE, "            hidden_states[0].add_(added)\n        return otherwise", "            pass\n        return otherwise", LEFT),
    Fault("what is left is lost where a norm is given more", NORMS, "            if added is not None:\n                hidden_states.view(added.shape).add_(added)\n", "", LEFT),
    Fault("values kept for keys", LAYER, "given.keep(key, value)", "given.keep(value, key)", bits("Llama")),
    Fault("keys not turned", LAYER, "rotate_heads(query, *given.tables, more=key,", "rotate_heads(query, *given.tables, more=None,", bits("Llama")),
    Fault("the last sum scaled twice", LAYER, "else _scaled(self.rest, rows)\n", "else _scaled(self.rest, rows) * self.rest.factor\n", bits("Granite")),
    Fault("a wide rotary embedding's tables rounded", ENGINE, "torch.float32 if attention.wide else dtype", "dtype", "tests/test_gpu_layers.py -k 'have_the_bits and bfloat16 and (Cohere or Olmo2)'"),
    Fault("any layer's kernels agree", ENGINE, "return record.result is not None and nearly_equal(record.result, x)", "return record.result is not None", "tests/test_gpu_layers.py -k 'that_is_wrong'"),
    Fault("a sum is left that two read", ENGINE, "for one in readers) == 1)", "for one in readers) >= 1)", "tests/test_gpu_layers.py -k two_read"),
    Fault("cached keys behind the pack's own on a GPU", LAYER, "key = torch.cat([*(keys for keys, _ in cached), key])", "key = torch.cat([key, *(keys for keys, _ in cached)])", bits("Llama")),
    Fault("cached keys for values on a GPU", LAYER, "*(values for _, values in cached)", "*(keys for keys, _ in cached)", bits("Llama")),
    Fault("what a layer leaves is dropped", ENGINE, "        state.leave(hidden_states, left)\n", "        pass\n", bits("Llama")),
    Fault("a scaled sum becomes part of a norm", LAYER, "step.scale == 1.0 and step.factor != 0.0", "step.factor != 0.0", "tests/test_gpu_layers.py"),
    Fault("a layer's soft-cap forgotten", LAYER, "**self.options._asdict()", "**self.options._replace(softcap=None)._asdict()", bits("Gemma2")),
    Fault("a layer's scaling forgotten", LAYER, "**self.options._asdict()", "**self.options._replace(scaling=None)._asdict()", bits("Gemma2 or Granite")),
    Fault("heads normed as one", LAYER, "self._heads(x) if part.by_head else x.flatten(1)", "x.flatten(1)", bits("Qwen3")),
]  # fmt: skip
