"""Kernels that turn hidden states or logits into log-probabilities, and attention and recurrences along a prefix tree.

They know nothing of the rest of the package and serve other tools as well: each function takes tensors, checks them
once, and runs one of `BACKENDS`. The plain PyTorch code of the `reference` backend is the specification.
"""

from .backends import BACKENDS
from .linear_logprob import linear_logprob
from .logprobs import Logprobs
from .row_logprob import row_logprob
from .tree_attention import tree_attention
from .tree_convolution import tree_convolution
from .tree_delta_rule import tree_delta_rule
from .tree_nodes import TreeNodes
from .tree_scan import tree_scan
from .tree_segments import TreeSegments

__all__ = [
    "BACKENDS",
    "Logprobs",
    "TreeNodes",
    "TreeSegments",
    "linear_logprob",
    "row_logprob",
    "tree_attention",
    "tree_convolution",
    "tree_delta_rule",
    "tree_scan",
]
