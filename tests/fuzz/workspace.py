"""Valid inputs that the fuzzers mutate: recipes, data, cards, templates, a run, models, results, images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

import tiny_runs
from card_fixtures import write_card, write_rows

ROWS = [
    {
        "label": number % 2,
        "premise": f"It rains in {place}.",
        "hypothesis": f"{place} is {'wet' if number % 2 else 'dry'}.",
    }
    for number, place in enumerate(["Larkfield", "Dunmoor", "Ashby", "Corby", "Selby", "Whitby", "Derby", "Rugby"] * 3)
]
TEMPLATES = {
    "templates": [
        {
            "name": "follows",
            "input": "{{ premise }}\nDoes it follow that {{ hypothesis }}\n{{ options }}",
            "target": "{{ answer }}",
        },
        {
            "name": "says",
            "input": "{{ premise }} {% if hypothesis %}So {{ hypothesis|lower }}{% endif %}?",
            "target": "{{ answer }}",
        },
    ],
}
FINETUNE = """\
command: finetune
model: {{checkpoint: {model}}}
data:
  tasks: [{folder}/cards/mine.yaml]
  templates: {{collection: {folder}/words}}
  sequence_length: 64
  validation: {{examples: 2}}
train:
  steps: 2
  batch_size: 2
  learning_rate: 1e-3
  warmup_steps: 0
  precision: fp32
  validate_every: 0
  checkpoint_every: 0
  sample_continuations: 0
"""


@dataclass(frozen=True)
class Workspace:
    """Folders and files of valid inputs. The fuzzers copy what they change."""

    root: Path

    @property
    def run(self) -> Path:
        """A finished pretraining run of a tiny MetaLM."""
        return self.root / "runs" / "tiny"

    @property
    def cards(self) -> Path:
        """A folder of one task card and its rows."""
        return self.root / "cards"

    @property
    def vision(self) -> Path:
        """A model folder of a MetaLM with a vision encoder."""
        return self.root / "vision"

    @property
    def results(self) -> Path:
        """The folder of the run's result files."""
        return self.run / "results"

    def pretrain_recipe(self) -> dict[str, Any]:
        """The values of a valid pretraining recipe on a local JSON lines file, two steps long."""
        recipe = yaml.safe_load(tiny_runs.RECIPE)
        recipe["train"] |= {"steps": 2, "batch_size": 2}
        recipe["data"]["sources"] = [{"name": "mine", "path": str(self.root / "text.jsonl")}]
        return recipe

    def finetune_recipe(self) -> dict[str, Any]:
        """The values of a valid finetuning recipe on the card of this folder."""
        return yaml.safe_load(FINETUNE.format(model=self.run / "model", folder=self.root))

    def card(self) -> dict[str, Any]:
        """The values of the valid task card."""
        return yaml.safe_load((self.cards / "mine.yaml").read_text(encoding="utf-8"))


def build(root: Path) -> Workspace:
    """Make the workspace, with real commands where a command writes the input. Does nothing if it is complete."""
    workspace = Workspace(root)
    if (root / "complete").exists():
        return workspace
    root.mkdir(parents=True, exist_ok=True)
    _write_files(root)
    recipe = tiny_runs.write_recipe(root, yaml.safe_dump(workspace.pretrain_recipe()))
    commands: list[list[object]] = [
        ["pretrain", recipe, "--out", workspace.run],
        [
            "evaluate",
            workspace.run,
            "--cards",
            workspace.cards,
            "--task",
            "mine",
            "--templates",
            root / "words",
            "--limit",
            4,
        ],
    ]
    for command in commands:
        if tiny_runs.metalm(*command) != 0:
            raise RuntimeError(f"the workspace of the fuzzers cannot be made: {command}")
    _save_vision_model(workspace.vision)
    (root / "complete").touch()
    return workspace


def _write_files(root: Path) -> None:
    write_rows(root / "cards" / "rows.jsonl", ROWS)
    write_card(root / "cards", splits="{train: 'rows[:-8]', validation: 'rows[-8:]'}")
    words = root / "words"
    words.mkdir(exist_ok=True)
    (words / "mine.yaml").write_text(yaml.safe_dump(TEMPLATES), encoding="utf-8")
    documents = [f"{row['premise']} The people of the town stay at home. {row['hypothesis']}" for row in ROWS]
    write_rows(root / "text.jsonl", [{"text": " ".join(documents[i:] + documents[:i])} for i in range(len(documents))])
    write_rows(root / "pairs.jsonl", [{"input": row["premise"], "target": row["hypothesis"]} for row in ROWS])
    write_rows(root / "prompts.jsonl", [{"id": i, "text": row["premise"]} for i, row in enumerate(ROWS[:2])])
    lines = ["text,label,place", *(f'"{row["premise"]}",{row["label"]},{i}' for i, row in enumerate(ROWS))]
    (root / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    for ending in ("png", "jpg", "gif", "bmp", "tiff", "webp"):
        Image.fromarray(pixels).save(root / f"picture.{ending}")
    definition = {
        "Definition": ["Repeat."],
        "Positive Examples": [],
        "Instances": [{"id": "1", "input": "a", "output": ["a"]}],
    }
    (root / "task001_repeat.json").write_text(json.dumps(definition), encoding="utf-8")


def _save_vision_model(folder: Path) -> None:
    from metalm_cli.models.assembly import build_metalm
    from metalm_cli.models.checkpoint_io import save_model
    from model_families import model_recipe
    from tiny_models import make_byte_tokenizer

    tokenizer = folder.parent / "tokenizer"
    make_byte_tokenizer(400).save_pretrained(tokenizer)
    model = model_recipe({"gpt2": tokenizer}, "gpt2", "vit", name="vision")
    assembly = build_metalm(model, seed=0, sample=lambda _count: iter(()))
    save_model(folder, assembly.model, assembly.decoder_tokenizer, assembly.processors)
