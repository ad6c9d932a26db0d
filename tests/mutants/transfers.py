"""Faults of copies, waits and current devices."""

from __future__ import annotations

from .faults import COPIES, REHEARSAL, Fault

DEVICES = "kernels/devices.py"
COPIED = """\
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
"""
EVENT = "        copied = torch.cuda.Event()\n        copied.record()\n"
CONTEXT = "with torch.cuda.device(device), full_float32_products():"
GUARD = "with current({}.device):"


def of_devices(name: str, text: str, instead: str, tests: str = COPIES) -> Fault:
    return Fault(name, DEVICES, text, instead, tests)


FAULTS = [
    of_devices("read before the copy is done", "        copied.synchronize()\n", ""),
    of_devices(
        "event recorded before the copy",
        COPIED,
        "        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)\n"
        + EVENT
        + "        host.copy_(tensor, non_blocking=True)\n",
    ),
    of_devices(
        "event never recorded", "        copied = torch.cuda.Event()\n        copied.record()\n",
        "        copied = torch.cuda.Event()\n",
    ),
    of_devices(
        "one buffer for all packs",
        "        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)",
        "        own = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)\n"
        "        host = globals().setdefault(f'_buffer_{tensor.shape}', own).copy_(tensor, non_blocking=True)",
    ),
    of_devices("a copy back that waits", "pin_memory=True).copy_(tensor, non_blocking=True)",
               "pin_memory=True).copy_(tensor)"),
    of_devices("a copy back to pageable memory", "dtype=tensor.dtype, pin_memory=True)", "dtype=tensor.dtype)"),
    of_devices("results by a copy that waits for everything", '    if tensor.device.type != "cuda":\n        return tensor.cpu',
               "    if True:\n        return tensor.cpu"),
    of_devices(
        "a copy back asked for when it is read",
        COPIED + "\n    def wait() -> np.ndarray:\n",
        "        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)\n"
        "        copied = torch.cuda.Event()\n\n    def wait() -> np.ndarray:\n        with current(tensor.device):\n"
        "            host.copy_(tensor, non_blocking=True)\n            copied.record()\n",
    ),
    of_devices("an event of another device", "    with current(tensor.device):\n", "    with nullcontext():\n"),
    of_devices("a copy there that waits", "pin_memory().to(device, non_blocking=True)", "pin_memory().to(device)",
               f"tests/test_device_copies.py {REHEARSAL}"),
    of_devices("a copy there from pageable memory", "tensor.pin_memory().to(", "tensor.to(",
               f"tests/test_device_copies.py {REHEARSAL}"),
    of_devices("launches on the current device instead of the tensors'", CONTEXT, "with full_float32_products():",
               REHEARSAL),
    of_devices("float32 products may be rounded", CONTEXT, "with torch.cuda.device(device):",
               "tests/test_float32_products.py"),
    *(
        Fault(f"no device guard of {name}", f"kernels/{name}.py", GUARD.format(tensor),
              f"with current({tensor}.new_empty(0, device='cpu').device):", REHEARSAL)
        for name, tensor in (("tree_attention", "query"), ("linear_logprob", "hidden"), ("row_logprob", "logits"),
                             ("tree_delta_rule", "query"), ("tree_scan", "x"), ("tree_convolution", "x"))
    ),
    Fault("a pack's results read before the next pack is given", "instsel/engine/execution.py",
          "                if latest is not None and latest.read is not None:\n"
          "                    yield latest.layout, latest.read()\n                latest = pack\n",
          "                if pack is not None and pack.read is not None:\n"
          "                    yield pack.layout, pack.read()\n", COPIES),
    Fault("a pack's results beside another's layout", "instsel/engine/execution.py",
          "yield latest.layout, latest.read()", "yield (pack or latest).layout, latest.read()",
          f"{COPIES} tests/test_score_batch.py"),
    Fault("the last pack's results left out", "instsel/engine/execution.py",
          "                yield from self._launched_of(planned)\n                yield None\n",
          "                yield from self._launched_of(planned)\n", f"{COPIES} tests/test_score_batch.py"),
    Fault("indices copied with a wait", "instsel/engine/logprob.py",
          "(to_device(torch.from_numpy(index), hidden.device) for index in (rows, targets))",
          "(torch.from_numpy(index).to(hidden.device) for index in (rows, targets))", REHEARSAL),
    Fault("a float32 setting not put back", "kernels/float32_products.py",
          "            if _blocks == 0 and _restore is not None:\n                _restore()\n",
          "            if _blocks == 0 and _restore is not None:\n", "tests/test_float32_products.py"),
    Fault("a float32 setting put back while another block runs", "kernels/float32_products.py",
          "if _blocks == 0 and _restore is not None:", "if _restore is not None:", "tests/test_float32_products.py"),
    Fault("TF32 left as it is", "kernels/float32_products.py", "        if not products.allow_tf32:", "        if True:", "tests/test_float32_products.py"),
    Fault("segments copied once a layer", "kernels/triton_row_blocks.py", "        segments.plans[place] = arrays\n", "",
          "tests/test_kernel_launches.py"),
    Fault("segments copied with a wait", "kernels/triton_row_blocks.py", "packed = to_device(torch.cat(flat), device)",
          "packed = torch.cat(flat).to(device)", REHEARSAL),
    Fault("levels copied with a wait", "kernels/triton_tree_levels.py",
          "to_device(flat, device).split", "flat.to(device).split", REHEARSAL),
]  # fmt: skip
