"""What turns requests into log-probabilities.

requests ─► prefix_tree ─► packing ─► layout ─► guest (replica, attention, fused_layers) ─► logprob ─► results

`scoring` leads through these; `scorer` holds a model and runs planned work through it, pack by pack in `execution`.
`model_source`, `wrapped_models` and `loading` get hold of a model, `model_checks` and `sharing_checks` find out what it
allows and `model` keeps that. `guest` runs a `replica` of it for one call; `turns` and `surroundings` keep threads,
forks and the caller's settings apart. On a CPU `fused_layers` finds what can be computed in fewer passes: modules
(`fused_modules`, `fused_rotary`), the sums of a layer (`pre_norm_layers`) or a layer as a whole (`whole_layers`).
"""
