"""The Triton kernels along a tree compiled for a GPU that is not here: run as a program by test_triton_recurrences.py.

Prints what compiled_kernels.py prints.
"""

from __future__ import annotations

import sys

import triton.language as tl
from compiled_kernels import compile_kernel, report

from instsel.kernels import triton_tree_convolution as convolution
from instsel.kernels import triton_tree_recurrence as recurrence
from instsel.kernels.triton_configurations import all_registers

STATES = {
    **dict.fromkeys(("decay", "step", "rate", "skip", "initial", "states", "kept"), "*fp32"),
    **dict.fromkeys(("node_first", "node_last", "node_origin", "node_place", "node_kept"), "*i32"),
}
INPUTS = {
    **dict.fromkeys(("x", "bias", "initial"), "*bf16"),
    **dict.fromkeys(("token_node", "node_first", "context"), "*i32"),
}


def main(arch: str) -> None:
    for is_delta in (True, False):
        for by_row in (False, True):
            constants = {
                "is_delta": is_delta,
                "by_row": by_row,
                "normalize": is_delta,
                "has_skip": not is_delta,
                "precision": "ieee",
                "chunk": recurrence.CHUNK,
                "block_k": recurrence.BLOCK_KEYS,
                "block_v": recurrence.BLOCK_VALUES,
            }
            options = {
                "num_warps": recurrence.NUM_WARPS,
                "num_stages": 1,
                **all_registers(nvidia=arch.startswith("sm_")),
            }
            for element in ("bf16", "fp32"):
                kernel = recurrence.tree_recurrence_kernel
                compiled = compile_kernel(kernel, element, constants, arch, options, STATES)
                name = "delta rule" if is_delta else "scan"
                report(f"{name} {element}{' by row' if by_row else ''}", compiled, arch)
    constants = {"has_bias": True, "has_initial": True, "has_silu": True, "exact": tl.float32, "width": 4}
    constants |= {"block_t": convolution.BLOCK_TOKENS, "block_c": convolution.BLOCK_CHANNELS}
    kernel = convolution.tree_convolution_kernel
    options = {"num_warps": convolution.NUM_WARPS}
    report("convolution", compile_kernel(kernel, "bf16", constants, arch, options, INPUTS), arch)


if __name__ == "__main__":
    main(sys.argv[1])
