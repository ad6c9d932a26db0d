"""What turns requests into log-probabilities.

requests ─► prefix_tree ─► packing ─► layout ─► model (attention, fused_layers) ─► logprob ─► results

`scorer` leads through these, `execution` runs the packs, `loading`, `model_checks` and `sharing_checks` find out what a
model allows.
"""
