"""Faults of the head: states of rows, log-probabilities of pairs, sums over sequences."""

from __future__ import annotations

from .faults import REHEARSAL, Fault, interpreted

HEAD = interpreted("logprob or pairs or batch or rows or places or passes or beyond")
LINEAR, STATES, PAIRS = "kernels/triton_linear_logprob.py", "kernels/triton_linear_states.py", "kernels/triton_pairs.py"
ROWS, ROW = "kernels/triton_row_states.py", "kernels/triton_row_logprob.py"
FAR = "tests/test_emulated_kernels.py -k 'beyond_32_bits and 90'"  # the interpreter adds in 64 bits
LAUNCHED = "tests/test_kernel_launches.py"


def of(file: str, name: str, text: str, instead: str, tests: str = HEAD) -> Fault:
    return Fault(name, file, text, instead, tests)


MAIN_LOOP = "        index = (start + entries).to(tl.int64)\n"
FAULTS = [
    of(STATES, "the head's products in TF32", 'precision="ieee"', 'precision="tf32"', LAUNCHED),
    of(STATES, "weight places in 32 bits in the main loop", MAIN_LOOP, "        index = start + entries\n", FAR),
    of(STATES, "weight places in 32 bits at the end", "vocabulary - 1).to(tl.int64)", "vocabulary - 1)", FAR),
    of(STATES, "hidden places in 32 bits", "num_rows - 1).to(tl.int64)", "num_rows - 1)"),
    of(STATES, "the last of equal logits in a tile", "where = tl.min(tl.where(z == tile_max[:, None], entries[None, :], block_v), axis=1)",
       "where = tl.max(tl.where(z == tile_max[:, None], entries[None, :], -1), axis=1)"),
    of(STATES, "the last of equal tiles", "tl.where(tile_max > largest, first_entry", "tl.where(tile_max >= largest, first_entry"),
    of(STATES, "arg max within the tile", "first_entry + where, argmax", "where, argmax"),
    of(STATES, "the sum not rescaled", "total = total * tl.exp2((largest - offset) * LOG2_E) + tile_sum", "total = total + tile_sum"),
    of(STATES, "an entry past the vocabulary", "inside = whole + entries < last", "inside = whole + entries <= last"),
    of(STATES, "the last entry left out", "inside = whole + entries < last", "inside = whole + entries < last - 1"),
    of(STATES, "a split's end in the next split", "last = tl.minimum(first + split, vocabulary)", "last = vocabulary"),
    of(STATES, "the ragged end left out", "if whole < last:", "if whole < 0:"),
    of(STATES, "the scale left out", "has_transform=bias is not None or scale != 1.0 or softcap is not None",
       "has_transform=bias is not None or softcap is not None"),
    of(STATES, "no soft-cap", "has_softcap=softcap is not None", "has_softcap=False"),
    of(STATES, "no bias", "has_bias=bias is not None,\n", "has_bias=False,\n"),
    of(STATES, "bias of the tile's beginning", "tl.load(bias + start + entries)", "tl.load(bias + start + entries * 0)"),
    of(STATES, "hidden size taken for a multiple", "even_h=hidden.shape[1] % configuration.block_h == 0", "even_h=True"),
    of(STATES, "hidden components past the end", "inside = start + lanes < size", "inside = start + lanes <= size"),
    of(STATES, "strides swapped", "        hidden.stride(0),\n        weight.stride(0),", "        weight.stride(0),\n        hidden.stride(0),"),
    of(STATES, "products summed in 16 bits", "    return products\n", "    return products.to(tl.float16).to(tl.float32)\n"),
    of(STATES, "states of rows past the end stored", "    stored = rows < num_rows\n", "    stored = rows <= num_rows\n"),
    of(LINEAR, "a row between passes left out", "slice(row, row + PASS_ROWS)", "slice(row, row + PASS_ROWS - 1)"),
    of(LINEAR, "every pass reads the first rows", "linear_states(hidden[part],", "linear_states(hidden[: len(hidden[part])],"),
    of(LINEAR, "arg max of one pass for all", "None if best is None else best[:, part]", "None if best is None else best[:, :PASS_ROWS]"),
    of(STATES, "states of a pass apart by its own rows", "        maxima.stride(0),\n", "        hidden.shape[0],\n"),
    of(LINEAR, "the last pass left out", "range(0, hidden.shape[0], PASS_ROWS)", "range(0, max(hidden.shape[0] - PASS_ROWS, 1), PASS_ROWS)"),
    of(LINEAR, "the unfused product untransposed", "torch.mm(left, right.T, out_dtype=torch.float32, out=out)",
       "torch.mm(left, right, out_dtype=torch.float32, out=out)", "tests/gpu_rehearsal.py -k unfused"),
    of(LINEAR, "the unfused product in 16 bits", "torch.mm(left, right.T, out_dtype=torch.float32, out=out)",
       "out.copy_(torch.mm(left, right.T))", "tests/gpu_rehearsal.py -k unfused"),
    of(LINEAR, "unfused: untransposed", "torch.mm(left.float(), right.float().T, out=out)", "torch.mm(left.float(), right.float(), out=out)"),
    of(LINEAR, "unfused: every chunk the first", "scale, softcap, first, (maxima", "scale, softcap, 0, (maxima"),
    of(LINEAR, "unfused: rows of another chunk", "rows = hidden[row : row + CHUNK_ROWS]", "rows = hidden[: CHUNK_ROWS]"),
    of(LINEAR, "unfused: parts beside each other", "maxima[part, row:stop], sums[part, row:stop]", "maxima[part, row:stop], sums[0, row:stop]"),
    of(LINEAR, "unfused whatever was asked", 'use_fused = choose_fused(hidden.device, hidden.dtype) if fused == "auto" else bool(fused)',
       "use_fused = False", REHEARSAL),
    of(LINEAR, "pairs without the scale", "            hidden.shape[1],\n            scale,", "            hidden.shape[1],\n            1.0,"),
    of(LINEAR, "pairs: strides swapped", "            hidden.stride(0),\n            weight.stride(0),",
       "            weight.stride(0),\n            hidden.stride(0),"),
    of(PAIRS, "the last of equal parts", "argmax = tl.where(value > largest, index, argmax)", "argmax = tl.where(value >= largest, index, argmax)"),
    of(PAIRS, "parts not rescaled", "total += part_sum * tl.exp2((finite_offset(value) - offset) * LOG2_E)", "total += part_sum"),
    of(PAIRS, "rows past the end joined", "    inside = rows < num_rows\n", "    inside = rows <= num_rows\n"),
    of(PAIRS, "a row past the end is valid", "(row >= 0) & (row < num_rows)", "(row >= 0) & (row <= num_rows)"),
    of(PAIRS, "a negative row is valid", "valid = inside & (row >= 0) &", "valid = inside &"),
    of(PAIRS, "a target past the end is valid", "(target < num_columns)", "(target <= num_columns)"),
    of(PAIRS, "any target is valid", "valid = (row == given_row) & (target == given_target)", "valid = row == given_row"),
    of(PAIRS, "any row is valid", "valid = (row == given_row) & (target == given_target)", "valid = target == given_target"),
    of(PAIRS, "probabilities above 1", "    value = tl.where(value > 0.0, 0.0, value)\n", ""),
    of(PAIRS, "pairs of logits without a mask", "valid = valid & (tl.load(mask + pairs, mask=inside, other=0) != 0)", "valid = valid"),
    of(PAIRS, "pairs of hidden rows without a mask", "valid = valid & (tl.load(mask + pair) != 0)", "valid = valid"),
    of(PAIRS, "bias of another target", "shift = tl.load(bias + target)\n", "shift = tl.load(bias + row)\n"),
    of(PAIRS, "sums without a mask", "counted = counted & (tl.load(mask + start + lanes, mask=counted, other=0) != 0)", "counted = counted"),
    of(PAIRS, "sums in float32", "mask=counted, other=0.0).to(tl.float64)", "mask=counted, other=0.0).to(tl.float32).to(tl.float16).to(tl.float64)"),
    of(PAIRS, "a sequence takes one pair more", "counted = start + lanes < last", "counted = start + lanes <= last"),
    of(PAIRS, "sequences past the last pair", "last = tl.minimum(tl.load(sequence_offsets + sequence + 1), num_pairs)",
       "last = tl.load(sequence_offsets + sequence + 1)"),
    of(PAIRS, "hidden components past the end of a pair", "inside = start + lanes < size", "inside = start + lanes <= size"),
    of(ROWS, "the last of equal blocks", "best_block = tl.where(block_max > largest, start, best_block)",
       "best_block = tl.where(block_max >= largest, start, best_block)"),
    of(ROWS, "the last of equal logits in a row", "where = tl.where(z == largest, columns, block_v)\n",
       "where = tl.where(z == largest, -columns, block_v)\n"),
    of(ROWS, "a column past the end", "        inside = start + columns < num_columns\n", "        inside = start + columns <= num_columns\n"),
    of(ROWS, "arg max within the chunk", "(first_column + best_block + tl.min", "(best_block + tl.min"),
    of(ROWS, "bias of the first chunk", "tl.load(bias + first_column + start + columns", "tl.load(bias + start + columns"),
    of(ROWS, "the sum of a row not rescaled", "total = total * tl.exp2((largest - offset_now) * LOG2_E) + block_sum", "total = total + block_sum"),
    of(ROWS, "rows in 32 bits", "row = tl.program_id(0).to(tl.int64)", "row = tl.program_id(0)"),
    of(ROWS, "the row's sum in 16 bits", "        largest = new_largest\n", "        largest = new_largest\n        total = total.to(tl.float16).to(tl.float32)\n"),
    of(ROW, "needed rows left out", "counted = valid if mask is None else valid & mask", "counted = valid & (rows % 2 == 0)"),
    of(ROW, "the bias left out of rows", "has_bias=bias is not None,\n            has_mask", "has_bias=False,\n            has_mask"),
    of("kernels/triton_logits.py", "the soft-cap's scale", "softcap * tanh_float(z / softcap)", "tanh_float(z / softcap)"),
    of("kernels/triton_logits.py", "bias after the scale", "z = (z + bias) * scale", "z = z * scale + bias"),
    of("kernels/triton_logits.py", "no maximum gives NaN", 'return tl.where(largest == float("-inf"), 0.0, largest)', "return largest"),
    of("kernels/triton_logits.py", "tanh near 0 cancels", "a < 0.625", "a < 0.0", interpreted("cap or tanh")),
]  # fmt: skip
