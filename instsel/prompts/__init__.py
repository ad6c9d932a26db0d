"""Examples as prompts, and prompts as token ids with the span that is scored."""

from instsel.prompts.templates import TEMPLATES, context_text, embedding_text, prompt_and_answer
from instsel.prompts.tokenization import Encoded, encode_pairs

__all__ = ["TEMPLATES", "Encoded", "context_text", "embedding_text", "encode_pairs", "prompt_and_answer"]
