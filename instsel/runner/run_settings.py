"""What is settled before a run begins, template and date, and what its manifest says of them and all other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import instsel
from instsel.methods.parameters import now
from instsel.prompts import is_chat_template, template_name
from instsel.prompts.automatic_template import AUTO, automatic_template, told
from instsel.prompts.templates import template_reads_the_date
from instsel.records import to_examples, to_groups
from instsel.records.unread_keys import UnreadKeys
from instsel.runner.configuration import Messages, RunConfiguration
from instsel.runner.given_parameters import recorded_parameters
from instsel.runs.arguments import recorded_arguments
from instsel.runs.fingerprints import model_fingerprint
from instsel.runs.inputs import InputSource
from instsel.runs.manifest import environment
from instsel.runs.manifest_shape import Manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from instsel.engine.scorer import Scorer


_SEEN = 64  # of the first rows


def settle(
    configuration: RunConfiguration,
    source: InputSource,
    known: Manifest | None,
    open_scorer: Callable[[], Scorer],
    messages: Messages,
) -> tuple[RunConfiguration, dict[str, object], dict[str, object]]:
    """The configuration with template and date as a run would have them, its settings, and what else its manifest
    says; `known` is the manifest of the folder that it is to be written to."""
    options = configuration.model_options
    fingerprint = model_fingerprint(options.model, options.revision, known)  # a model that is none is said first
    began = None if configuration.overwrite else known
    configuration = with_template(configuration, source, began, open_scorer, messages)
    configuration, dated = with_date(configuration, began, open_scorer)
    settings, about = describe(configuration, source, fingerprint, known or {})
    return configuration, settings | dated, about


def with_template(
    configuration: RunConfiguration,
    source: InputSource,
    known: Manifest | None,
    open_scorer: Callable[[], Scorer],
    messages: Messages,
) -> RunConfiguration:
    """The configuration with a template's name in place of `auto`; which and why is said where there was a choice.

    A folder that a run began in, whose manifest is `known`, goes on with the template that it names.
    """
    if configuration.template != AUTO or configuration.template_without_input is not None:
        return configuration
    parameters = configuration.method.parameters
    before = (known or {}).get("template") if parameters.uses_template else "plain"
    if before in ("plain", "chat"):
        return replace(configuration, template=before)
    template, reason = template_for(configuration, source, open_scorer().tokenizer)
    if reason:
        messages.note(told(template, reason))
    return replace(configuration, template=template)


def template_for(
    configuration: RunConfiguration, source: InputSource, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[str, str]:
    """What `auto` stands for with a tokenizer and these rows, and why; no reason where there is no choice."""
    return automatic_template(
        tokenizer,
        conversations=_holds_turns(configuration, source),
        takes_chat=configuration.method.parameters.takes_chat_template,
    )


def _holds_turns(configuration: RunConfiguration, source: InputSource) -> bool:
    """Whether some of the first rows hold turns; what is wrong with them is said where they are read."""
    read = to_groups if configuration.method.rows == "group" else to_examples
    batch = next(iter(source.read()), [])
    try:
        records = read(batch[:_SEEN], columns=configuration.columns, unread=UnreadKeys(), on_error="status")
    except (TypeError, ValueError):
        return False
    return any(record.in_turns for record in records)


def with_date(
    configuration: RunConfiguration, known: Manifest | None, open_scorer: Callable[[], Scorer]
) -> tuple[RunConfiguration, dict[str, object]]:
    """The configuration with the date that the run's prompts are to tell, kept from its beginning, and the setting
    that it is; none where they tell none."""
    template = configuration.whole_template
    if not is_chat_template(template):
        return configuration, {}
    if not template_reads_the_date(template, open_scorer().tokenizer):
        return configuration, {}
    if known is not None and "template_date" not in known and configuration.template_date is None:
        began = known.get("created")  # by a version that did not fix the date: the day it began is the best guess
        return replace(configuration, template_date=str(began)[:10] if began else now()), {}
    date = configuration.template_date or (known or {}).get("template_date") or now()
    return replace(configuration, template_date=date), {"template_date": date}


def describe(
    configuration: RunConfiguration, source: InputSource, fingerprint: Mapping[str, object], known: Manifest
) -> tuple[dict[str, object], dict[str, object]]:
    """The settings that decide the numbers, and what else the manifest says; `known` is an earlier one."""
    options = configuration.model_options
    settings = {
        "version": instsel.__version__,
        "method": configuration.method.name,
        "parameters": recorded_parameters(configuration),
        "template": template_name(configuration.whole_template),
        "seed": configuration.seed,
        "input_digest": source.digest,
        "column_mapping": configuration.columns,
        "limit": configuration.limit,
        "model_digest": fingerprint["model_digest"],
        "tokenizer_digest": fingerprint["tokenizer_digest"],
        "dtype": options.dtype,
        "device": options.device,
        "backend": options.backend,
        "max_batch_tokens": options.max_batch_tokens,
        "max_length": configuration.max_length,
    }
    if "shard_rows" in known:  # a setting once, which is in the digest that the folder's shards carry
        settings["shard_rows"] = known["shard_rows"]
    if options.context_length is not None or "context_length" in known:  # folders begun without it go on
        settings["context_length"] = options.context_length
    if options.layer_products != "auto" or "layer_products" in known:
        settings["layer_products"] = options.layer_products
    about = {
        "input": source.name,
        "model": options.model,
        "model_revision": options.revision,
        "model_files": fingerprint["model_files"],
        "environment": environment(),
        "arguments": recorded_arguments(configuration.arguments()),
        "compared": ["format", *settings],
    }
    return settings, about
