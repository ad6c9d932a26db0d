"""Compiling the Triton kernels for GPUs that are not here, and reading the binaries: run as a program by the tests.

Prints one JSON line per kernel and configuration: {"name", "arch", "triton", "shared_bytes", "registers",
"spill_bytes", "wgmma", "waits", "asked_waits"}. `waits` are those for Hopper's matrix instructions in the machine code,
`asked_waits` those in the PTX, one for a group of them: where the assembler cannot keep a group's products in flight
together it puts a wait behind each and says so in a remark alone (C7515).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from instsel.kernels import triton_configurations as configurations
from instsel.kernels.triton_linear_states import linear_states_kernel
from instsel.kernels.triton_pairs import (
    join_states_kernel,
    pairs_from_hidden_kernel,
    pairs_from_logits_kernel,
    sequence_sums_kernel,
)
from instsel.kernels.triton_row_states import BLOCK_V, NUM_WARPS, row_states_kernel
from instsel.kernels.triton_tree_attention import tree_attention_kernel
from instsel.kernels.triton_unseen_values import BLOCK_ROWS, unseen_values_kernel
from instsel.kernels.triton_unseen_values import NUM_WARPS as UNSEEN_WARPS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Whose tiles an architecture is given where the table does not name it.
TILES_OF = {"sm_120": "sm_86"}
# Which arguments are pointers to what, by name; every other argument is a number.
POINTERS = {
    **dict.fromkeys(("maxima", "sums", "logprobs", "offsets", "log_sums", "logsumexps", "bias"), "*fp32"),
    **dict.fromkeys(("rows", "targets", "argmaxima", "best", "sequence_offsets"), "*i64"),
    **dict.fromkeys(("block_node", "block_first", "query_offsets", "context_offsets"), "*i32"),
    **dict.fromkeys(("context_start", "context_stop", "context_length", "needed"), "*i32"),
    "sinks": "*fp32",
    "mask": "*u8",
    "means": "*fp64",
}
NUMBERS = {"scale": "fp32", "softcap": "fp32", "scaling": "fp32"}


def is_multiple(name: str) -> bool:
    """Whether a number is taken for a multiple of 16."""
    return name.endswith("stride") or name == "size"


def compile_kernel(
    kernel: Any,
    element: str,
    constants: dict[str, Any],
    arch: str,
    options: dict[str, int],
    pointers: dict[str, str] | None = None,
) -> Any:
    """The kernel for 16-byte aligned pointers and strides divisible by 16, as torch's tensors mostly have."""
    others = pointers or {}
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        is_tensor = name in ("logits", "hidden", "weight", "query", "key", "value", "result")
        kind = f"*{element}" if is_tensor else POINTERS.get(name, NUMBERS.get(name, "i32"))
        kind = others.get(name, kind)
        if kernel is sequence_sums_kernel and name == "sums":
            kind = "*fp64"
        signature[name] = kind
        parameter = kernel.params[index]
        aligned = kind.startswith("*") and not parameter.do_not_specialize_on_alignment
        if aligned or (is_multiple(name) and not parameter.do_not_specialize):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=TARGETS[arch], options={**options, "enable_fp_fusion": True})


def read_binary(compiled: Any, what: str) -> str:
    """What cuobjdump says of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        return subprocess.run([tool, what, binary], capture_output=True, text=True, check=True).stdout


def resources(compiled: Any) -> tuple[int, int]:
    """Registers per thread and spilled bytes."""
    text = read_binary(compiled, "-res-usage")
    registers = re.search(r"REG:(\d+)", text)
    stack, local = re.search(r"STACK:(\d+)", text), re.search(r"LOCAL:(\d+)", text)
    assert registers and stack and local, text
    return int(registers[1]), int(stack[1]) + int(local[1])


def report(name: str, compiled: Any, arch: str) -> None:
    row: dict[str, Any] = {"name": name, "arch": arch, "triton": triton.__version__}
    row |= {"shared_bytes": compiled.metadata.shared, "waits": 0, "asked_waits": 0}
    if "cubin" in compiled.asm:
        row["registers"], row["spill_bytes"] = resources(compiled)
        row["wgmma"] = "wgmma.mma_async" in compiled.asm["ptx"]
        if row["wgmma"]:
            row["waits"] = read_binary(compiled, "-sass").count("WARPGROUP.DEPBAR")
            row["asked_waits"] = compiled.asm["ptx"].count("wgmma.wait_group")
    else:
        row["binary_bytes"] = len(compiled.asm["hsaco"])
        spills = re.findall(r"\.vgpr_spill_count:\s*(\d+)", compiled.asm["amdgcn"])
        row["spill_bytes"] = 4 * sum(int(count) for count in spills)
        row["wgmma"] = False
    print(json.dumps(row), flush=True)


def compile_linear(arch: str, variants: list[dict[str, bool]]) -> None:
    for name, size, argmax in configurations.LINEAR:
        if name != TILES_OF.get(arch, arch):
            continue
        for variant in variants:
            if variant.get("has_argmax", False) != argmax:
                continue
            plain = not variant.get("has_transform") and variant.get("even_h", True)
            tile = configurations.linear_tile(name, size, argmax=argmax, plain=plain)
            constants = {
                "has_bias": False,
                "has_transform": False,
                "has_softcap": False,
                "has_argmax": False,
                "even_h": True,
                **variant,
                "precision": "ieee",
                "split": configurations.SPLIT_ENTRIES,
                "block_r": tile.block_r,
                "block_v": tile.block_v,
                "block_h": tile.block_h,
            }
            options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
            compiled = compile_kernel(linear_states_kernel, {2: "bf16", 4: "fp32"}[size], constants, arch, options)
            label = "+".join(key for key, on in variant.items() if on) or "plain"
            report(f"linear_states {size} {label}", compiled, arch)


def compile_attention(arch: str, variants: list[dict[str, bool]]) -> None:
    for place, plain_tile in configurations.ATTENTION.items():
        name, size, head = place
        if name != TILES_OF.get(arch, arch):
            continue
        for variant in variants:
            sinks = variant.get("has_sinks", False)
            tile = configurations.ATTENTION_WITH_SINKS.get(place, plain_tile) if sinks else plain_tile
            constants = {
                "has_softcap": False,
                "has_window": False,
                "has_sinks": False,
                "even_head": True,
                **variant,
                "precision": "ieee",
                "block_q": tile.block_q,
                "block_k": tile.block_k,
                "padded_head": head,
            }
            options = tile.options(nvidia=arch.startswith("sm_"))
            compiled = compile_kernel(tree_attention_kernel, {2: "bf16", 4: "fp32"}[size], constants, arch, options)
            label = "+".join(key for key, on in variant.items() if on) or "plain"
            report(f"tree_attention {size} {head} {label} {tile.block_q} rows", compiled, arch)


def compile_small(arch: str) -> None:
    flags = {"has_bias": True, "has_mask": True, "has_softcap": True}
    row = {"has_bias": True, "has_needed": True, "has_transform": True, "has_softcap": True, "has_argmax": True}
    plain = dict.fromkeys(row, False) | {"has_needed": True}
    unseen = {"has_softcap": True, "has_window": True, "has_sinks": True, "block_q": BLOCK_ROWS}
    look = {"num_warps": UNSEEN_WARPS, **configurations.all_registers(nvidia=arch.startswith("sm_"))}
    for name, kernel, constants, options in (
        ("row_states", row_states_kernel, {**plain, "block_v": BLOCK_V}, {"num_warps": NUM_WARPS}),
        ("row_states all", row_states_kernel, {**row, "block_v": BLOCK_V}, {"num_warps": NUM_WARPS}),
        ("join_states", join_states_kernel, {"has_argmax": True, "block_rows": 128}, {"num_warps": 4}),
        ("pairs_from_logits", pairs_from_logits_kernel, {**flags, "block_pairs": 128}, {"num_warps": 4}),
        ("pairs_from_hidden", pairs_from_hidden_kernel, {**flags, "block_h": 1024}, {"num_warps": 4}),
        ("sequence_sums", sequence_sums_kernel, {"has_mask": True, "block": 128}, {"num_warps": 1}),
        (
            "unseen_values 128",
            unseen_values_kernel,
            {**unseen, "padded_head": 128},
            look,
        ),
        (
            "unseen_values 256",
            unseen_values_kernel,
            {**unseen, "padded_head": 256},
            look,
        ),
    ):
        report(name, compile_kernel(kernel, "bf16", constants, arch, options), arch)


def main(arch: str, group: str) -> None:
    plain: dict[str, bool] = {}
    if group == "small":
        compile_small(arch)
    elif group == "linear":
        compile_linear(arch, [plain])
    elif group == "linear_variants":
        transform = {"has_transform": True, "has_bias": True}
        others = [{**transform, "has_softcap": True}, {"even_h": False}]
        compile_linear(arch, [{"has_argmax": True}, *others, *({**one, "has_argmax": True} for one in others)])
    elif group == "attention":
        compile_attention(arch, [plain])
    elif group == "attention_variants":
        capped = {"has_softcap": True, "has_window": True}  # no architecture has a cap and sinks
        compile_attention(arch, [capped, {"has_window": True, "has_sinks": True}])


if __name__ == "__main__":
    for wanted in sys.argv[2].split(","):
        main(sys.argv[1], wanted)
