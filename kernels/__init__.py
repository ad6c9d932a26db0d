"""Kernels that turn hidden states or logits into log-probabilities, and attention over a packed prefix tree.

They know nothing of the rest of the package and serve other tools as well: each function takes tensors, checks them
once, and runs one of `BACKENDS`. The plain PyTorch code of the `reference` backend is the specification.
"""

from .backends import BACKENDS
from .linear_logprob import linear_logprob
from .logprobs import Logprobs
from .row_logprob import row_logprob
from .tree_attention import tree_attention
from .tree_segments import TreeSegments

__all__ = ["BACKENDS", "Logprobs", "TreeSegments", "linear_logprob", "row_logprob", "tree_attention"]
