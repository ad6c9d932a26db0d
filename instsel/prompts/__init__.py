"""Examples as prompts, and prompts as token ids with the span that is scored."""

from instsel.prompts.building import build_request, build_request_ids
from instsel.prompts.templates import (
    TEMPLATES,
    check_template,
    context_text,
    embedding_text,
    is_chat_template,
    prompt_and_answer,
    template_name,
)
from instsel.prompts.tokenization import Encoded, encode_pairs

__all__ = [
    "TEMPLATES",
    "Encoded",
    "build_request",
    "build_request_ids",
    "check_template",
    "context_text",
    "embedding_text",
    "encode_pairs",
    "is_chat_template",
    "prompt_and_answer",
    "template_name",
]
