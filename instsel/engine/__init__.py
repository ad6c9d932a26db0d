"""What turns requests into log-probabilities.

requests ─► planned_tree (prefix_tree, packing) ─► execution: layout, model_session, logprob ─► results

`scoring` leads through these: schedule, run, collect. `scorer` holds a model (`checked_models` what its checks found),
and `execution` runs planned trees through it pack by pack, several at once where `side_by_side` allows.
`model_source`, `wrapped_models` and `loading` get hold of a model, `model_checks` and `sharing_checks` find out what
it allows and `model` keeps that. `model_session` runs a `replica` of it for one call; `inference_lock` and
`inference_context` keep threads, forks and the caller's settings apart. On a CPU `fused_layers` finds what can be
computed in fewer passes: modules (`fused_modules`) and layers in one run of kernels (`whole_layers`). A layer is found
from what it does in one pack (`layer_records`) and with `stand_ins` for its parts: how it joins them (`layer_flow`,
`layer_schedule`) and what they compute (`attention_search`, by what `attention_trace` shows, and
`feed_forward_parts`).
"""
