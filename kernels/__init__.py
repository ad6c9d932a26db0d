"""Kernels that turn hidden states or logits into log-probabilities (installed as `instsel.kernels`)."""
