"""Flags that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from instsel.prompts import TEMPLATES
from instsel.prompts.automatic_template import AUTO
from instsel.runs.merged_output import FORMATS

DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """The input and how to read it."""
    parser.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="JSON, JSONL, Parquet or CSV files (.gz, .zst, .bz2, .xz too), folders of them, globs, - for standard "
        "input, addresses such as s3://BUCKET/PATH, or hub datasets OWNER/NAME[:SPLIT], hf://datasets/OWNER/NAME/PATH",
    )
    parser.add_argument("--split", metavar="NAME", help="split of a hub dataset; default train, or the only one")
    parser.add_argument("--limit", type=positive, metavar="N", help="use the first N rows only; default all")
    parser.add_argument(
        "--columns",
        type=column_mapping,
        metavar="FIELD=COLUMN,...",
        help="which columns hold what, e.g. instruction=question,response=answer; default by their usual names",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The model and how to run it."""
    add_model_name(parser)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="of the model; default auto: as stored, but float16 as float32 on a CPU",
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, ...; default auto: a GPU if there is one"
    )
    parser.add_argument(
        "--device-map",
        choices=("auto",),
        help="spread a model too large for one device over several; default one device",
    )
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="of the kernels: reference, cpu or triton; default auto: as the device needs",
    )
    parser.add_argument(
        "--layer-products",
        choices=("auto", "float8"),
        default="auto",
        help="float8: faster on recent NVIDIA GPUs, and not exact; default auto: in the model's dtype",
    )
    parser.add_argument(
        "--max-batch-tokens",
        type=batch_tokens,
        default="auto",
        metavar="N",
        help="tokens in a forward; default auto: as suits the device",
    )
    add_prompt_options(parser)
    parser.add_argument(
        "--allow-unused-weights", action="store_true", help="go on though the model does not read all weights"
    )


def add_model_name(parser: argparse.ArgumentParser) -> None:
    """Which model it is."""
    parser.add_argument("--model", required=True, metavar="NAME", help="folder or hub name (safetensors) or GGUF file")
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a hub model; default its main branch"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a hub model")


def add_prompt_options(parser: argparse.ArgumentParser) -> None:
    """How prompts are written, and how long they may be."""
    parser.add_argument(
        "--max-length", type=positive, metavar="N", help="longest sequence in tokens; default the model's context"
    )
    parser.add_argument(
        "--context-length", type=positive, metavar="N", help="the model's context; default its configuration's"
    )
    parser.add_argument(
        "--template",
        type=template_text,
        default=AUTO,
        metavar="TEMPLATE",
        help=f"{', '.join(TEMPLATES)}, a text with {{instruction}} and {{input}} (\\n: line feed) or a .jinja file; "
        "default auto: chat where tokenizer and rows, or the model's name, speak for it, else plain",
    )
    parser.add_argument(
        "--template-without-input",
        type=template_text,
        metavar="TEXT",
        help="the text for rows without an input; default --template",
    )
    parser.add_argument(
        "--template-date", metavar="DATE", help="what a chat template reads as the date; default when the run began"
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The run folder and how the run behaves."""
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="run folder or its address, which all but --dry-run needs; no default; the same command continues it",
    )
    parser.add_argument("--overwrite", action="store_true", help="start again in a folder that holds another run")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="of the merged result")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of what is random in a method, such as k-means"
    )
    parser.add_argument(
        "--shard-rows", type=positive, metavar="N", help="rows saved at a time; by default what takes about a minute"
    )
    parser.add_argument(
        "--max-failures", type=fraction, default=0.05, metavar="F", help="share of rows that may fail (0.05 or 5%%)"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first row that cannot be read")
    parser.add_argument("--dry-run", action="store_true", help="print hours and tokens, of a folder what is left")
    parser.add_argument("--no-timing", action="store_true", help="with --dry-run: load and time nothing, say no hours")
    add_quiet(parser)


def local_folder(text: str) -> Path:
    """A folder of a file system."""
    from instsel.runs.remote_files import is_address

    if is_address(text):
        raise argparse.ArgumentTypeError(
            f"{text} is no folder of a file system: write to a folder here, and copy it there"
        )
    return Path(text)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """--quiet."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")


def template_text(text: str) -> str:
    """A template as a shell can write it."""
    return text.replace("\\n", "\n")


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """--workers, --devices, --ray and what belongs to it."""
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="so many processes or Ray actors, each a model; default none: this process",
    )
    parser.add_argument(
        "--devices",
        type=device_names,
        metavar="NAME,...",
        help="one process each, e.g. cuda:0,cuda:1 or cpu,cpu; default by --workers",
    )
    parser.add_argument(
        "--tensor-parallel",
        type=positive,
        metavar="K",
        help="processes of each worker, which divide every layer; default 1",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="workers as Ray actors: auto, local, HOST:PORT or ray://HOST:PORT; default processes here",
    )
    parser.add_argument(
        "--num-gpus-per-worker", type=_amount, metavar="X", help="of each Ray actor; default 1, or 0 with --device cpu"
    )


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def bounded(number: type[int] | type[float], minimum: float | None, maximum: float | None) -> Callable[[str], float]:
    """A reader of numbers within bounds."""
    whole = "a whole number" if number is int else "a number"
    limits = [
        (f"at least {minimum:g}" if minimum is not None else ""),
        (f"at most {maximum:g}" if maximum is not None else ""),
    ]
    expected = " and ".join(limit for limit in limits if limit)

    def read(text: str) -> float:
        try:
            value = number(text)
        except ValueError:
            value = math.nan
        low, high = -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {whole}{' of ' + expected if expected else ''}, got {text!r}")
        return value

    return read


def batch_tokens(text: str) -> int | str:
    """A whole number of at least 1, or "auto"."""
    return text if text == "auto" else positive(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, or a percentage."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1 or a percentage, got {text!r}")
    return value


def column_mapping(text: str) -> dict[str, str]:
    """FIELD=COLUMN pairs; a column name may hold anything but a comma."""
    mapping: dict[str, str] = {}
    for part in text.split(","):
        name, equals, column = part.partition("=")
        if not (name.strip() and equals and column.strip()):
            raise argparse.ArgumentTypeError(f"expected FIELD=COLUMN,..., got {text!r}")
        if name.strip() in mapping:
            raise argparse.ArgumentTypeError(f"{name.strip()!r} is given twice in {text!r}")
        mapping[name.strip()] = column.strip()
    return mapping


def device_names(text: str) -> list[str]:
    """Names with commas between them."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected NAME,..., got {text!r}")
    return names


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value
