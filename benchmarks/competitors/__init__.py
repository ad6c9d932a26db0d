"""Ways of scoring the same requests, each a file with `BATCH_SIZES` and one function:

`prepare(model, work, batch_size)` sets up what is not part of the work and gives a function without arguments that
scores all requests and returns their mean log-probabilities, float64 [n]. Batch
sizes are tried and the best is kept; on a GPU those of `GPU_BATCH_SIZES` where a file has it. `packs` and `saved` are
what several share.
"""

NAMES = ("one_by_one", "one_by_one_lean", "padded", "lm_eval", "dynamic_cache", "flex", "llama_cpp", "vllm", "sglang")
