"""What a run is told: its input, its model, its workers, its parameters, where it is written, whom it tells what."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsel.methods.method import Method
from instsel.methods.parameter_fields import parameter
from instsel.methods.parameters import own_fields
from instsel.prompts import TEMPLATES
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

    model: str = parameter(MISSING, "folder or hub name (safetensors) or GGUF file", metavar="NAME")
    revision: str | None = parameter(
        None, "branch, tag or commit of a hub model; default its main branch", metavar="REV"
    )
    trust_remote_code: bool = parameter(False, "run code that comes with a hub model")
    dtype: str = parameter(
        "auto",
        "of the model; default auto: as stored, but float16 as float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = parameter("auto", "cpu, cuda, cuda:1, ...; default auto: a GPU if there is one", metavar="NAME")
    device_map: str | None = parameter(
        None, "spread a model too large for one device over several; default one device", choices=("auto",)
    )
    backend: str = parameter(
        "auto", "of the kernels: reference, cpu or triton; default auto: as the device needs", metavar="NAME"
    )
    layer_products: str = parameter(
        "auto",
        "float8: faster on recent NVIDIA GPUs, and not exact; default auto: in the model's dtype",
        choices=("auto", "float8"),
    )
    max_batch_tokens: int | str = parameter(
        "auto", "tokens in a forward; default auto: as suits the device", metavar="N"
    )
    context_length: int | None = parameter(None, "the model's context; default its configuration's", minimum=1)
    allow_unused_weights: bool = parameter(False, "go on though the model does not read all weights")

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

    workers: int | None = parameter(
        None, "so many processes or Ray actors, each a model; default none: this process", minimum=1
    )
    devices: Sequence[str] | None = parameter(
        None, "one process each, e.g. cuda:0,cuda:1 or cpu,cpu; default by --workers", metavar="NAME,..."
    )
    tensor_parallel: int | None = parameter(
        None, "processes of each worker, which divide every layer; default 1", minimum=1, metavar="K"
    )
    ray: str | None = parameter(
        None,
        "workers as Ray actors: auto, local, HOST:PORT or ray://HOST:PORT; default processes here",
        metavar="ADDRESS",
    )
    num_gpus_per_worker: float | None = parameter(
        None, "of each Ray actor; default 1, or 0 with --device cpu", minimum=0, maximum=999_999
    )

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


_APART = ("method", "model_options", "worker_options", "parameters")  # of a configuration, what no flag says by itself
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
    input: Sequence[str] = parameter(
        MISSING,
        "JSON, JSONL, Parquet or CSV files (.gz, .zst, .bz2, .xz too), folders of them, globs, - for standard input, "
        "addresses such as s3://BUCKET/PATH, or hub datasets OWNER/NAME[:SPLIT], hf://datasets/OWNER/NAME/PATH",
        metavar="INPUT",
        flag=None,
    )
    model_options: ModelOptions
    output: str | None = parameter(
        None,
        "run folder or its address, which all but --dry-run needs; no default; the same command continues it",
        metavar="DIR",
    )
    worker_options: WorkerOptions = WorkerOptions()
    parameters: Mapping[str, object] = field(default_factory=dict)
    split: str | None = parameter(None, "split of a hub dataset; default train, or the only one", metavar="NAME")
    limit: int | None = parameter(None, "use the first N rows only; default all", minimum=1)
    columns: Mapping[str, str] | None = parameter(
        None,
        "which columns hold what, e.g. instruction=question,response=answer; default by their usual names",
        metavar="FIELD=COLUMN,...",
    )
    max_length: int | None = parameter(None, "longest sequence in tokens; default the model's context", minimum=1)
    template: str = parameter(
        AUTO,
        f"{', '.join(TEMPLATES)}, a text with {{instruction}} and {{input}} (\\n: line feed) or a .jinja file; default "
        "auto: chat where tokenizer and rows, or the model's name, speak for it, else plain",
        metavar="TEMPLATE",
    )
    template_without_input: str | None = parameter(
        None, "the text for rows without an input; default --template", metavar="TEXT"
    )
    template_date: str | None = parameter(
        None, "what a chat template reads as the date; default when the run began", metavar="DATE"
    )
    seed: int = parameter(0, "of what is random in a method, such as k-means", minimum=0)
    shard_rows: int | None = parameter(None, "rows saved at a time; by default what takes about a minute", minimum=1)
    format: str = parameter("parquet", "of the merged result", choices=FORMATS)
    overwrite: bool = parameter(False, "start again in a folder that holds another run")
    max_failures: float = parameter(0.05, "share of rows that may fail (0.05 or 5%)", metavar="F")
    strict: bool = parameter(False, "stop at the first row that cannot be read")
    quiet: bool = parameter(False, "no progress bar and no summary")
    plugin: Sequence[str] = ()
    command: str = ""

    def __post_init__(self) -> None:
        for name in ("limit", "shard_rows"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: expected a whole number, got {self.seed!r}")
        if self.seed < 0:
            raise ValueError(f"seed: expected a whole number of at least 0, got {self.seed}")
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
        own = {name: getattr(self, name) for name in self.__slots__ if name not in _APART}
        options = {**asdict(self.model_options), **asdict(self.worker_options)}
        found = {**own, **options, **self.parameters, "dry_run": False, "command": self.command or self.method.name}
        kinds = {name: spec.kind for name, _, spec in own_fields(self.method.parameters)}
        for name, value in found.items():
            if name in _FILES or kinds.get(name) in _FILE_KINDS:
                found[name] = [as_path(one) for one in value] if isinstance(value, (list, tuple)) else as_path(value)
            elif name in _FILES_BY_SUFFIX or kinds.get(name) == "numbers":
                found[name] = as_path(value, suffixes=(*JINJA_SUFFIXES, ".npy"))
        return found


def configuration_of(method: Method, given: Mapping[str, Any], parameters: Mapping[str, object]) -> RunConfiguration:
    """The configuration that values say by the names of its fields, those of model and workers among them."""

    def said(kind: type[Any]) -> dict[str, Any]:
        return {one.name: given[one.name] for one in fields(kind) if one.name in given and one.name not in _APART}

    model_options, worker_options = ModelOptions(**said(ModelOptions)), WorkerOptions(**said(WorkerOptions))
    return RunConfiguration(
        **said(RunConfiguration),
        method=method,
        model_options=model_options,
        worker_options=worker_options,
        parameters=parameters,
    )


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@dataclass(frozen=True, slots=True)
class Messages:
    """How a run speaks with its caller: by default Python's warnings, and no signal handled but as Python does."""

    warn: Callable[[str], None] = _warn
    note: Callable[[str], None] = _warn
    interrupts: Interrupts = field(default_factory=Interrupts)
