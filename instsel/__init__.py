"""Exact, fast scoring of instruction-tuning data under a causal language model, and selection from it."""

__version__ = "0.1.0"
