"""Calls of the C++ module with right and wrong arguments, and what must hold whatever became of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import fuzz_calls
import fuzz_experts
import fuzz_layers
import fuzz_recurrences
import numpy as np
from fuzz_arrays import EXTREMES, NOT_ARRAYS, GuardedMemory, overlapping, wrong_array
from fuzz_calls import Call

FLOATS = [float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e308, 1e-45, 10**400, None, "1", [1.0]]
NAMES = ["", "avx9", "plain\0", "\ud800", b"plain", b"\xff", None, 5, "avx2" * 1000]
LARGEST = 2**24  # bytes of an array whose memory is looked at; larger ones only claim to be
Builder = Callable[[np.random.Generator, GuardedMemory], Call]


def can_choose(module: Any, name: str) -> bool:
    try:
        return bool(module.choose_instruction_set(name))
    except ValueError:
        return False


def builders_of(module: Any) -> dict[str, Builder]:
    """What draws the right calls of each function of the module that this processor can run."""
    workspace = module.bfloat16_tree_attention_workspace
    dots = can_choose(module, "avx512_bf16")

    def workspace_call(rng: np.random.Generator, memory: GuardedMemory) -> Call:
        blocks, heads, size = (int(n) for n in rng.integers(0, 257, 3))

        def check(result: object) -> None:
            expected = blocks * heads * 4 * -(-size // 32) * 1024 if dots else result
            assert result == expected, f"{result} bytes"

        return Call({"blocks": blocks, "key_heads": heads, "head_size": size}, check=check)

    def threads_call(rng: np.random.Generator, memory: GuardedMemory) -> Call:
        threads = int(rng.integers(1, 9))

        def check(result: object) -> None:
            found = module.set_openmp_threads(threads)
            assert found == threads, f"{found} threads after {threads} were asked for"

        return Call({"threads": threads}, check=check)

    def team_call(rng: np.random.Generator, memory: GuardedMemory) -> Call:
        threads = int(rng.integers(1, 9))

        def check(result: object) -> None:
            assert isinstance(result, int) and 1 <= result <= threads, f"{result} of {threads} threads"

        return Call({"threads": threads}, check=check)

    builders: dict[str, Builder] = {
        "set_openmp_threads": threads_call,
        "form_team": team_call,
        "choose_instruction_set": lambda rng, memory: Call(
            {"name": str(rng.choice(["", *fuzz_calls.INSTRUCTION_SETS]))}
        ),
        "bfloat16_tree_attention_workspace": workspace_call,
        "row_logprob": fuzz_calls.row_logprob,
        "accumulate": fuzz_calls.accumulate,
        "pair_logprobs": fuzz_calls.pair_logprobs,
        "layer_norm": fuzz_layers.layer_norm,
        "gate_in_place": fuzz_layers.gate_in_place,
        "rotate_in_place": fuzz_layers.rotate_in_place,
        "tree_convolution": fuzz_recurrences.tree_convolution,
        "tree_delta_rule": fuzz_recurrences.tree_delta_rule,
        "tree_scan": fuzz_recurrences.tree_scan,
        "linear_logsumexp": fuzz_calls.linear_logsumexp,
        "bfloat16_linear": fuzz_layers.bfloat16_linear,
        "bfloat16_gated_linear": fuzz_layers.bfloat16_gated_linear,
        "experts_bytes": fuzz_experts.experts_bytes,
        "bfloat16_experts": fuzz_experts.bfloat16_experts,
        "bfloat16_tree_attention": lambda rng, memory: fuzz_layers.attention(rng, memory, "bfloat16", workspace),
        "float_tree_attention": lambda rng, memory: fuzz_layers.attention(rng, memory, "float32", None),
    }
    exported = {name for name in dir(module) if not name.startswith("__")}
    assert exported == set(builders), f"functions without a fuzzer, or none: {sorted(exported ^ set(builders))}"
    needing = {name for name in exported if name.startswith("bfloat16_")} - {"bfloat16_tree_attention_workspace"}
    for name in sorted(needing if not dots else ()):
        print(f"{name}: left out, this processor has no such instructions")
        del builders[name]
    return builders


def can_change(array: np.ndarray) -> bool:
    """Whether an array, which may have been changed before, can be changed again."""
    # An array of no bytes may have an axis of any length, which NumPy would walk along.
    small = array.nbytes < LARGEST and max(array.shape, default=0) < LARGEST
    return array.ndim > 0 and small and array.dtype.kind not in "OV"


def spoil(rng: np.random.Generator, memory: GuardedMemory, arguments: dict[str, Any]) -> None:
    """Change one argument, or leave one out, add one, or let two share memory."""
    arrays = [name for name, value in arguments.items() if type(value) is np.ndarray and can_change(value)]
    if not arguments or rng.random() < 0.02:
        arguments["another"] = 1
        return
    name = str(rng.choice(arrays if arrays and rng.random() < 0.7 else list(arguments)))
    value = arguments[name]
    if rng.random() < 0.02:
        del arguments[name]
    elif len(arrays) > 1 and name in arrays and rng.random() < 0.15:
        other = str(rng.choice([one for one in arrays if one != name]))
        arguments[name], arguments[other] = overlapping(rng, memory, value, arguments[other])
    elif name in arrays:
        arguments[name] = wrong_array(rng, memory, value)
    else:
        choices = {int: [*EXTREMES, None, 1.5, "2"], float: FLOATS, str: NAMES}.get(type(value), NOT_ARRAYS)
        arguments[name] = choices[rng.integers(len(choices))]


def owner_of(array: np.ndarray) -> np.ndarray:
    """The array whose memory a view shows, gaps included."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def contents(arguments: dict[str, Any]) -> dict[str, bytes]:
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    return {name: owner_of(value).tobytes() for name, value in arrays.items() if owner_of(value).nbytes < LARGEST}


def describe(arguments: dict[str, Any]) -> str:
    def one(value: Any) -> str:
        if not isinstance(value, np.ndarray):
            return repr(value)[:80]
        numbers = np.array2string(value, threshold=8, edgeitems=3) if value.size < 2**20 else "..."
        return f"{value.dtype.str} {value.shape} strides {value.strides} at +{value.ctypes.data % 64}: {numbers}"

    return "\n".join(f"    {name} = {one(value)}" for name, value in arguments.items())


def check_untouched(call: Call, before: dict[str, bytes], kept: tuple[str, ...]) -> None:
    """The arrays outside `kept` are as they were; of those in `kept`, the gaps between their elements are."""
    for name, memory in before.items():
        array: Any = call.arguments[name]
        owner = owner_of(array)
        if name not in kept:
            assert owner.tobytes() == memory, f"{name} was written"
        elif owner.nbytes != array.nbytes and array.flags.writeable:
            result = array.copy()
            array[...] = np.ndarray(
                array.shape, array.dtype, memory, array.ctypes.data - owner.ctypes.data, array.strides
            )
            assert owner.tobytes() == memory, f"memory between the elements of {name} was written"
            array[...] = result


def one_call(module: Any, name: str, build: Builder, memory: GuardedMemory, rng: np.random.Generator) -> str:
    """Draw a call and make it; what became of it, or AssertionError."""
    call = build(rng, memory)
    right = bool(rng.random() < 0.4)
    if not right:
        for _ in range(1 if rng.random() < 0.75 else 2):
            spoil(rng, memory, call.arguments)
    before = contents(call.arguments)
    try:
        result = getattr(module, name)(**call.arguments)
    except (ValueError, TypeError) as error:
        unsupported = "this processor has no" in str(error)
        if right and not unsupported:
            raise AssertionError(f"{name} refuses right arguments: {error}\n{describe(call.arguments)}") from error
        check_untouched(call, before, ())
        return "refused"
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}\n{describe(call.arguments)}") from error
    try:
        check_untouched(call, before, call.written)
        if right:
            call.check(result)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}\n{describe(call.arguments)}") from error
    return "right" if right else "taken"


def fuzz(module: Any, seconds: float, seed: int, first: int, last: int, note: Callable[[int], object]) -> int:
    """Calls number first .. last - 1 of the seed, until the time is over; prints how often each function did what."""
    memory, builders, counts = GuardedMemory(), builders_of(module), Counter[tuple[str, str]]()
    deadline, number = time.monotonic() + seconds, first
    while number < last and time.monotonic() < deadline:
        note(number)
        rng = np.random.default_rng([seed, number])
        name = str(rng.choice(list(builders)))
        try:
            counts[name, one_call(module, name, builders[name], memory, rng)] += 1
        except AssertionError as error:
            print(f"FAILED: {error}")
            return 1
        number += 1
    print(f"{'function':30}{'right':>9}{'wrong, taken':>15}{'wrong, refused':>17}")
    for name in builders:
        right, taken, refused = (counts[name, kind] for kind in ("right", "taken", "refused"))
        print(f"{name:30}{right:9}{taken:15}{refused:17}")
        if number - first >= 2000 and (right == 0 or refused == 0):
            print(f"FAILED: {name} met one outcome only")
            return 1
    print(f"seed {seed}: {number - first} calls, nothing reported")
    return 0
