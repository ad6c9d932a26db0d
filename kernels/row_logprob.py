"""Log-probabilities of chosen tokens from logits that exist already."""

from __future__ import annotations

from torch import Tensor

from .backends import choose_backend, implementation
from .devices import current
from .logprobs import HeadTransform, Logprobs, Pairs, with_sequences
from .validation import FLOATS, check_head, check_pairs, check_tensor


def row_logprob(
    logits: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    offsets: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Tensor | None = None,
    argmax: bool = False,
    backend: str = "auto",
) -> Logprobs:
    """Log-probabilities of (row, target) pairs from logits, which are read once and never copied.

    `z = scale * (logits + bias)`, then `z = softcap * tanh(z / softcap)` if given, and for pair p
    `logprob[p] = z[rows[p], targets[p]] - logsumexp(z[rows[p]])`, in float32 whatever the dtype of the logits.

    logits   [T, V] float32, float16 or bfloat16, any row stride, unit column stride
    rows     int64 [P], in [0, T); a row may appear in any number of pairs, and rows in no pair are not read
    targets  int64 [P], in [0, V)
    offsets  int64 [S + 1] from 0 to P: sequence s is the pairs offsets[s]:offsets[s + 1], and `sum` and `mean` are
             filled in
    mask     bool [P]: False leaves a pair out (its row and target may then be anything, such as -100)
    bias     [V] float
    backend  "auto", "reference", "cpu" (C++) or "triton"

    Raises TypeError or ValueError naming the parameter; indices are checked where the tensors are on the CPU (on a GPU
    that would wait for the device: a pair out of range becomes NaN there).

    >>> import torch
    >>> from instsel.kernels import row_logprob
    >>> logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]])
    >>> rows, targets = torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1])
    >>> result = row_logprob(logits, rows, targets, offsets=torch.tensor([0, 1, 3]))
    >>> result.logprob
    tensor([-0.4076, -2.4076, -1.0986])
    >>> result.mean
    tensor([-0.4076, -1.7531], dtype=torch.float64)
    """
    check_tensor("logits", logits, 2, FLOATS, None)
    if logits.shape[1] == 0:
        raise ValueError("logits: expected at least one column, got none")
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise ValueError(f"logits: expected a column stride of 1, got {logits.stride(1)}")
    num_rows, vocabulary = logits.shape
    check_pairs(rows, targets, mask, offsets, num_rows=num_rows, vocabulary=vocabulary, device=logits.device)
    check_head(bias, scale, softcap, vocabulary=vocabulary, device=logits.device)
    chosen = choose_backend(backend, logits.device)
    run = implementation("row_logprob", chosen)
    pairs, head = Pairs.of(rows, targets, mask), HeadTransform.of(bias, scale, softcap)
    with current(logits.device):
        result = run(logits.detach(), pairs, head, argmax)
        return result if offsets is None else with_sequences(result, offsets, mask, backend=chosen)
