"""Small tasks for lm-evaluation-harness, one of each kind that a loglikelihood is asked for, with their data."""

from __future__ import annotations

import json
import random
from pathlib import Path

TASKS = ("choices", "choices_alone", "cloze", "filled_gaps", "rolling", "generated")
_WORDS = [
    "the",
    "other",
    "mother",
    "play",
    "unhappiness",
    "theory",
    "flour",
    "water",
    "bread",
    "answer",
    "question",
    "end",
    "blanks",
    "lines",
]

_HEAD = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}
training_split: train
test_split: test
fewshot_split: train
"""
_BODIES = {
    "choices": """output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]
""",
    # acc_mutual_info asks for each choice without its context too.
    "choices_alone": """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [" a", " b", " the answer is 42", " é 🙂"]
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_mutual_info}]
""",
    "cloze": """output_type: loglikelihood
doc_to_text: "{{question}} "
doc_to_target: "{{word}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
    # As WinoGrande: the choices are contexts, the continuation is the same.
    "filled_gaps": """output_type: multiple_choice
doc_to_text: gold
doc_to_choice: "{{[question + ' ' + choices[0], question + choices[1]]}}"
doc_to_target: "{{word}} and more"
metric_list: [{metric: acc}]
""",
    "rolling": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "generated": """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{word}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
""",
}


def write_tasks(folder: Path, *, rows: int = 12) -> Path:
    """Write the tasks of `TASKS` and their rows to a folder for `TaskManager(include_path=...)`; gives the folder."""
    draw = random.Random(5)
    for split in ("train", "test"):
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for i in range(rows):
                words = [draw.choice(_WORDS) for _ in range(40 + 60 * (i % 3))]
                row = {
                    "question": f"What is {' '.join(words[: 4 + i])}?",
                    "choices": [" ".join(words[j : j + 1 + j % 3]) for j in range(3)] + ["x² + y²"],
                    "word": words[-1],
                    "gold": i % 2,
                    "text": " ".join(words) if i != 3 else "é",
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    for name, body in _BODIES.items():
        (folder / f"{name}.yaml").write_text(_HEAD.format(name=name, folder=folder) + body, encoding="utf-8")
    return folder
