"""What a run is told: its input, its model, its workers, its parameters, where it is written, whom it tells what."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from instsel.methods.method import Method
from instsel.methods.parameters import own_fields
from instsel.prompts.automatic_template import AUTO
from instsel.prompts.templates import JINJA_SUFFIXES
from instsel.runs.arguments import as_path
from instsel.runs.interrupts import Interrupts
from instsel.runs.merged_output import FORMATS

if TYPE_CHECKING:
    from instsel.engine.scorer import Scorer
    from instsel.parallel.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The model and how to run it; see `Scorer`."""

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    backend: str = "auto"
    max_batch_tokens: int | str = "auto"
    context_length: int | None = None
    allow_unused_weights: bool = False
    layer_products: str = "auto"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name in ("model", "dtype", "device", "backend"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: expected a text, got {type(getattr(self, name)).__name__}")

    def open_scorer(self, model: str = "") -> Scorer:
        """The scorer that this describes, or one of another model run alike; its weights load when first needed."""
        from instsel.engine.scorer import Scorer

        options = asdict(self)
        if model:
            options |= {"model": model, "revision": None}
        return Scorer(options.pop("model"), **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Over which workers a run is spread; none by default."""

    workers: int | None = None
    devices: Sequence[str] | None = None
    tensor_parallel: int | None = None
    ray: str | None = None
    num_gpus_per_worker: float | None = None

    def wanted(self) -> bool:
        """Whether workers are asked for; raises ValueError for options that do not go together."""
        alone = self.ray is None and self.devices is None and self.workers is not None
        if self.ray is None and self.num_gpus_per_worker is not None:
            raise ValueError("--num-gpus-per-worker is for --ray; --devices names the GPUs of this machine")
        if self.ray is not None and self.devices is not None:
            raise ValueError("--devices names the GPUs of this machine, and --ray lets Ray choose; give one of them")
        if self.ray is not None and self.workers is None:
            raise ValueError("--ray needs --workers: the number of actors")
        if self.devices is not None and self.workers not in (None, len(self.devices)):
            raise ValueError(f"--workers {self.workers} does not go with {len(self.devices)} --devices")
        if self.tensor_parallel is not None and not alone:
            raise ValueError("--tensor-parallel goes with --workers, and neither with --ray nor with --devices")
        return self.workers is not None or self.devices is not None


_FILES = ("input", "model", "plugin")  # arguments that name files or folders
_FILE_KINDS = ("array", "embedder", "model", "models", "rows", "texts")  # parameters that do
_FILES_BY_SUFFIX = ("template", "template_without_input")


def open_pool(options: WorkerOptions, scorer: Scorer, rows: Path) -> Pool:
    """The workers asked for, their models loaded; those that see the file `rows` read from it themselves."""
    if options.ray is not None:
        from instsel.parallel.ray_workers import ray_workers

        assert options.workers is not None
        gpus = options.num_gpus_per_worker
        return ray_workers(scorer, options.workers, address=options.ray, num_gpus_per_worker=gpus, seen=rows)
    from instsel.parallel.workers import workers

    return workers(scorer, options.devices or options.workers, tensor_parallel=options.tensor_parallel or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfiguration:
    """All that a run of a method is told.

    parameters  the method's own, by name, as a command line says them: files and models by their names
    command     by which name the method was called
    """

    method: Method
    input: Sequence[str]
    model_options: ModelOptions
    output: str | None = None
    worker_options: WorkerOptions = WorkerOptions()
    parameters: Mapping[str, object] = field(default_factory=dict)
    split: str | None = None
    limit: int | None = None
    columns: Mapping[str, str] | None = None
    max_length: int | None = None
    template: str = AUTO
    template_without_input: str | None = None
    template_date: str | None = None
    seed: int = 0
    shard_rows: int | None = None
    format: str = "parquet"
    overwrite: bool = False
    max_failures: float = 0.05
    strict: bool = False
    quiet: bool = False
    plugin: Sequence[str] = ()
    command: str = ""

    def __post_init__(self) -> None:
        for name in ("limit", "shard_rows"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: expected a whole number, got {self.seed!r}")
        if self.format not in FORMATS:
            raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}")

    @property
    def whole_template(self) -> str | tuple[str, str]:
        """The template: a name, a file, a text or two."""
        return self.template if self.template_without_input is None else (self.template, self.template_without_input)

    def arguments(self) -> dict[str, object]:
        """The same as flags, by their names with underscores; files and folders that are there as paths.

        Only what may name one is looked up: a word such as a command's name stays a word in a folder that has a file
        of that name.
        """
        apart = ("method", "model_options", "worker_options", "parameters")
        own = {name: getattr(self, name) for name in self.__slots__ if name not in apart}
        options = {**asdict(self.model_options), **asdict(self.worker_options)}
        found = {**own, **options, **self.parameters, "dry_run": False, "command": self.command or self.method.name}
        kinds = {name: spec.kind for name, _, spec in own_fields(self.method.parameters)}
        for name, value in found.items():
            if name in _FILES or kinds.get(name) in _FILE_KINDS:
                found[name] = [as_path(one) for one in value] if isinstance(value, (list, tuple)) else as_path(value)
            elif name in _FILES_BY_SUFFIX or kinds.get(name) == "numbers":
                found[name] = as_path(value, suffixes=(*JINJA_SUFFIXES, ".npy"))
        return found


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@dataclass(frozen=True, slots=True)
class Messages:
    """How a run speaks with its caller: by default Python's warnings, and no signal handled but as Python does."""

    warn: Callable[[str], None] = _warn
    note: Callable[[str], None] = _warn
    interrupts: Interrupts = field(default_factory=Interrupts)
