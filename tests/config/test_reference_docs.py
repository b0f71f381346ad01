"""Documentation generated from the schema, and a check that every key is read."""

from __future__ import annotations

import ast
from pathlib import Path

from metalm_cli.config import reference_docs, schema_types
from metalm_cli.config.schema.recipes import RECIPES

REPOSITORY = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    assert (REPOSITORY / "docs" / "recipes.md").read_text() == reference_docs.markdown_reference(), (
        "run: metalm recipe schema --markdown > docs/recipes.md"
    )


def test_the_reference_names_every_key_with_a_description() -> None:
    text = reference_docs.markdown_reference()
    for key, _, name, field in (entry for recipe in RECIPES.values() for entry in schema_types.walk_keys(recipe)):
        assert f"| `{name}` |" in text, key
        if name != "name":
            assert field.description, key


def test_json_schema_describes_and_bounds_the_keys() -> None:
    schema = reference_docs.json_schema()
    training = schema["$defs"]["TrainingConfig"]["properties"]
    assert training["precision"]["enum"] == ["fp32", "bf16"]
    assert training["precision"]["default"] == "bf16"
    assert training["learning_rate"]["exclusiveMinimum"] == 0
    assert schema["$defs"]["TrainingConfig"]["additionalProperties"] is False
    assert all(field.get("description") for field in training.values())


def test_json_schema_requires_nothing_that_an_extended_recipe_may_give() -> None:
    schema = reference_docs.json_schema()
    required = {name: section["required"] for name, section in schema["$defs"].items() if "required" in section}
    assert required == {"DocumentSource": ["name"]}
    assert "required" not in schema
    assert {"type": "null"} in schema["$defs"]["ModelConfig"]["properties"]["encoders"]["anyOf"]
    assert len(schema["properties"]["objective"]["anyOf"]) == 7


def test_keys_and_choices_for_completion() -> None:
    keys = reference_docs.settable_keys()
    assert keys["train.learning_rate"] == "Peak learning rate."
    assert {"data.sources.0.path", "model.encoders.text.trains", "objective.mask_rate"} <= set(keys)
    assert "extends" not in keys
    assert reference_docs.key_choices("train.schedule") == ["linear", "cosine", "constant"]
    assert reference_docs.key_choices("train.compile") == ["true", "false"]
    assert reference_docs.key_choices("objective.name") == [
        "semi_causal",
        "causal",
        "prefix",
        "reconstruct",
        "mixed",
        "mlm",
        "rtd",
    ]
    assert reference_docs.key_choices("train.steps") == []


def _words_in_source() -> set[str]:
    """Attribute names of all source files, and string literals of those outside the config package."""
    words: set[str] = set()
    for path in (REPOSITORY / "src").rglob("*.py"):
        in_config = path.parent.name in ("config", "schema")  # strings there name keys without reading them
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not in_config:
                words.add(node.value)
    return words


def test_every_key_is_read_somewhere() -> None:
    words = _words_in_source()
    names = {name for recipe in RECIPES.values() for _, _, name, _ in schema_types.walk_keys(recipe)}
    # The config package itself reads these.
    unread = sorted(names - words - {"extends", "command", "description"})
    assert unread == []
