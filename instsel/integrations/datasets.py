"""Scores as columns of a Hugging Face `Dataset`: `dataset.map(score(scorer), batched=True)`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from instsel import Scorer
from instsel.methods.definition import Method
from instsel.methods.in_memory import run_in_memory
from instsel.methods.registry import find_methods
from instsel.optional_packages import need_package
from instsel.parallel.moved_scorer import moved
from instsel.parallel.pool import Pool
from instsel.records.table_batches import columns_of, with_columns
from instsel.runs.column_names import allot_names
from instsel.runs.fingerprints import model_fingerprint

need_package("datasets", "datasets", ">=3", extra="datasets")

_IMPORTED_IN = os.getpid()


class Scores:
    """A function of a batch that gives a method's columns for it; `score` makes it."""

    def __init__(self, scorer: Scorer | Pool, name: str, parameters: Mapping[str, object], digest: str) -> None:
        self.scorer, self.name, self.parameters, self.digest = scorer, name, dict(parameters), digest

    def __call__(self, batch: object) -> object:
        """The new columns of a batch of columns; of a table (`with_format`), that table with them."""
        import instsel

        if self.scorer is None:
            raise ValueError(
                "num_proc: processes load their own weights, and this scorer was made from a loaded model; give "
                "Scorer a name or a folder"
            )
        if os.getpid() != _IMPORTED_IN:  # forked: OpenMP's threads are not there any more, and waiting for them hangs
            import torch

            torch.set_num_threads(1)
        columns = columns_of(batch)
        method = getattr(instsel, self.name).method
        parameters = method.parameters(**self.parameters)
        found = method.build(run_in_memory(method, self.scorer, columns, parameters, whole_pool=False)).to_dict()
        names = allot_names(found, columns)
        return with_columns(batch, {names[name]: values for name, values in found.items()})

    def __getstate__(self) -> dict[str, object]:
        """What decides the numbers and nothing else: by it `datasets` knows a map that it has made before."""
        scorer: Any = self.scorer  # of a pool, too, the settings of a scorer
        options = moved(scorer)
        if not isinstance(options["model"], str):
            options["model"] = None
        parameters = sorted(self.parameters.items())
        return {"options": options, "digest": self.digest, "name": self.name, "parameters": parameters}

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = state["options"]
        scorer: Any = None if options["model"] is None else Scorer(**options)
        self.__init__(scorer, state["name"], dict(state["parameters"]), state["digest"])  # type: ignore[misc]


def score(scorer: Scorer | Pool | str | os.PathLike[str], method: str = "perplexity", **parameters: object) -> Scores:
    """A function for `dataset.map(..., batched=True)` that adds the columns of a method: perplexity, ifd or grape.

    scorer      a `Scorer`, workers, or the name or folder of a model
    method      a method whose rows do not depend on each other, so that batches can be scored apart
    parameters  of the method, such as template="chat"

    A column that the dataset has already gets the name `instsel_NAME`, or `instsel_NAME_2` and so on. Two equal calls
    have one fingerprint, by the model's digest, so that the second is read from the cache. Raises ValueError or
    TypeError naming the parameter.

    >>> rows.map(score("Qwen/Qwen2.5-0.5B", "ifd"), batched=True, batch_size=1000)  # doctest: +SKIP
    """
    if not isinstance(scorer, (Scorer, Pool)):
        scorer = Scorer(scorer)
    methods = {name: one for name, one in find_methods().items() if _by_row(one)}
    if method not in methods:
        raise ValueError(f"method: expected one whose rows are scored apart ({', '.join(methods)}), got {method!r}")
    methods[method].parameters(**parameters)  # what is wrong with them is said now
    return Scores(scorer, method, parameters, _digest(scorer))


def _by_row(method: Method) -> bool:
    return not any(stage.whole or stage.reads_whole or stage.needs for stage in method.stages)


def _digest(scorer: Scorer | Pool) -> str:
    source = scorer.source
    if isinstance(source.model, str):
        found = model_fingerprint(source.model, source.revision)
        return f"{found['model_digest']} {found['tokenizer_digest']}"
    import torch

    total = hashlib.sha256()
    for name, tensor in source.model.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()
