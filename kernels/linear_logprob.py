"""Log-probabilities of chosen tokens from hidden states and the head's weight, without storing the logits."""

from __future__ import annotations

from torch import Tensor

from .backends import choose_backend, implementation
from .devices import current
from .logprobs import HeadTransform, Logprobs, Pairs, with_sequences
from .validation import FLOATS, check_head, check_pairs, check_tensor


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
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
    fused: bool | str = "auto",
) -> Logprobs:
    """Log-probabilities of (row, target) pairs from hidden states and the output embedding.

    `z = scale * (hidden @ weight.T + bias)`, then `z = softcap * tanh(z / softcap)` if given, and for pair p
    `logprob[p] = z[rows[p], targets[p]] - logsumexp(z[rows[p]])`. Products are summed in float32 whatever the dtype.

    hidden   [R, H] float32, float16 or bfloat16, unit column stride
    weight   [V, H] of the same dtype and device, unit column stride
    rows     int64 [P], in [0, R); one row may have many targets (the first tokens of many answers to one prompt)
    targets  int64 [P], in [0, V)
    offsets  int64 [S + 1] from 0 to P: sequence s is the pairs offsets[s]:offsets[s + 1], and `sum` and `mean` are
             filled in
    mask     bool [P]: False leaves a pair out
    bias     [V] float
    backend  "auto", "reference", "cpu" (C++) or "triton"
    fused    True: logits are never in memory; False: the library's matrix product in chunks, then one pass;
             "auto": whichever was measured to be faster on this device and shape

    Raises TypeError or ValueError naming the parameter; indices are checked where the tensors are on the CPU (on a GPU
    that would wait for the device: a pair out of range becomes NaN there).

    >>> import torch
    >>> from instsel.kernels import linear_logprob
    >>> hidden, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> linear_logprob(hidden, weight, torch.tensor([0, 0]), torch.tensor([2, 0])).logprob
    tensor([-0.4076, -2.4076])
    """
    check_tensor("hidden", hidden, 2, FLOATS, None)
    check_tensor("weight", weight, 2, (hidden.dtype,), hidden.device)
    for name, value in (("hidden", hidden), ("weight", weight)):
        if value.shape[1] > 1 and value.stride(1) != 1:
            raise ValueError(f"{name}: expected a column stride of 1, got {value.stride(1)}")
    if weight.shape[0] == 0 or weight.shape[1] == 0:
        raise ValueError(f"weight: expected at least one row and one column, got shape {tuple(weight.shape)}")
    if weight.shape[1] != hidden.shape[1]:
        raise ValueError(f"weight: expected {hidden.shape[1]} columns (as hidden has), got {weight.shape[1]}")
    if fused not in (True, False, "auto"):
        raise ValueError(f'fused: expected True, False or "auto", got {fused!r}')
    num_rows, vocabulary = hidden.shape[0], weight.shape[0]
    check_pairs(rows, targets, mask, offsets, num_rows=num_rows, vocabulary=vocabulary, device=hidden.device)
    check_head(bias, scale, softcap, vocabulary=vocabulary, device=hidden.device)
    chosen = choose_backend(backend, hidden.device)
    run = implementation("linear_logprob", chosen)
    pairs, head = Pairs.of(rows, targets, mask), HeadTransform.of(bias, scale, softcap)
    with current(hidden.device):
        result = run(hidden.detach(), weight.detach(), pairs, head, argmax, fused)
        return result if offsets is None else with_sequences(result, offsets, mask, backend=chosen)
