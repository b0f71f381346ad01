"""Folder of cards, rows and templates for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from card_fixtures import CARD_VALUES
from metalm_cli.evaluation.evaluator import Evaluator
from metalm_cli.evaluation.open_tasks import open_evaluation_tasks
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.tasks import Cards

ROWS = [{"text": f"The girl had {n} red balls and a dog.", "label": n % 2, "say": f"{n} balls"} for n in range(12)]
OPEN = {"answer": {"text": "say"}, "metric": {"name": "token_f1", "source": "the tests"}}
TEMPLATES = [
    {"name": "inverted-first", "input": "{{ answer }}", "target": "{{ text }}", "inverted": True},
    {"name": "odd", "input": "{{ text }}\nIs it odd?\n{{ options }}"},
    {"name": "count", "input": "Count: {{ text }}"},
    {"name": "spoken", "input": "{{ text }} Well?", "target": "I say {{ answer }}!"},
]


class TaskFolder:
    """Folder of cards, rows and templates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "templates").mkdir()

    def card(self, name: str, rows: list[dict[str, Any]] = ROWS, **changes: Any) -> str:
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        data_file = {} if "hub" in changes else {"file": f"{name}.jsonl"}
        (self.folder / "cards").mkdir(exist_ok=True)
        (self.folder / "cards" / f"{name}.yaml").write_text(
            yaml.safe_dump({"name": name, **CARD_VALUES, **data_file, **changes}), encoding="utf-8"
        )
        (self.folder / "cards" / f"{name}.jsonl").write_bytes((self.folder / f"{name}.jsonl").read_bytes())
        (self.folder / "templates" / f"{name}.yaml").write_text(
            yaml.safe_dump({"templates": TEMPLATES}), encoding="utf-8"
        )
        return name

    def open(self, *names: str, **changes: Any) -> Any:
        cards = Cards([self.folder / "cards"])
        settings = EvaluationSettings(str(self.folder / "templates"), **changes)
        selection = cards.select(names)
        tasks, missing = open_evaluation_tasks(cards, selection, settings, offline=True, cache=self.folder / "cache")
        return tasks, missing, settings

    def results(self, language_model: Any, *names: str, **changes: Any) -> list[Any]:
        tasks, _, settings = self.open(*names, **changes)
        return list(Evaluator(language_model, settings).evaluate(tasks))
