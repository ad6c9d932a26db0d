"""Faults of the layers' elementwise kernels."""

from __future__ import annotations

from .faults import Fault

TESTS = "tests/interpreted_layers.py"
NORM, ROTARY, GATE = (f"kernels/triton_layer_{name}.py" for name in ("norm", "rotary", "gate"))
EMULATED = "tests/test_emulated_kernels.py -k 'all_layers and 90 and bfloat16'"


def of(file: str, name: str, text: str, instead: str, tests: str = TESTS) -> Fault:
    return Fault(name, file, text, instead, tests)


FAULTS = [
    of(NORM, "a mean over the block instead of the row", "variance = tl.sum(x * x, axis=1) / columns", "variance = tl.sum(x * x, axis=1) / block_h"),
    of(NORM, "the residual sum is not stored", "        tl.store(at, x, mask=inside)\n", ""),
    of(NORM, "the residual sum is not rounded before its norm", "mask=inside, other=0.0).to(tl.float32)).to(kind)\n", "mask=inside, other=0.0).to(tl.float32))\n"),
    of(NORM, "not rounded before the weight", "    if rounds_first:\n", "    if False:\n"),
    of(NORM, "columns past the row in a centred norm", "tl.where(inside, x - (tl.sum(x, axis=1) / columns)[:, None], 0.0)", "x - (tl.sum(x, axis=1) / columns)[:, None]"),
    of(NORM, "what is added by the stride of what it is added to", "(place * added_stride)[:, None]", "(place * hidden_stride)[:, None]"),
    of(NORM, "heads within a row by the result's stride", "within * hidden_inner)", "within * out_inner)"),
    of(NORM, "rows of the result by the stride of what is read", "to = out + (outer * out_stride", "to = out + (outer * hidden_stride"),
    of(NORM, "the weight's offset left out", ".to(tl.float32) + offset\n", ".to(tl.float32)\n"),
    of(NORM, "the bias left out", "has_bias=bias is not None", "has_bias=False"),
    of(NORM, "epsilon outside of the root", "tl.sqrt_rn(variance + epsilon)", "(tl.sqrt_rn(variance) + epsilon)"),
    of(NORM, "a row past the last", "(place < num_rows)", "(place <= num_rows)", EMULATED),
    of(NORM, "places in 32 bits", "tl.program_id(0).to(tl.int64) * block_r", "tl.program_id(0) * block_r", EMULATED),
    of(ROTARY, "the sign of the turned half", "(-b * sin_1)", "(b * sin_1)"),
    of(ROTARY, "products not rounded before their sum", "(a * cos_1).to(rounded).to(tl.float32)", "(a * cos_1)"),
    of(ROTARY, "the sine by the cosine's stride", "sin + token * sin_stride + first", "sin + token * cos_stride + first"),
    of(ROTARY, "halves where pairs are asked for", "second = 2 * pair + 1 if interleaved else pair + half", "second = pair + half"),
    of(ROTARY, "the first block of heads alone", "for start in range(0, heads, block_h):", "for start in range(0, 1, block_h):"),
    of(ROTARY, "a head past the last", "(head < heads)", "(head <= heads)", EMULATED),
    of(ROTARY, "places in 32 bits", "token = tl.program_id(0).to(tl.int64)", "token = tl.program_id(0)", EMULATED),
    of(GATE, "up by the gate's stride", "up + token * up_stride", "up + token * gate_stride"),
    of(GATE, "the cube's second factor", "0.044715 * x * x * x", "0.044715 * x * x"),
    of(GATE, "not rounded between the two", "active.to(kind).to(tl.float32) * factor", "active * factor"),
    of(GATE, "the first block of columns alone", "column = tl.program_id(1) * block + tl.arange(0, block)", "column = tl.arange(0, block)"),
    of(GATE, "a column past the last", "inside = column < columns", "inside = column <= columns", EMULATED),
    of(GATE, "places in 32 bits", "token = tl.program_id(0).to(tl.int64)", "token = tl.program_id(0)", EMULATED),
    of(ROTARY, "keys turned by the queries' strides", "        other.stride(0),\n        other.stride(1),\n", "        x.stride(0),\n        x.stride(1),\n"),
]  # fmt: skip
