"""Compiles the layers' elementwise kernels for one architecture, as a program; prints a JSON line for each."""

from __future__ import annotations

import sys

from compiled_kernels import compile_kernel, report

from instsel.kernels.layer_elementwise import GATES, LARGEST_ROW
from instsel.kernels.triton_layer_gate import BLOCK, layer_gate_kernel
from instsel.kernels.triton_layer_norm import TILE, layer_norm_kernel
from instsel.kernels.triton_layer_rotary import layer_rotary_kernel


def main(arch: str) -> None:
    names = ("hidden", "added", "weight", "bias", "out", "x", "more", "cos", "sin", "gate", "up")
    kinds = {**dict.fromkeys(names, "*bf16"), "epsilon": "fp32", "offset": "fp32"}
    for size in (128, 4096, LARGEST_ROW):
        rows = max(1, TILE // size)
        constants = {"has_added": True, "has_bias": True, "centred": True, "rounds_first": False}
        options = {"num_warps": min(32, max(4, rows * size // 512))}
        tile = {"block_r": rows, "block_h": size}
        report(
            f"norm {size}", compile_kernel(layer_norm_kernel, "bf16", {**constants, **tile}, arch, options, kinds), arch
        )
    for activation in GATES:
        constants = {"activation": activation, "block": BLOCK}
        report(activation, compile_kernel(layer_gate_kernel, "bf16", constants, arch, {"num_warps": 4}, kinds), arch)
    for interleaved in (False, True):
        constants = {"interleaved": interleaved, "block_h": 16, "block_d": 64}
        report("rotary", compile_kernel(layer_rotary_kernel, "bf16", constants, arch, {"num_warps": 4}, kinds), arch)


if __name__ == "__main__":
    main(sys.argv[1])
