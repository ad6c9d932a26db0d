"""What turns requests into log-probabilities.

requests ─► planned trees (instsel.planning) ─► execution: model_session, logprob ─► results

`scoring` leads through these: schedule, run, collect. `scorer` holds a model (`checked_models` what its checks found),
and `execution` runs planned trees through it pack by pack, several at once where `side_by_side` allows.
`model_source`, `wrapped_models` and `loading` get hold of a model, `model_checks` and `sharing_checks` find out what
it allows and `model` keeps that. `model_session` runs a replica of it (instsel.layers) for one call; `inference_lock`
and `inference_context` keep threads, forks and the caller's settings apart.
"""
