"""In which memory the parts of a layer write their rows, so that a sum is a part's own last pass where it can be."""

from __future__ import annotations

from typing import NamedTuple

from instsel.kernels.decoder_layer import HIDDEN, Sum
from instsel.layers.layer_flow import Factors, Flow


class PartRun(NamedTuple):
    """One of a flow's calls: the places of the rows that it takes and gives."""

    call: int
    source: int
    target: int
    add: bool


class _Schedule:
    def __init__(self, flow: Flow) -> None:
        # What is asked for later: a child's result alone, or a sum that stands in the hidden states' place.
        self.wanted = [call.source for call in flow.calls] + [flow.result]
        self.steps: list[PartRun | Sum] = []
        self.unwrapped: Factors = (1.0,)  # of the sum that stands in the hidden states' place
        self.places: dict[int, int] = {}  # of results that stand elsewhere

    def bring(self, wanted: Factors) -> int:
        """The place of a sum, made where the hidden states are if it is more than one result."""
        alone = _alone(wanted)
        if alone in self.places:
            return self.places[alone]
        held = (*self.unwrapped, *[0.0] * (len(wanted) - len(self.unwrapped)))
        ratios = {want / have for want, have in zip(wanted, held, strict=True) if have != 0.0}
        if len(ratios) != 1:
            raise ValueError("a sum that is no longer there")
        scale = ratios.pop()
        added = [index for index, factor in enumerate(wanted) if factor != 0.0 and held[index] == 0.0]
        for index in added:
            self.steps.append(Sum(self.places[index], wanted[index], scale))
            scale = 1.0
        if scale == 0.0:
            raise ValueError("a layer that gives nothing")
        if scale != 1.0:
            self.steps.append(Sum(HIDDEN, 0.0, scale))
        self.unwrapped = wanted
        return HIDDEN

    def run(self, call: int, can_add: bool) -> None:
        source, result = self.bring(self.wanted[call]), call + 1
        if can_add and self._is_added(call, result):
            self.unwrapped = (*self.unwrapped, *[0.0] * (result - len(self.unwrapped)), 1.0)
            self.steps.append(PartRun(call, source, HIDDEN, True))
            return
        taken = set(self.places.values())
        target = next(place for place in range(1, len(taken) + 2) if place not in taken)
        self.places[result] = target
        self.steps.append(PartRun(call, source, target, False))
        self.places = {one: place for one, place in self.places.items() if self._is_wanted(one, call)}

    def _is_wanted(self, result: int, call: int) -> bool:
        """Whether a result is asked for after a call, alone or in a sum that does not hold it yet."""
        later = [wanted for wanted in self.wanted[call + 1 :] if len(wanted) > result and wanted[result] != 0.0]
        is_held = len(self.unwrapped) > result and self.unwrapped[result] != 0.0
        return any(_alone(wanted) == result or not is_held for wanted in later)

    def _is_added(self, call: int, result: int) -> bool:
        """Whether the next sum that is asked for is what is held and this result, and no other."""
        later = self.wanted[call + 1 :]
        if any(_alone(wanted) == result for wanted in later):
            return False
        # Results that are asked for alone stand elsewhere.
        following = next((wanted for wanted in later if _alone(wanted) <= 0), ())
        if len(following) <= result or following[result] != 1.0:
            return False
        return all(following[index] == factor for index, factor in enumerate(self.unwrapped) if factor != 0.0)


def schedule(flow: Flow, can_add: list[bool]) -> list[PartRun | Sum]:
    """The steps of a layer; `can_add` says which of the calls may add their result to what stands in its place.

    ValueError for a sum that would have to be kept beside a later one.
    """
    plan = _Schedule(flow)
    for call in range(len(flow.calls)):
        plan.run(call, can_add[call])
    if plan.bring(flow.result) != HIDDEN:
        plan.steps.append(Sum(plan.places[_alone(flow.result)], 1.0, 0.0))
    return plan.steps


def _alone(factors: Factors) -> int:
    """Which result it is, if it is but one; -1 for a sum."""
    present = [index for index, factor in enumerate(factors) if factor != 0.0]
    return present[0] if len(present) == 1 and factors[present[0]] == 1.0 else -1
