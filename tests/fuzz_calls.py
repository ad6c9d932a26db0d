"""Right calls of every function of the C++ module, and float64 references for what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from fuzz_arrays import GuardedMemory, decode, draw_numbers, encode

EPS = float(np.finfo(np.float32).eps)
INSTRUCTION_SETS = ("plain", "avx2", "avx512", "avx512_bf16", "amx")
ELEMENTS = ("float32", "float16", "bfloat16")
ROUNDING = {"float32": EPS, "bfloat16": 2.0**-8}


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments by name, which of them the call writes, and the check of what came out."""

    arguments: dict[str, object]
    written: tuple[str, ...] = ()
    check: Callable[[object], None] = lambda result: None


def close(what: str, got: np.ndarray, exact: np.ndarray, bound: np.ndarray | float) -> None:
    """Raise AssertionError unless |got - exact| <= bound; NaN and infinities must be where they are in `exact`."""
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    with np.errstate(invalid="ignore"):
        good = (got == exact) | (np.isnan(got) & np.isnan(exact)) | (np.abs(got - exact) <= bound)
    if not good.all():
        place = np.argwhere(~good)[0]
        raise AssertionError(f"{what}{list(place)}: got {got[tuple(place)]!r}, exact {exact[tuple(place)]!r}")


def draw_sizes(rng: np.random.Generator) -> tuple[int, int]:
    rows = int(rng.choice([0, 1, 2, 5, 33]))
    return rows, int(rng.choice([1, 2, 3, 16, 31, 32, 33, 100, 257] if rng.random() < 0.97 else [2049, 4100]))


@dataclass(frozen=True, slots=True)
class Head:
    """z = softcap * tanh(scale * (x + bias) / softcap), its arguments and its rounding."""

    bias: np.ndarray | None
    scale: float
    softcap: float

    @classmethod
    def draw(cls, rng: np.random.Generator, memory: GuardedMemory, vocabulary: int) -> Head:
        bias = memory.place(rng, rng.standard_normal(vocabulary).astype(np.float32)) if rng.random() < 0.3 else None
        return cls(bias, float(rng.choice([1.0, 1.0, 0.5, -2.0])), float(rng.choice([0.0, 0.0, 8.0])))

    def apply(self, x: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
        z = (x + (0.0 if self.bias is None else self.bias.astype(np.float64)[columns])) * self.scale
        return z if self.softcap == 0.0 else self.softcap * np.tanh(z / self.softcap)

    def rounding(self, size: np.ndarray | float, product: np.ndarray | float = 0.0) -> np.ndarray | float:
        """Bound of the error of z for |x| <= size that is itself off by `product`."""
        return 8 * EPS * (abs(self.scale) * (size + 6.0) + self.softcap) + abs(self.scale) * product


def logsumexp(z: np.ndarray) -> np.ndarray:
    """Of every row; NaN if one of its numbers is NaN or +inf, -inf for a row of nothing else."""
    with np.errstate(all="ignore"):
        largest = z.max(axis=1, initial=-np.inf)
        value = largest + np.log(np.exp(z - largest[:, None]).sum(axis=1))
    return np.where(largest == -np.inf, np.where(np.isnan(z).any(axis=1), np.nan, -np.inf), value)


def finite_size(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), np.abs(x), 0.0).max(axis=-1, initial=0.0)


def check_argmax(argmax: np.ndarray, z: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    for row, column in enumerate(argmax):
        if not np.isfinite(expected[row]):
            assert column == -1, f"argmax[{row}] is {column}, the row has no log-sum-exp"
        else:
            assert 0 <= column < z.shape[1], f"argmax[{row}] is {column}"
            assert z[row, column] >= z[row].max() - 2 * bound[row], f"argmax[{row}] is {column}, which is smaller"


def draw_pairs(rng: np.random.Generator, memory: GuardedMemory, rows: int, columns: int) -> dict[str, object]:
    count = int(rng.integers(0, 20)) if rows and columns else 0
    mask = rng.random(count) < 0.7 if rng.random() < 0.5 else None
    places = [rng.integers(size, size=count) if count else np.empty(0, np.int64) for size in (rows, columns)]
    if mask is not None:  # a masked pair may name what does not exist
        for indices in places:
            indices[~mask] = rng.choice([-1, 2**62, -(2**63)])
    arrays = [memory.place(rng, indices) for indices in places]
    return {"rows": arrays[0], "targets": arrays[1], "mask": None if mask is None else memory.place(rng, mask)}


def machine(rng: np.random.Generator) -> dict[str, object]:
    return {"threads": int(rng.integers(1, 3)), "instruction_set": str(rng.choice(["", *INSTRUCTION_SETS]))}


def bfloat16_machine(rng: np.random.Generator) -> dict[str, object]:
    """As `machine`, for what needs bfloat16 arithmetic."""
    return {"threads": int(rng.integers(1, 3)), "instruction_set": str(rng.choice(INSTRUCTION_SETS[3:]))}


def draw_states(rng: np.random.Generator, memory: GuardedMemory, rows: int, fresh: bool) -> dict[str, np.ndarray]:
    largest = np.full(rows, -np.inf) if fresh else rng.standard_normal(rows)
    total = np.zeros(rows) if fresh else 1.0 + rng.random(rows)
    best = np.full(rows, -1, np.int64)
    values = {"max": largest.astype(np.float32), "sum": total, "argmax": best}
    return {name: memory.place(rng, value) for name, value in values.items()}


def row_logprob(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    rows, columns = draw_sizes(rng)
    logits = memory.place_strided(rng, encode(draw_numbers(rng, rows, columns), str(rng.choice(ELEMENTS))), 1)
    if rows > 1 and rng.random() < 0.05:
        logits = np.broadcast_to(logits[:1], logits.shape)
    head, pairs = Head.draw(rng, memory, columns), draw_pairs(rng, memory, rows, columns)
    logprobs = memory.place(rng, np.zeros(len(pairs["rows"]), np.float32))  # type: ignore[arg-type]
    sums, best = memory.place(rng, np.zeros(rows, np.float32)), memory.place(rng, np.zeros(rows, np.int64))
    argmax = best if rng.random() < 0.5 else None
    # fmt: off
    arguments = {"logits": logits, **pairs, "bias": head.bias, "scale": head.scale, "softcap": head.softcap,
                 "logprobs": logprobs, "logsumexps": sums, "argmax": argmax, **machine(rng)}
    # fmt: on
    def check(_: object) -> None:
        x = decode(logits)
        z = head.apply(x)
        counted = np.ones(len(logprobs), bool) if pairs["mask"] is None else pairs["mask"].copy()  # type: ignore[attr-defined]
        chosen, targets = pairs["rows"][counted], pairs["targets"][counted]  # type: ignore[index]
        needed = np.isin(np.arange(rows), chosen)
        expected = np.where(needed, logsumexp(z), np.nan)
        bound = head.rounding(finite_size(x)) + 64 * EPS
        close("logsumexps", sums, expected, bound + 2 * EPS * np.nan_to_num(np.abs(expected), posinf=0.0))
        if argmax is not None:
            check_argmax(argmax, z, expected, bound)
        assert np.isnan(logprobs[~counted]).all(), "a masked pair has a log-probability"
        with np.errstate(invalid="ignore"):
            exact = np.minimum(z[chosen, targets] - expected[chosen], 0.0)
        exact[expected[chosen] == -np.inf] = np.nan
        close("logprobs", logprobs[counted], exact, 2 * bound[chosen] + 2 * EPS * np.nan_to_num(np.abs(exact)))

    return Call(arguments, ("logprobs", "logsumexps", "argmax"), check)


def accumulate(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    rows, columns = draw_sizes(rng)
    chunk = memory.place_strided(rng, encode(draw_numbers(rng, rows, columns), str(rng.choice(ELEMENTS))), 1)
    head, states = Head.draw(rng, memory, columns), draw_states(rng, memory, rows, bool(rng.random() < 0.5))
    first_column = int(rng.choice([0, 7, 2**40]))
    before = states["max"] + np.log(states["sum"], where=states["sum"] > 0, out=np.zeros(rows))
    argmax = states["argmax"] if rng.random() < 0.5 else None
    # fmt: off
    arguments = {"chunk": chunk, "first_column": first_column, "bias": head.bias, "scale": head.scale,
                 "softcap": head.softcap, **states, "argmax": argmax, **machine(rng)}
    # fmt: on
    def check(_: object) -> None:
        x = decode(chunk)
        z = head.apply(x)
        with np.errstate(all="ignore"):
            got = np.where(states["max"] == -np.inf, -np.inf + states["sum"], states["max"] + np.log(states["sum"]))
            expected = np.logaddexp(before, logsumexp(z))
        close("states", got, expected, head.rounding(finite_size(x)) + 64 * EPS)
        if argmax is not None:
            assert ((argmax == -1) | ((argmax >= first_column) & (argmax < first_column + columns))).all(), "argmax"

    return Call(arguments, ("max", "sum", "argmax"), check)


def draw_head_product(rng: np.random.Generator, memory: GuardedMemory, element: str) -> tuple[np.ndarray, np.ndarray]:
    rows, vocabulary = draw_sizes(rng)
    depth = int(rng.choice([1, 2, 31, 32, 33, 65]))
    sizes = ((rows, depth), (vocabulary, depth))
    hidden, weight = (memory.place_strided(rng, encode(rng.standard_normal(size), element), 1) for size in sizes)
    return hidden, weight


def linear_logsumexp(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    hidden, weight = draw_head_product(rng, memory, str(rng.choice(ELEMENTS)))
    head = Head.draw(rng, memory, len(weight))
    states = draw_states(rng, memory, len(hidden), True)
    argmax = states["argmax"] if rng.random() < 0.5 else None
    # fmt: off
    arguments = {"hidden": hidden, "weight": weight, "bias": head.bias, "scale": head.scale, "softcap": head.softcap,
                 **states, "argmax": argmax, **machine(rng)}
    # fmt: on
    def check(_: object) -> None:
        h, w = decode(hidden), decode(weight)
        z = head.apply(h @ w.T)
        product = (np.abs(h) @ np.abs(w).T).max(axis=1, initial=0.0)
        bound = head.rounding(product, product * EPS * h.shape[1]) + (64 + len(w)) * EPS
        close("states", states["max"] + np.log(states["sum"]), logsumexp(z), bound)
        if argmax is not None:
            check_argmax(argmax, z, logsumexp(z), bound)

    return Call(arguments, ("max", "sum", "argmax"), check)


def pair_logprobs(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    hidden, weight = draw_head_product(rng, memory, str(rng.choice(ELEMENTS)))
    head, pairs = Head.draw(rng, memory, len(weight)), draw_pairs(rng, memory, len(hidden), len(weight))
    states = draw_states(rng, memory, len(hidden), False)
    logprobs = memory.place(rng, np.zeros(len(pairs["rows"]), np.float32))  # type: ignore[arg-type]
    sums = memory.place(rng, np.zeros(len(hidden), np.float32))
    # fmt: off
    arguments = {"hidden": hidden, "weight": weight, **pairs, "bias": head.bias, "scale": head.scale,
                 "softcap": head.softcap, **states, "logprobs": logprobs, "logsumexps": sums, **machine(rng)}
    # fmt: on
    def check(_: object) -> None:
        expected = states["max"] + np.log(states["sum"])
        close("logsumexps", sums, expected, 4 * EPS * (1 + np.abs(expected)))
        counted = np.ones(len(logprobs), bool) if pairs["mask"] is None else pairs["mask"].copy()  # type: ignore[attr-defined]
        chosen, targets = pairs["rows"][counted], pairs["targets"][counted]  # type: ignore[index]
        h, w = decode(hidden)[chosen], decode(weight)[targets]
        size = np.abs(h * w).sum(axis=1)
        exact = np.minimum(head.apply((h * w).sum(axis=1), targets) - expected[chosen], 0.0)
        bound = head.rounding(size, size * EPS * h.shape[1]) + 4 * EPS * np.abs(exact)
        assert np.isnan(logprobs[~counted]).all(), "a masked pair has a log-probability"
        close("logprobs", logprobs[counted], exact, bound)

    return Call(arguments, ("max", "sum", "argmax", "logprobs", "logsumexps"), check)
