"""The C++ module (csrc/binding.cpp). Arrays are NumPy views; bfloat16 comes as uint16."""

import numpy as np

def has_amx_bfloat16() -> bool: ...
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
def amx_linear_logsumexp(
    hidden: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    scale: float,
    softcap: float,
    max: np.ndarray,
    sum: np.ndarray,
    argmax: np.ndarray | None,
    threads: int,
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
