"""A method and its parameters packed for workers, which keep them over all stages of a run."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

from instsel.methods.method import Method
from instsel.methods.parameters import Parameters, fields_of, replaced
from instsel.parallel.method_reference import reference_to
from instsel.parallel.moved_scorer import check_can_move
from instsel.parallel.tasks import PackedMethod
from instsel.parallel.worker_backend import WorkerBackend


class MethodPacker:
    """Packs the method of a run once; the backend forgets the one before."""

    def __init__(self, numbers: Iterator[int], backend: WorkerBackend) -> None:
        self._numbers, self._backend = numbers, backend
        self._known: tuple[Method, Parameters, str, bytes] | None = None

    def packed(self, method: Method, parameters: Parameters) -> tuple[str, bytes]:
        """The key and the packed form of a method and its parameters.

        Raises ValueError or TypeError for a parameter that is a scorer which other processes cannot load.
        """
        if self._known is None or self._known[0] is not method or self._known[1] is not parameters:
            if self._known is not None:
                self._backend.forget([self._known[2]])
            reference = reference_to(method)
            assert reference is not None
            for name, _, spec in fields_of(type(parameters)):
                given = getattr(parameters, name)
                models = given if spec.kind == "models" else [given] if spec.kind == "model" else []
                check_can_move([one for one in models or () if one is not None], name)
            packed = pickle.dumps(
                PackedMethod(reference, pickle.dumps(replaced(parameters, progress=None), protocol=5)), protocol=5
            )
            self._known = method, parameters, f"method {next(self._numbers)}", packed
        return self._known[2], self._known[3]
