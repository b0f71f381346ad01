"""What the schema says, for editors (JSON Schema), for readers (Markdown) and for shell completion."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from metalm_cli.config import schema_types
from metalm_cli.config.schema.base import Section
from metalm_cli.config.schema.data import Source
from metalm_cli.config.schema.recipes import RECIPES, PretrainRecipe
from metalm_cli.config.yaml_nodes import to_flow_yaml


def json_schema(command: str = "pretrain") -> dict[str, Any]:
    """JSON Schema (2020-12) of a command's recipes, for editors.

    Only what a recipe can never do without is required: the rest may come from what it extends.
    """
    schema = RECIPES[command].model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"Recipe of metalm {command}"
    _relax(schema, keep=schema["$defs"].get(Source.__name__))
    objective = schema["properties"].get("objective")
    if objective is not None:
        objective["anyOf"] = objective.pop("oneOf")
        del objective["discriminator"]
    return schema


def _relax(node: Any, keep: Any) -> None:
    if isinstance(node, dict):
        if node is not keep and isinstance(node.get("required"), list):
            del node["required"]
        if "properties" in node:
            for field in node["properties"].values():
                field.pop("title", None)
            for group in ("encoders", "connector", "tokens", "validation", "exclude"):
                _allow_null(node["properties"].get(group))
        for value in node.values():
            _relax(value, keep)
    elif isinstance(node, list):
        for value in node:
            _relax(value, keep)


def _allow_null(field: dict[str, Any] | None) -> None:
    """Null over a mapping takes away what an extended recipe says."""
    if field is None or {"type": "null"} in field.get("anyOf", []):
        return
    moved = {key: field.pop(key) for key in ("$ref", "type", "additionalProperties") if key in field}
    field["anyOf"] = [moved, {"type": "null"}]


def json_text(command: str = "pretrain") -> str:
    """:func:`json_schema` as text."""
    return json.dumps(json_schema(command), indent=2, ensure_ascii=False) + "\n"


def markdown() -> str:
    """The recipe reference, ``docs/recipes.md``."""
    parts = [_HEAD]
    for command, root in RECIPES.items():
        parts.append(f"## `metalm {command}`\n")
        parts += _section_tables(root)
    return "\n".join(parts).rstrip() + "\n"


def _section_tables(root: type[Section]) -> list[str]:
    """A table for each section, in the order in which keys lead to them; each section once."""
    queue: list[tuple[str, type[Section]]] = [("", root)]
    parts: list[str] = []
    seen: dict[type[Section], str] = {}
    while queue:
        path, section = queue.pop(0)
        if section in seen:
            continue
        seen[section] = path
        parts.append(_table(path, section))
        inner = []
        for name, field in section.model_fields.items():
            inner += [(where, choice) for where, choice in _inside(schema_types.join(path, name), field)]
        queue = inner + queue
    return parts


def _inside(key: str, field: FieldInfo) -> list[tuple[str, type[Section]]]:
    found = [(key, choice) for choice in schema_types.sections(field.annotation)]
    for part in schema_types.members(field.annotation):
        if get_origin(part) in (list, dict):
            mark = "0" if get_origin(part) is list else "NAME"
            found += [(schema_types.join(key, mark), choice) for choice in schema_types.sections(get_args(part)[-1])]
    return found


def _table(path: str, section: type[Section]) -> str:
    named = get_args(section.model_fields["name"].annotation) if "name" in section.model_fields else ()
    title = f"`{path}`" if path else "At the top"
    if named:
        title = f"`{path}`: `name: {named[0]}`"
    summary = " ".join((section.__doc__ or "").replace("``", "`").split())
    lines = [f"### {title}\n", f"{summary}\n" if summary else "", "| key | values | default | |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        words = schema_types.describe_type(schema_types.is_complete_value(field), examples=field.examples)
        row = (f"`{name}`", words, _default(field), field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    for group in section.one_of:
        lines.append(f"\nAt most one of {', '.join(f'`{key}`' for key in group)}.")
    return "\n".join(line for line in lines if line) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "its defaults" if isinstance(default, Section) else f"`{to_flow_yaml(default)}`"


def keys(command: str = "pretrain") -> dict[str, str]:
    """Dotted keys that can be set on the command line, with their descriptions; ``text`` stands for encoder names."""
    return {
        key.replace("NAME", "text"): field.description or ""
        for key, _, _, field in schema_types.walk_keys(RECIPES[command])
        if key not in ("extends", "command")
    }


def choices(key: str, command: str = "pretrain") -> list[str]:
    """The values that a key can take, where they are few and known."""
    for found, _, name, field in schema_types.walk_keys(RECIPES[command]):
        if found.replace("NAME", "text") == key:
            if name == "name" and found == "objective.name":
                return list(schema_types.fields_by_name(PretrainRecipe.model_fields["objective"].annotation))
            return _few(field)
    return []


def _few(field: FieldInfo) -> list[str]:
    values: list[str] = []
    for part in schema_types.members(field.annotation):
        if part is bool:
            values += ["true", "false"]
        values += [str(choice) for choice in get_args(part) if isinstance(choice, str)]
    return values or [str(example) for example in field.examples or []]


_HEAD = """\
# Recipes

Generated by `metalm recipe schema --markdown` from the schema in `src/metalm_cli/config/schema/model.py`.

A recipe is a YAML file. `metalm recipe list` shows the shipped ones, `metalm recipe show NAME` one of them in
full with the place that each value comes from, `metalm recipe check FILE` all that is wrong with one, and
`metalm recipe schema` a JSON Schema for editors.

## Which recipe

`RECIPE` is a path if it ends in `.yaml` or starts with `/`, `./`, `../` or `~/`; all else is a shipped name, such
as `paper/language-1.3b`. Left out, it is `small`.

## How values are read

YAML 1.2, core schema: `no`, `on` and `1:30` are text, `1e-4` is a number, `012` is twelve. Duplicate keys, tags
and merge keys (`<<`) are errors; anchors are fine. Unknown keys are errors.

## Layers

`extends: NAME` (or a path, from the folder of the file that says it) puts a recipe below this one. `KEY=VALUE` on
the command line stands above all: `train.steps=100`, `data.sources.0.path=my.jsonl`, `objective.span_length=[8,16]`.

- Mappings merge; lists and single values are replaced. A number in a dotted key addresses an item of a list.
- `null` over a mapping takes it away: `model.encoders=null`.
- Of keys that exclude each other, one set in a later layer drops the others: a `checkpoint` drops the `config` and
  its tokenizer, `path` drops `hub` or `world`, `model.checkpoint` (or `--model`) drops the parts, and another
  `objective.name` drops the settings of the objective before. What was dropped is said. In one and the same layer
  they are an error.
"""
