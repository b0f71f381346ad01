"""Small tasks in a folder for tests: cards, rows and templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CARD = """
name: {name}
cluster: {cluster}
description: A task of the tests
core: false
file: {name}.jsonl
splits: {{train: "rows[:{train}]", validation: "rows[{train}:]"}}
fields: {{text: text, question: question}}
answer: {{label: label, class_names: [no, yes], verbalizers: {{no: "no", yes: "yes"}}}}
long_inputs: {{field: text, truncate: {cut}}}
metric: {{name: accuracy, source: the tests}}
licence: Apache-2.0
citation: the tests
"""

TEMPLATES = """
templates:
  - name: plain
    input: |-
      {{ text }}
      {{ question }}
      {{ options }}
  - name: question-first
    input: |-
      {{ question }}
      {{ text }}
      {{ options }}
  - name: write-a-question
    input: "{{ text }} Ask something whose answer is {{ answer }}."
    target: "{{ question }}"
    inverted: true
"""

TASK_SECTIONS = """data:
  tasks: [FOLDER/parity.yaml, FOLDER/other.yaml, FOLDER/long.yaml]
  templates: {collection: FOLDER/words, template_sampling: index}
  sequence_length: 128
  validation: {examples: 4}
train:
  steps: 4
  batch_size: 8
  learning_rate: 3e-3
  warmup_steps: 1
  precision: fp32
  log_every: 1
  validate_every: 0
  checkpoint_every: 0
  sample_continuations: 1
"""
"""Sections of a finetuning recipe on tasks of :func:`write_task`; FOLDER is that of their cards."""


def make_row(name: str, number: int, words: int) -> dict[str, Any]:
    """A row whose text contains its task and number."""
    filler = " ".join(f"word{number}x{index}" for index in range(words))
    return {"text": f"{name} {number} {filler}.", "question": f"Is {number} even?", "label": int(number % 2 == 0)}


def write_task(
    folder: Path,
    name: str,
    rows: int,
    *,
    cluster: str = "misc",
    words: int = 4,
    train: int | None = None,
    **fields: str,
) -> Path:
    """Write a card, its rows and a collection ``words/`` of templates into a folder; return the card's path."""
    folder.mkdir(parents=True, exist_ok=True)
    train = rows * 3 // 4 if train is None else train
    task_rows = [make_row(name, number, words + number % 3) for number in range(rows)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(task_row) + "\n" for task_row in task_rows))
    card = folder / f"{name}.yaml"
    card.write_text(CARD.format(name=name, cluster=cluster, train=train, cut=fields.get("cut", "tail")))
    (folder / "words").mkdir(exist_ok=True)
    (folder / "words" / f"{name}.yaml").write_text(TEMPLATES)
    return card
