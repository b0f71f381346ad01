"""Documentation generated from the schema: JSON Schema for editors, Markdown for readers, shell completion."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from metalm_cli.config import schema_types
from metalm_cli.config.schema.base import Section
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.config.schema.recipes import RECIPES, PretrainRecipe
from metalm_cli.config.yaml_nodes import to_flow_yaml


def json_schema(command: str = "pretrain") -> dict[str, Any]:
    """JSON Schema (2020-12) of a command's recipes, for editors.

    Keys that an extended recipe may provide are not required.
    """
    schema = RECIPES[command].model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"Recipe of metalm {command}"
    _relax_required(schema, keep=schema["$defs"].get(DocumentSource.__name__))
    objective = schema["properties"].get("objective")
    if objective is not None:
        objective["anyOf"] = objective.pop("oneOf")
        del objective["discriminator"]
    return schema


def _relax_required(node: Any, keep: Any) -> None:
    if isinstance(node, dict):
        if node is not keep and isinstance(node.get("required"), list):
            del node["required"]
        if "properties" in node:
            for field in node["properties"].values():
                field.pop("title", None)
            for group in ("encoders", "connector", "special_tokens", "validation", "exclude"):
                _allow_null(node["properties"].get(group))
        for value in node.values():
            _relax_required(value, keep)
    elif isinstance(node, list):
        for value in node:
            _relax_required(value, keep)


def _allow_null(field: dict[str, Any] | None) -> None:
    """Allow null for a mapping; it removes the mapping of an extended recipe."""
    if field is None or {"type": "null"} in field.get("anyOf", []):
        return
    type_schema = {key: field.pop(key) for key in ("$ref", "type", "additionalProperties") if key in field}
    field["anyOf"] = [type_schema, {"type": "null"}]


def json_schema_text(command: str = "pretrain") -> str:
    """:func:`json_schema` as text."""
    return json.dumps(json_schema(command), indent=2, ensure_ascii=False) + "\n"


def markdown_reference() -> str:
    """Markdown of the recipe reference, ``docs/recipes.md``."""
    parts = [_INTRODUCTION]
    for command, root in RECIPES.items():
        parts.append(f"## `metalm {command}`\n")
        parts += _section_tables(root)
    return "\n".join(parts).rstrip() + "\n"


def _section_tables(root: type[Section]) -> list[str]:
    """Tables of all sections reachable from ``root``, in the order of their keys, each section once."""
    queue: list[tuple[str, type[Section]]] = [("", root)]
    tables: list[str] = []
    seen: dict[type[Section], str] = {}
    while queue:
        path, section = queue.pop(0)
        if section in seen:
            continue
        seen[section] = path
        tables.append(_table(path, section))
        nested = []
        for name, field in section.model_fields.items():
            nested += [
                (inner_path, choice)
                for inner_path, choice in _nested_sections(schema_types.join_key(path, name), field)
            ]
        queue = nested + queue
    return tables


def _nested_sections(key: str, field: FieldInfo) -> list[tuple[str, type[Section]]]:
    nested = [(key, choice) for choice in schema_types.section_types(field.annotation)]
    for part in schema_types.union_members(field.annotation):
        if get_origin(part) in (list, dict):
            placeholder = "0" if get_origin(part) is list else "NAME"
            nested += [
                (schema_types.join_key(key, placeholder), choice)
                for choice in schema_types.section_types(get_args(part)[-1])
            ]
    return nested


def _table(path: str, section: type[Section]) -> str:
    names = get_args(section.model_fields["name"].annotation) if "name" in section.model_fields else ()
    title = f"`{path}`" if path else "Top level"
    if names:
        title = f"`{path}`: `name: {names[0]}`"
    summary = " ".join((section.__doc__ or "").replace("``", "`").split())
    lines = [
        f"### {title}\n",
        f"{summary}\n" if summary else "",
        "| key | values | default | description |",
        "|---|---|---|---|",
    ]
    for name, field in section.model_fields.items():
        values = schema_types.describe_type(schema_types.constrained_type(field), examples=field.examples)
        row = (f"`{name}`", values, _default(field), field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    for group in section.one_of:
        lines.append(f"\nAt most one of {', '.join(f'`{key}`' for key in group)}.")
    return "\n".join(line for line in lines if line) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "see below" if isinstance(default, Section) else f"`{to_flow_yaml(default)}`"


def settable_keys(command: str = "pretrain") -> dict[str, str]:
    """Dotted keys that the command line can set, with descriptions; ``text`` represents any encoder name."""
    return {
        key.replace("NAME", "text"): field.description or ""
        for key, _, _, field in schema_types.walk_keys(RECIPES[command])
        if key not in ("extends", "command")
    }


def key_choices(key: str, command: str = "pretrain") -> list[str]:
    """Possible values of a key, for keys with a fixed set of values; else an empty list."""
    for dotted_key, _, name, field in schema_types.walk_keys(RECIPES[command]):
        if dotted_key.replace("NAME", "text") == key:
            if name == "name" and dotted_key == "objective.name":
                return list(schema_types.sections_by_name(PretrainRecipe.model_fields["objective"].annotation))
            return _field_choices(field)
    return []


def _field_choices(field: FieldInfo) -> list[str]:
    values: list[str] = []
    for part in schema_types.union_members(field.annotation):
        if part is bool:
            values += ["true", "false"]
        values += [str(choice) for choice in get_args(part) if isinstance(choice, str)]
    return values or [str(example) for example in field.examples or []]


_INTRODUCTION = """\
# Recipes

This page is generated from the schema in `src/metalm_cli/config/schema/` by
`metalm recipe schema --markdown`.

A recipe is a YAML file that describes a training run.

- `metalm recipe list` lists the shipped recipes.
- `metalm recipe show NAME` prints a resolved recipe, with the origin of each value.
- `metalm recipe check FILE` lists all problems of a recipe.
- `metalm recipe schema` prints a JSON Schema for editors.

## Choosing a recipe

`RECIPE` is a path if it ends in `.yaml` or starts with `/`, `./`, `../` or `~/`. Anything else is the
name of a shipped recipe, such as `paper/language-1.3b`. Without `RECIPE`, `metalm pretrain` uses `small`,
`metalm finetune` uses `multitask`, and `metalm instruct` uses `flan`.

## YAML

Recipes are YAML 1.2 (core schema): `no`, `on` and `1:30` are text, `1e-4` is a number, `012` is twelve.
Anchors are allowed. Unknown keys, duplicate keys, tags and merge keys (`<<`) are errors.

## Layers

`extends: NAME` loads another recipe first; the file's own keys override it. `extends` also accepts a
path, relative to the folder of the file. `KEY=VALUE` arguments on the command line override all files:
`train.steps=100`, `data.sources.0.path=my.jsonl`, `objective.span_length=[8,16]`.

- Mappings are merged; lists and single values are replaced. A number in a dotted key is a list index.
- `null` removes a mapping of an extended recipe: `model.encoders=null`.
- Some keys exclude each other. Setting one of them in a later layer drops the others, and the run prints
  what was dropped: `checkpoint` drops `config` and its tokenizer, `path` drops `hub` or `world`,
  `model.checkpoint` (or `--model`) drops the model's parts, and a new `objective.name` drops the settings
  of the previous objective. Setting two of them in the same layer is an error.
"""
