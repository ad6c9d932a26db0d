"""Faults of attention: the kernel, its launch, what it leaves to others, and the choice between them."""

from __future__ import annotations

from .faults import REHEARSAL, Fault

ATTENTION = "tests/interpreted_attention.py"
EMULATED = "tests/test_emulated_kernels.py -k 'test_attention and 80'"
FILE, VARLEN, PROBES = "kernels/triton_tree_attention.py", "kernels/varlen_attention.py", "kernels/attention_probes.py"
GATHERED, TRIED = "tests/test_varlen_attention.py", "tests/test_attention_probes.py"
LAUNCHED = "tests/test_kernel_launches.py"
STRIDES = """\
        query.stride(0),
        query.stride(1),
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        heads,
"""
SWAPPED = STRIDES.replace("key", "VALUE").replace("value", "key").replace("VALUE", "value")


def of_kernel(name: str, text: str, instead: str, tests: str = ATTENTION) -> Fault:
    return Fault(name, FILE, text, instead, tests)


def of_engine(file: str, name: str, text: str, instead: str) -> Fault:
    return Fault(name, f"instsel/engine/{file}.py", text, instead, "tests/test_infinite_neighbor.py")


def of_varlen(name: str, text: str, instead: str) -> Fault:
    return Fault(f"varlen: {name}", VARLEN, text, instead, GATHERED)


def of_probes(name: str, text: str, instead: str) -> Fault:
    return Fault(f"probes: {name}", PROBES, text, instead, TRIED)


FAULTS = [
    of_kernel("attention's products in TF32", 'precision="ieee"', 'precision="tf32"', LAUNCHED),
    of_kernel("key and value strides swapped", STRIDES, SWAPPED),
    of_kernel("query's strides swapped", "        query.stride(0),\n        query.stride(1),",
              "        query.stride(1),\n        query.stride(0),"),
    of_kernel("value read with the key's stride", "value + rows * value_stride", "value + rows * key_stride"),
    of_kernel("value's head by the key's stride", "value += key_head * value_head_stride",
              "value += key_head * key_head_stride"),
    Fault("a head size that Triton may look at", "kernels/triton_row_blocks.py", ', "window", "head_size")', ', "window")', LAUNCHED),
    Fault("a vocabulary that Triton may look at", "kernels/triton_linear_states.py", '"states_stride", "vocabulary"]', '"states_stride"]', LAUNCHED),
    of_kernel("it looks for what is not finite unasked", "    if find_again:\n", "    if True:\n", LAUNCHED),
    of_engine("scoring", "what is not finite is not scored again", "if session.find_again or not lost.any():", "if True:"),
    of_engine("scoring", "all is scored again", "np.where(lost, prepared.first_scored, 0)", "prepared.first_scored"),
    of_engine("scoring", "the first sum stays", "        total[lost], greedy[lost] = 0.0, ", "        greedy[lost] = "),
    of_engine("model_session", "a pack does not hear that its layers are to look", "            find_again=self.find_again,\n", ""),
    Fault("a layer does not hear that it is to look", "instsel/layers/gpu_layers.py", "state.backend, state.find_again)", "state.backend, True)", REHEARSAL),
    Fault("layers never look", "instsel/layers/gpu_layers.py", "state.backend, state.find_again)", "state.backend, False)", REHEARSAL),
    Fault("own code of a layer is trusted with NaN", "instsel/engine/model_session.py", "return self._layers_on_gpu == self.info.config.num_hidden_layers",
          "return self._layers_on_gpu > 0", REHEARSAL),
    of_kernel("a token does not see itself", "distance >= 0", "distance > 0"),
    of_kernel("a token sees the next one", "distance >= 0", "distance >= -1"),
    of_kernel("a window of one key more", "distance < window", "distance <= window"),
    of_kernel("a window of one key fewer", "distance < window", "distance < window - 1"),
    of_kernel("a key past the range's end", "inside = index < stop", "inside = index <= stop"),
    of_kernel("the last key left out", "inside = index < stop", "inside = index < stop - 1"),
    of_kernel("key places in 32 bits", "rows = index.to(tl.int64)[:, None]", "rows = index[:, None]"),
    of_kernel("query places in 32 bits", "place = (token + row_token).to(tl.int64) * query_token_stride",
              "place = (token + row_token) * query_token_stride"),
    of_kernel("scores not scaled", "input_precision=precision) * scaling", "input_precision=precision)"),
    of_kernel("no soft-cap", "has_softcap=softcap is not None", "has_softcap=False"),
    of_kernel("no window", "has_window=window is not None", "has_window=False"),
    of_kernel("no sinks", "has_sinks=sinks is not None,\n        even_head", "has_sinks=False,\n        even_head"),
    of_kernel("the sum not rescaled", "total = total * shrink + tl.sum", "total = total + tl.sum"),
    of_kernel("the values not rescaled", "out * shrink[:, None]", "out"),
    of_kernel("head size taken for a power of two", "even_head=head_size == padded_head", "even_head=True"),
    of_kernel("path positions begin anew in every range", "        position += stop - start\n", ""),
    of_kernel("rows of another node stored", "    used = row_token < num_tokens\n", "    used = row_token < num_tokens + 1\n",
              EMULATED),
    of_kernel("cached keys not skipped", "own = num_cached + token", "own = token"),
    of_kernel("a node's own keys cut short", "(first_row + block_q - 1) // group, num_tokens - 1",
              "(first_row + block_q - 1) // group - 1, num_tokens - 1"),
    of_kernel("context's length left out of positions", "row_position = context + row_token", "row_position = row_token"),
    of_kernel("probabilities in 16 bits before they are added up", "total * shrink + tl.sum(probabilities, axis=1)",
              "total * shrink + tl.sum(probabilities.to(tl.float16).to(tl.float32), axis=1)"),
    of_kernel("what rows do not see is not left out", "    if find_again:\n", "    if False:\n"),
    Fault("an unfinished block of rows left out", "kernels/triton_row_blocks.py",
          "-(-np.diff(rows) * rows_per_token // block_rows)", "np.diff(rows) * rows_per_token // block_rows", ATTENTION),
    Fault("row blocks of another kernel", "kernels/triton_row_blocks.py", '("triton", device, group, block_q)',
          '("triton", device, group)', ATTENTION),
    Fault("unseen values: one row too many sees", "kernels/triton_unseen_values.py", "seen = distance >= 0",
          "seen = distance >= -1", ATTENTION),
    Fault("unseen values: a window of one key more", "kernels/triton_unseen_values.py", "(distance < window)",
          "(distance <= window)", ATTENTION),
    Fault("unseen values: no sinks", "kernels/triton_unseen_values.py", "has_sinks=sinks is not None", "has_sinks=False",
          ATTENTION),
    Fault("unseen values: not scaled", "kernels/triton_unseen_values.py", "[None, :], axis=1) * scaling",
          "[None, :], axis=1)", ATTENTION),
    Fault("unseen values: key and value strides swapped", "kernels/triton_unseen_values.py", STRIDES, SWAPPED, ATTENTION),
    of_varlen("it looks for what is not finite unasked", "if find_again and triton_error", "if triton_error"),
    of_varlen("a window of one key more", "window - 1", "window"),
    of_varlen("not causal, flash-attn", "causal=True", "causal=False"),
    of_varlen("not causal, torch", '"window_size": (left, 0), "enable', '"window_size": (left, -1), "enable'),
    of_varlen("a window forgotten, flash-attn", "window_size=(left, 0)", "window_size=(-1, 0)"),
    of_varlen("offsets swapped", '(plan["query_offsets"], plan["key_offsets"]', '(plan["key_offsets"], plan["query_offsets"]'),
    of_varlen("longest swapped", '"longest_query": int(queries.max())', '"longest_query": 1'),
    of_varlen("the longest path cut short", 'int(lengths.max())', 'int(lengths.min())'),
    of_varlen("values not gathered", 'value.index_select(0, plan["path"])', "value"),
    of_varlen("values along the keys", 'value.index_select(0, plan["path"])', 'key.index_select(0, plan["path"])'),
    of_varlen("not scaled, torch", '{"scale": scaling, ', "{"),
    of_varlen("not scaled, flash-attn", "            softmax_scale=scaling,\n", ""),
    of_varlen("no soft-cap", "softcap=softcap or 0.0", "softcap=0.0"),
    of_varlen("no sinks", "        out = with_sinks(out[0], out[1], sinks)\n", "        out = out[0]\n"),
    of_varlen("the sink's sign", "logsumexp - sinks[:, None]", "sinks[:, None] - logsumexp"),
    of_varlen("bits by what else is there", ", num_splits=1)", ")"),
    of_varlen("not deterministic", "deterministic=True", "deterministic=False"),
    of_varlen("a plan for other cached keys", '("varlen", num_cached, device)', '("varlen", device)'),
    of_varlen("empty nodes counted", "if segments.query_offsets[n] < segments.query_offsets[n + 1]]", "]"),
    of_varlen("grouped heads forgotten", ', "enable_gqa": True', ""),
    of_varlen("what rows do not see is not left out", "        leave_out_unseen(query, key, value, out, segments, options)\n", ""),
    of_probes("the reference against itself", "found = run(backend,", 'found = run("reference",'),
    of_probes("a backend against itself", 'exact = run("reference", torch.device("cpu"), torch.float32)',
              'exact = run(backend, torch.device("cpu"), torch.float32)'),
    of_probes("any difference agrees", "if difference <= TOLERANCE", "if difference <= 100 * TOLERANCE"),
    of_probes("without the window", "WINDOW if kind.has_window else None", "None"),
    of_probes("without the soft-cap", "SOFTCAP if kind.has_softcap else None", "None"),
    of_probes("without sinks", "sinks=None if sinks is None else sinks.to(device)", "sinks=None"),
    of_probes("a tree without siblings", "[[], [(0, 70)], [(0, 70)], [(0, 70), (73, 110)]]",
              "[[], [(0, 70)], [(0, 73)], [(0, 110)]]"),
    of_probes("in float32 whatever the call", "run(backend, kind.device, kind.dtype)", "run(backend, kind.device, torch.float32)"),
    of_probes("one group of heads for all", "heads = (2 * kind.group, 2, 2)", "heads = (2, 2, 2)"),
    of_probes("lack of memory is a verdict", "    except (torch.OutOfMemoryError, MemoryError):\n        raise\n", ""),
    of_probes("a failure taken for agreement", 'reason = f"{type(error).__name__}:', 'reason = None and f"{type(error).__name__}:'),
    of_probes("NaN taken for agreement", "None if difference <= TOLERANCE[kind.dtype] else", "None if not difference > TOLERANCE[kind.dtype] else"),
    Fault("a backend that failed is taken", "kernels/tree_attention.py", "if possible[name] and backend_failure(name, kind) is None:",
          "if possible[name]:", TRIED),
    Fault("varlen where much is copied", "kernels/tree_attention.py", "if copied <= LARGEST_COPY_RATIO * key.shape[0]",
          "if copied >= 0", TRIED),
    of_kernel("every block of a node begins with its first row", "    row = first_row + tl.arange(0, block_q)\n", "    row = tl.arange(0, block_q)\n"),
    of_kernel("heads in turns over the key heads", "head = key_head * group + row % group", "head = row % group * (num_heads // group) + key_head"),
    of_kernel("a sink of each key head", "tl.load(sinks + head)", "tl.load(sinks + key_head)"),
    of_kernel("the soft-cap's scale in attention", "scores = softcap * tanh_float(", "scores = tanh_float("),
    of_kernel("a tile of which nothing is seen gives NaN", "offset = finite_offset(new_largest)", "offset = new_largest"),
    of_kernel("the first range of a path alone", "tl.load(context_offsets + node + 1)):", "tl.minimum(tl.load(context_offsets + node) + 1, tl.load(context_offsets + node + 1))):"),
    *(Fault(f"unseen values: {name}", "kernels/triton_unseen_values.py", text, instead, ATTENTION) for name, text, instead in (
        ("own keys among the cached", "key + (num_cached + token).to", "key + token.to"),
        ("own values among the cached", "value + (num_cached + token).to", "value + token.to"),
        ("distances begin anew behind the context", "            value_row += value_token_stride\n            distance -= 1\n", "            value_row += value_token_stride\n"),
        ("finite results computed anew", "mask=wrong)", "mask=mask)"),
        ("no soft-cap", "has_softcap=softcap is not None", "has_softcap=False"),
        ("every block of a node begins with its first row", "    row = first_row + tl.arange(0, block_q)\n", "    row = tl.arange(0, block_q)\n"),
        ("a tile of which nothing is seen gives NaN", "offset = finite_offset(new_largest)", "offset = new_largest"),
    )),
    Fault("own keys among the cached ones", "kernels/tree_segments.py", "torch.arange(num_cached + first, num_cached + last)", "torch.arange(first, last)", GATHERED),
    Fault("heads' numbers taken for contiguous", "kernels/tree_attention.py", "x.detach() if x.stride(2) == 1 else x.detach().contiguous()", "x.detach()", ATTENTION),
    Fault("row blocks of another device", "kernels/triton_row_blocks.py", '("triton", device, group, block_q)', '("triton", group, block_q)', LAUNCHED),
    of_varlen("a plan for another device", '("varlen", num_cached, device)', '("varlen", num_cached)'),
    Fault("varlen: head sizes that flash attention has not", VARLEN, "kind.head_size > 256 or kind.head_size % 8", "kind.head_size > 256", TRIED),
    Fault("varlen: torch's is asked for a soft-cap", VARLEN, "    if kind.has_softcap:\n", "    if False:\n", TRIED),
    Fault("varlen: torch's is asked for sinks that it has not", VARLEN, 'if kind.has_sinks and "return_aux"', 'if False and "return_aux"', "tests/test_attention_sinks.py"),
    Fault("varlen: paths copied with a wait", VARLEN, "to_device(torch.cat(paths), device)", "torch.cat(paths).to(device)", REHEARSAL),
]  # fmt: skip
