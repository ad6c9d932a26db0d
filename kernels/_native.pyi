"""The C++ module (csrc/binding.cpp). Arrays are NumPy views; bfloat16 comes as uint16."""

import numpy as np

def choose_instruction_set(name: str) -> str: ...
def set_openmp_threads(threads: int) -> int: ...
def form_team(threads: int) -> int: ...
def accumulate(
    chunk: np.ndarray,
    first_column: int,
    bias: np.ndarray | None,
    scale: float,
    softcap: float,
    max: np.ndarray,
    sum: np.ndarray,
    argmax: np.ndarray | None,
    threads: int,
    instruction_set: str,
) -> None: ...
def linear_logsumexp(
    hidden: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    scale: float,
    softcap: float,
    max: np.ndarray,
    sum: np.ndarray,
    argmax: np.ndarray | None,
    threads: int,
    instruction_set: str,
) -> None: ...
def row_logprob(
    logits: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    mask: np.ndarray | None,
    bias: np.ndarray | None,
    scale: float,
    softcap: float,
    logprobs: np.ndarray,
    logsumexps: np.ndarray,
    argmax: np.ndarray | None,
    threads: int,
    instruction_set: str,
) -> None: ...
def pair_logprobs(
    hidden: np.ndarray,
    weight: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    mask: np.ndarray | None,
    bias: np.ndarray | None,
    scale: float,
    softcap: float,
    max: np.ndarray,
    sum: np.ndarray,
    argmax: np.ndarray | None,
    logprobs: np.ndarray,
    logsumexps: np.ndarray,
    threads: int,
    instruction_set: str,
) -> None: ...
def bfloat16_tree_attention_workspace(blocks: int, key_heads: int, head_size: int) -> int: ...
def bfloat16_tree_attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    out: np.ndarray,
    query_offsets: np.ndarray,
    range_start: np.ndarray,
    range_stop: np.ndarray,
    range_block: np.ndarray,
    path_offsets: np.ndarray,
    path_ranges: np.ndarray,
    scaling: float,
    softcap: float,
    window: int,
    sinks: np.ndarray | None,
    threads: int,
    workspace: np.ndarray,
    instruction_set: str,
) -> None: ...
def bfloat16_linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    add: bool,
    out: np.ndarray,
    threads: int,
    instruction_set: str,
) -> None: ...
def bfloat16_gated_linear(
    x: np.ndarray,
    gate: np.ndarray,
    up: np.ndarray,
    activation: str,
    out: np.ndarray,
    threads: int,
    instruction_set: str,
) -> None: ...
def float_tree_attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    out: np.ndarray,
    query_offsets: np.ndarray,
    range_start: np.ndarray,
    range_stop: np.ndarray,
    range_block: np.ndarray,
    path_offsets: np.ndarray,
    path_ranges: np.ndarray,
    scaling: float,
    softcap: float,
    window: int,
    sinks: np.ndarray | None,
    threads: int,
    instruction_set: str,
) -> None: ...
def rms_norm(
    x: np.ndarray,
    update: np.ndarray | None,
    weight: np.ndarray,
    weight_offset: float,
    epsilon: float,
    out: np.ndarray,
    threads: int,
    instruction_set: str,
) -> None: ...
def gate_in_place(x: np.ndarray, up: np.ndarray, activation: str, threads: int, instruction_set: str) -> None: ...
def rotate_in_place(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, threads: int, instruction_set: str) -> None: ...
