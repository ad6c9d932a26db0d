"""Faults of layer products in float8."""

from __future__ import annotations

from .faults import Fault

PRODUCTS, LAYERS = "tests/test_float8_products.py", "tests/test_float8_layers.py"
FILE, ENGINE, CHECKS = (
    "kernels/float8_products.py",
    "instsel/layers/float8_layers.py",
    "instsel/engine/float8_checks.py",
)
PLACES = f"{LAYERS} -k 'stands_in_its_place and Llama'"


def of(file: str, name: str, text: str, instead: str, tests: str = PRODUCTS) -> Fault:
    return Fault(name, file, text, instead, tests)


FAULTS = [
    of(FILE, "one scale for all rows", 'float("inf"), dim=1, keepdim=True', 'float("inf"), dim=(0, 1), keepdim=True'),
    of(FILE, "the factor for its reciprocal", "factor.float().reciprocal()", "factor.float()"),
    of(FILE, "half of the range", "LARGEST = 448.0", "LARGEST = 3.5"),
    of(FILE, "a row of zeros", ".clamp_min(_SMALLEST_ROW)", ""),
    of(FILE, "rows as they lie in memory", ".to(FLOAT8).contiguous()", ".to(FLOAT8)"),
    of(FILE, "no bias", "bias=self.bias, out_dtype", "bias=None, out_dtype"),
    of(FILE, "rows of several products rounded for each", "    rounded = Float8Rows.of(x)\n    return [one.of_float8(rounded)", "    return [one.of_float8(Float8Rows.of(x))"),
    of(FILE, "leading dimensions lost", ".unflatten(0, x.shape[:-1])", ""),
    of(FILE, "a GPU before 8.9", "OLDEST_CAPABILITY = (8, 9)", "OLDEST_CAPABILITY = (8, 6)"),
    of(FILE, "a kernel that never ends", "if has < (9, 0) and", "if has < (8, 0) and"),
    of(FILE, "a model in float16", "None if dtype == torch.bfloat16 else", "None if dtype.itemsize == 2 else"),
    of(ENGINE, "routers too", " and module.out_features not in experts", "", f"{LAYERS} -k routers"),
    of(ENGINE, "the head too", "within = {module for one in lists for module in one.modules()}", "within = set(replica.modules)", f"{LAYERS} -k routers"),
    of(ENGINE, "weights rounded once that others have", "{} if keep else None", "{}", f"{LAYERS} -k trained"),
    of(ENGINE, "weights of its own rounded each time", "            if self._kept is not None:\n                self._kept[place] = product\n", "", f"{LAYERS} -k rounded_once"),
    of("instsel/layers/weight_columns.py", "whole layers in bfloat16", 'isinstance(forward := vars(linear).get("forward"), Float8Product)', 'isinstance(forward := None, Float8Product)', PLACES),
    of("instsel/engine/float8_checks.py", "a processor's kernels read weights themselves", 'model.fused_layers.backend != "triton"', "False", PLACES),
    of(CHECKS, "the drift of a row of the vocabulary, not of what is predicted", "(before.exp() * moved).sum(-1)", "moved.mean(-1)", f"{LAYERS} -k drift"),
    of(CHECKS, "the largest for the mean", "float(moved.mean()), float(moved.max())", "float(moved.max()), float(moved.max())", f"{LAYERS} -k drift_said"),
    of(CHECKS, "products are not held against anything", "if not worst <= _TOLERANCE:", "if False:", f"{LAYERS} -k wrong"),
    of("instsel/runner/run_settings.py", "a run goes on without float8", 'if options.layer_products != "auto" or "layer_products" in known:', "if False:", f"{LAYERS} -k goes_on"),
    of("instsel/parallel/moved_scorer.py", "workers without float8", 'one.name != "divided"', 'one.name not in ("divided", "layer_products")', f"{LAYERS} -k workers"),
]  # fmt: skip
