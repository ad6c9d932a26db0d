"""Faults of convolutions and recurrences along a tree."""

from __future__ import annotations

from .faults import RECURRENCES, REHEARSAL, Fault

FILE, LEVELS = "kernels/triton_tree_recurrence.py", "kernels/triton_tree_levels.py"
PIECES = "kernels/triton_recurrence_chunks.py"
CONVOLUTION = "kernels/triton_tree_convolution.py"
LAUNCHED = "tests/test_kernel_launches.py"
PLACES = "tests/test_triton_recurrences.py -k read_before"  # the interpreter runs one program after another


def of(file: str, name: str, text: str, instead: str, tests: str = RECURRENCES) -> Fault:
    return Fault(name, file, text, instead, tests)


FAULTS = [
    of(LEVELS, "the state of another parent", "place[np.maximum(parents, 0)]", "place[np.maximum(parents - 1, 0)]"),
    of(LEVELS, "a level over its parents' states", "level % 2 * largest + np.arange(len(inner))", "np.arange(len(inner))", PLACES),
    of(LEVELS, "all of a level in one place", "level % 2 * largest + np.arange(len(inner))", "level % 2 * largest + np.arange(len(inner)) * 0"),
    of(LEVELS, "long leaves in one place", "np.arange(len(long)) % SCRATCH", "np.arange(len(long)) * 0", PLACES),
    of(LEVELS, "scratch over the parents' states", "place[long] = 2 * largest +", "place[long] = largest +", PLACES),
    of(LEVELS, "states kept of other nodes", "kept[list(keep)] = np.arange(len(keep))", "kept[sorted(keep)] = np.arange(len(keep))"),
    of(LEVELS, "a plan for other kept nodes", '("levels", tuple(keep), chunk, device)', '("levels", chunk, device)', LAUNCHED),
    of(LEVELS, "all levels in one launch", "levels[node] = levels[parent] + 1 if parent >= 0 else 0", "levels[node] = 0", PLACES),
    of(PIECES, "the wrong initial state", "(-2 - source) * size + cells", "(-1 - source) * size + cells"),
    of(PIECES, "no initial state", "if source <= -2:", "if source <= -9:"),
    of(FILE, "an empty node keeps nothing for its children", "            store_state(states, place, state, cells + lane * value_size, inside, size)\n", ""),
    of(FILE, "a token does not see itself", "tl.where((tokens >= token)[:, None], out +", "tl.where((tokens > token)[:, None], out +"),
    of(FILE, "tokens behind the node", "is_token = row < last", "is_token = row <= last"),
    of(FILE, "results not scaled", "        out *= scaling\n", ""),
    of(FILE, "own products not scaled", "factors = scaling * tl.sum(tl.where(is_this, of_queries", "factors = tl.sum(tl.where(is_this, of_queries"),
    of(FILE, "the skip left out", "has_skip=skip is not None", "has_skip=False"),
    of(FILE, "not normalised", "normalize=normalize", "normalize=False"),
    of(FILE, "a state read anew instead of the chunk's before", "        source = place\n", ""),
    of(FILE, "the state not decayed", "state *= tl.exp(tl.sum(logs, axis=0))\n", "state *= 1.0\n"),
    of(FILE, "kept before the last chunk", "is_last = start + chunk >= last", "is_last = start == first"),
    of(FILE, "heads of another group", "key += head // group * key_head_stride", "key += head % group * key_head_stride"),
    of(FILE, "key and query strides swapped", "            query.stride(0),\n            query.stride(1),\n            key.stride(0),\n            key.stride(1),",
       "            key.stride(0),\n            key.stride(1),\n            query.stride(0),\n            query.stride(1),"),
    of(FILE, "products in TF32", 'precision="ieee"', 'precision="tf32"', LAUNCHED),
    of(FILE, "columns past the end", "is_column = columns < value_size", "is_column = columns <= value_size"),
    of(FILE, "keys past the end", "            is_lane = lane + lanes < key_size\n            in_keys, in_state = is_token[:, None] & is_lane[None, :], is_lane[:, None] & is_column[None, :]\n            at = lane + lanes[None, :]\n            queries",
       "            is_lane = lane + lanes <= key_size\n            in_keys, in_state = is_token[:, None] & is_lane[None, :], is_lane[:, None] & is_column[None, :]\n            at = lane + lanes[None, :]\n            queries"),
    of(CONVOLUTION, "a convolution sees a sibling", "before[node] = behind[parent]", "before[node] = behind[node - 1]"),
    of(CONVOLUTION, "taps in reverse", "weight_stride + tap,", "weight_stride + width - 1 - tap,"),
    of(CONVOLUTION, "a tap too late", "is_own = position + tap >= width - 1", "is_own = position + tap >= width"),
    of(CONVOLUTION, "no bias", "has_bias=bias is not None", "has_bias=False"),
    of(CONVOLUTION, "no activation", 'has_silu=activation == "silu"', "has_silu=False"),
    of(CONVOLUTION, "no initial inputs", "has_initial=begun is not None", "has_initial=False"),
    of(CONVOLUTION, "another initial input", "place = (row - tokens).to(tl.int64) * channels", "place = (row - tokens + 1).to(tl.int64) * channels"),
    of(CONVOLUTION, "inputs before a cached node's", "tokens + count * (-2 - parent) + np.arange(count)", "tokens + count * (-2 - parent) + np.arange(count)[::-1]"),
    of(CONVOLUTION, "last inputs of a short node", "behind[node] = np.concatenate([before[node], own])[len(own) :]", "behind[node] = np.concatenate([before[node], own])[:count]"),
    of(CONVOLUTION, "sums in 16 bits", "        sums += inputs * factors[None, :]\n", "        sums += (inputs * factors[None, :]).to(tl.float16).to(exact)\n"),
    of(CONVOLUTION, "the plan copied with a wait", "to_device(torch.from_numpy(array.astype(np.int32)), device)", "torch.from_numpy(array.astype(np.int32)).to(device)", REHEARSAL),
    of(CONVOLUTION, "places of last inputs copied with a wait", "flat[to_device(to, x.device)]", "flat[to.to(x.device)]", REHEARSAL),
    of(LEVELS, "one place too few", "2 * largest + scratch)", "2 * largest + max(scratch - 1, 0))", PLACES),
    of(FILE, "cells of a state apart by the other size", "lanes[:, None] * value_size + columns", "lanes[:, None] * key_size + columns"),
    of(FILE, "step sizes taken for contiguous", "            step.contiguous(),\n", "            step,\n"),
    of(FILE, "decays taken for contiguous", "None if x is None else x.contiguous() for x in (decay", "x for x in (decay"),
    of(FILE, "vectors taken for contiguous", "x if x.stride(2) == 1 else x.contiguous()", "x"),
    of(FILE, "a key of zeros divided by 0", "tl.sqrt(key_squares + 1e-6)", "tl.sqrt(key_squares)"),
    of(FILE, "a query of zeros divided by 0", "tl.sqrt(query_squares + 1e-6)", "tl.sqrt(query_squares)"),
    of(FILE, "an update takes itself off", "tl.where((tokens > token)[:, None], updates", "tl.where((tokens >= token)[:, None], updates"),
    of(PIECES, "a row's decay of the token itself behind it", "tl.where((tokens < token)[:, None], row_of(logs", "tl.where((tokens <= token)[:, None], row_of(logs"),
    of(PIECES, "a head's decay of the token itself behind it", "(tokens < token)[None, :] & (tokens >= token)", "(tokens <= token)[None, :] & (tokens >= token)"),
    of(CONVOLUTION, "rows of inputs apart by their length", "            x.stride(0),\n", "            channels,\n"),
    of(CONVOLUTION, "inputs and weights taken for contiguous", "y if y.stride(1) == 1 else y.contiguous()", "y"),
    of(CONVOLUTION, "a bias taken for contiguous", "None if bias is None else bias.contiguous()", "bias"),
    of(CONVOLUTION, "initial inputs taken for contiguous", "else initial.contiguous()", "else initial"),
    of(CONVOLUTION, "what a short path lacks is not zero", "x.new_zeros(len(keep)", "x.new_ones(len(keep)"),
    of(CONVOLUTION, "a channel past the last", "channel < channels", "channel <= channels"),
    of(LEVELS, "a plan for another device", '("levels", tuple(keep), chunk, device)', '("levels", tuple(keep), chunk)', LAUNCHED),
    of(CONVOLUTION, "a plan for another device", '("convolution", width, device)', '("convolution", width)', LAUNCHED),
]  # fmt: skip
