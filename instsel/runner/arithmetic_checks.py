"""Whether a run goes on with what it was begun with: device, dtype, processor and library of float32 products."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from instsel.runner.configuration import Messages, RunConfiguration
from instsel.runs import RunFolder

if TYPE_CHECKING:
    from instsel.engine.scorer import Scorer
    from instsel.parallel.pool import Pool


def check_resolved(configuration: RunConfiguration, pool: Pool | None, scorer: Scorer, folder: RunFolder) -> None:
    """What "auto" means may differ between two starts on two machines; numbers of both must not be mixed."""
    if pool is None:
        model = scorer.model
        now = {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}
    else:
        now = dict(pool.resolved)
    now["tensor_parallel"] = str(configuration.worker_options.tensor_parallel or 1)
    before = {"tensor_parallel": "1", **folder.manifest.get("resolved", now)}
    for name, value in now.items():
        if before[name] != value:
            raise ValueError(
                f"{folder.name} was begun with {name} {before[name]}, and it is {value} here; "
                f"give --{name.replace('_', '-')} {before[name]}, or another --output"
            )
    _check_products(folder)
    folder.save(resolved=now)


def _check_products(folder: RunFolder) -> None:
    """A folder of an earlier version may have been begun with the library that a measurement had found, shape by shape.

    Raises ValueError where that gives other bits than this processor's, unless INSTSEL_FLOAT_PRODUCT asks for them.
    """
    from instsel.kernels.float_products import VARIABLE, float_product  # torch, which a finished run needs not

    began = sorted({library for *_, library in folder.manifest.get("float_products", [])})
    if not began or began == [float_product()] or os.environ.get(VARIABLE):
        return
    way = f"{began[0]} to go on" if len(began) == 1 else f"{float_product()} to go on with other last digits"
    raise ValueError(
        f"{folder.name} was begun with float32 products by {' and '.join(began)}, and they are by {float_product()} "
        f"here; set {VARIABLE}={way}, or give another --output"
    )


def note_arithmetic(pool: Pool | None, scorer: Scorer, folder: RunFolder, messages: Messages) -> None:
    """Another processor, or another library on this one, rounds differently: it is said, and all of them are noted."""
    now = scorer.model.arithmetic_by() if pool is None else pool.arithmetic
    before = folder.manifest.get("arithmetic", [])
    if before and now not in before:
        messages.warn(f"this run was begun with {before[-1]} and goes on with {now}: last digits may differ")
    folder.save(arithmetic=before if now in before else [*before, now])
