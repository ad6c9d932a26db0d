"""A method, defined once: its parameters, its stages, its result. Functions and commands follow from it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, cast

from instsel.methods.in_memory import run_in_memory
from instsel.methods.method import Method, Outcome
from instsel.methods.parameters import FieldSpec, Parameters, fields_of
from instsel.methods.stages import Stage
from instsel.nearest_word import nearest
from instsel.records.json_types import JsonObject

if TYPE_CHECKING:
    from instsel.engine.scorer_protocol import ScorerProtocol

K = ParamSpec("K")
R = TypeVar("R", covariant=True)
P = TypeVar("P", bound=Parameters)


class MethodFunction(Protocol[K, R]):
    """The Python function of a method; `method` is its definition."""

    method: Method

    def __call__(self, scorer: ScorerProtocol, rows: Iterable[object], /, *args: K.args, **kwargs: K.kwargs) -> R: ...


def method(
    name: str,
    *,
    help: str,
    parameters: Callable[K, P],
    stages: tuple[Stage, ...],
    rows: Literal["example", "group"] = "example",
    score: str = "score",
    findings: Callable[[Outcome], JsonObject] = lambda outcome: {},
) -> Callable[[Callable[[Outcome[P]], R]], MethodFunction[K, R]]:
    """Make a method of the function that builds its result; arguments as the fields of `Method`.

    The function that it gives takes a scorer, rows and the fields of `parameters` as keywords. Its docstring is the
    builder's, with the parameters' own help in place of a line "{parameters}".

    Raises ValueError for stages that read what no earlier stage computes.
    """
    kind = cast(type[P], parameters)
    _check_stages(name, stages)

    def define(build: Callable[[Outcome[P]], R]) -> MethodFunction[K, R]:
        definition = Method(name, help, kind, stages, build, rows, score, findings)
        argument = "groups" if rows == "group" else "examples"

        def function(scorer: ScorerProtocol, /, *given: Any, **keywords: Any) -> R:
            if argument in keywords and not given:
                given = (keywords.pop(argument),)
            if not 1 <= len(given) <= len(places):
                expected = f"{name}(scorer, {', '.join(places)}, *, keyword=value, ...)"
                number = "one argument" if len(places) == 1 else f"one to {len(places)} arguments"
                raise TypeError(f"{expected}: expected {number} after scorer, got {len(given)}")
            for word, value in zip(places[1:], given[1:], strict=False):
                if word in keywords:
                    raise TypeError(f"{name}() got {word} twice, by its place and as a keyword")
                keywords[word] = value
            unknown = [word for word in keywords if word not in known]
            if unknown:
                words = [word for word, _, _ in fields]
                near = nearest(unknown[0], words)
                hint = f" (did you mean {near}?)" if near else ""
                raise TypeError(f"{name}() has no keyword {unknown[0]!r}{hint}; it has {', '.join(words)}")
            return build(run_in_memory(definition, scorer, given[0], kind(**keywords)))

        fields = fields_of(kind)
        known = {word for word, _, _ in fields}
        places = (argument, *(word for word, _, spec in fields if spec.positional))
        function.__name__, function.__qualname__, function.__module__ = name, name, build.__module__
        function.__doc__ = _documented(build.__doc__ or "", fields, argument)
        function.__signature__ = _signature(kind, argument, build)  # type: ignore[attr-defined]
        function.method = definition  # type: ignore[attr-defined]
        return cast(MethodFunction[K, R], function)

    return define


def _check_stages(name: str, stages: tuple[Stage, ...]) -> None:
    seen: list[str] = []
    if not stages:
        raise ValueError(f"method {name}: expected at least one stage, got none")
    for stage in stages:
        missing = [one for one in (*stage.reads, *stage.reads_whole) if one not in seen]
        if missing:
            raise ValueError(f"method {name}: stage {stage.name} reads {missing[0]!r}, which no earlier stage computes")
        if stage.name in seen:
            raise ValueError(f"method {name}: two stages are called {stage.name!r}")
        if not stage.name.isascii() or not stage.name.replace("_", "a").isalpha() or not stage.name.islower():
            raise ValueError(f"method {name}: a stage's name is lower-case letters and underscores, got {stage.name!r}")
        seen.append(stage.name)


def _documented(text: str, fields: list[tuple[str, str, FieldSpec]], argument: str) -> str:
    """The docstring with a line for each parameter where it says "{parameters}"."""
    rows = "candidate groups" if argument == "groups" else "dicts in any known format, a `Dataset`, a table"
    described = [(argument, rows), *((name, _with_choices(spec)) for name, _, spec in fields)]
    width = max(len(name) for name, _ in described) + 2
    lines = [
        textwrap.fill(f"{name:<{width}}{help}", 116, initial_indent="    ", subsequent_indent=" " * (width + 4))
        for name, help in described
    ]
    return text.replace("    {parameters}", "\n".join(lines))


def _with_choices(spec: FieldSpec) -> str:
    return f"{spec.help} ({', '.join(spec.choices)})" if spec.choices else str(spec.help)


def _signature(parameters: type[Parameters], argument: str, build: Callable[..., object]) -> inspect.Signature:
    kinds = inspect.Parameter
    keywords = [one.replace(kind=kinds.KEYWORD_ONLY) for one in inspect.signature(parameters).parameters.values()]
    order = {name: place for place, (name, _, _) in enumerate(fields_of(parameters))}
    keywords.sort(key=lambda one: order[one.name])
    by_place = {name for name, _, spec in fields_of(parameters) if spec.positional}
    first = [kinds(one, kinds.POSITIONAL_OR_KEYWORD) for one in ("scorer", argument)]
    first += [one.replace(kind=kinds.POSITIONAL_OR_KEYWORD) for one in keywords if one.name in by_place]
    keywords = [one for one in keywords if one.name not in by_place]
    return inspect.Signature([*first, *keywords], return_annotation=build.__annotations__.get("return"))
