"""Stages of a recipe: each is the recipe with its own keys on top, and begins with the model of the former one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from metalm_cli.config import schema_types
from metalm_cli.config.merge_layers import LayerStack, with_layer_number
from metalm_cli.config.recipe_errors import RecipeProblem
from metalm_cli.config.schema.base import Section
from metalm_cli.config.schema.connectors import ConnectorConfig
from metalm_cli.config.schema.model import POLICY_KEYS, ModelConfig
from metalm_cli.config.schema.recipes import RECIPES, Recipe
from metalm_cli.config.yaml_nodes import YamlNode

STAGES = "stages"
"""Key of the stages of a recipe."""
SHARED_SECTIONS = ("description", "model", "train", "dangerous")
"""Sections that a stage of another command takes from the recipe; data and objective are those of its command."""
PART_KEYS = ("decoder", "encoders", "connector", "seq2seq")


@dataclass(frozen=True)
class StageNode:
    """A stage before it is checked.

    Args:
        name: Name of the stage.
        index: Its place, from 0.
        schema: Recipe class of its command.
        root: The recipe with the keys of the stage, merged.
        own: The keys of the stage with those of the command line, as the run records them.
    """

    name: str
    index: int
    schema: type[Any]
    root: YamlNode
    own: dict[str, Any]


def stage_nodes(root: YamlNode, command: str) -> Iterator[StageNode]:
    """Yield the stages of a recipe, each merged with what the recipe sets; the command line is above both.

    Args:
        root: The merged recipe, whose stages are mappings with a valid name.
        command: Its command.
    """
    base = {key: node for key, node in root.value.items() if key not in (STAGES, "extends", "command")}
    newest = root.newest_layer()
    command_line = _of_command_line(YamlNode(base))
    for index, node in enumerate(root.value[STAGES].value):
        stage = {key: inner for key, inner in node.value.items() if key != "name"}
        own_command = str(stage.pop("command", YamlNode(command)).value)
        schema = RECIPES[own_command]
        inherited = base
        if own_command != command:
            inherited = _known_keys({key: base[key] for key in SHARED_SECTIONS if key in base}, schema)
            above = None if command_line is None else YamlNode(_known_keys(command_line.value, schema))
        else:
            above = command_line
        own = LayerStack(schema)
        for layer, part in enumerate((YamlNode(stage, node.where, node.kind), above), start=newest + 1):
            if part is not None:
                own.push(with_layer_number(part, layer))
        stack = LayerStack(schema)
        stack.push(YamlNode({**inherited, "command": YamlNode(own_command, kind="default")}, root.where))
        stack.push(own.root)
        values = {"name": node.value["name"].value, "command": own_command, **own.root.plain()}
        yield StageNode(values["name"], index, schema, stack.root, values)


def _known_keys(entries: dict[str, YamlNode], schema: type[Section]) -> dict[str, YamlNode]:
    """Return the entries whose sections another command has, without the keys of a section that it does not know."""
    known: dict[str, YamlNode] = {}
    for key, node in entries.items():
        if key not in SHARED_SECTIONS:
            continue
        section = schema_types.section_of(schema_types.child_type(schema, schema, key))
        if section is not None and isinstance(node.value, dict):
            inner = {name: value for name, value in node.value.items() if name in section.model_fields}
            node = replace(node, value=inner)
        known[key] = node
    return known


def _of_command_line(node: YamlNode) -> YamlNode | None:
    """Return the part of a mapping that the command line sets; None if it sets nothing."""
    if not isinstance(node.value, dict):
        return node if node.kind == "command line" else None
    parts = {key: _of_command_line(inner) for key, inner in node.value.items()}
    set_parts = {key: inner for key, inner in parts.items() if inner is not None}
    if not set_parts:
        return node if node.kind == "command line" and not node.value else None
    return replace(node, value=set_parts)


def stage_problems(root: YamlNode) -> Iterator[RecipeProblem]:
    """Yield the problems of the stages themselves: names that occur twice, and keys that choose another model."""
    names: list[Any] = []
    for index, node in enumerate(root.value[STAGES].value):
        key, name = f"{STAGES}.{index}", node.value.get("name", YamlNode(None)).value
        if name in names:
            yield RecipeProblem(
                f"{key}.name",
                f"got {name}, the name of an earlier stage",
                "give each stage a name of its own",
                where=node.value["name"].where,
            )
        names.append(name)
        model = node.value.get("model")
        if model is not None and isinstance(model.value, dict):
            for inner, place in _model_choices(model):
                yield RecipeProblem(
                    f"{key}.model.{inner}",
                    "a stage begins with the model of the recipe or of the former stage, and chooses no other",
                    f"remove it, or set model.{inner} of the recipe; a stage sets what trains, rates and adapters",
                    where=place,
                )


def _model_choices(model: YamlNode) -> Iterator[tuple[str, str]]:
    """Yield the keys of a stage's model that choose a model or its parts, each with its place."""
    for key, node in model.value.items():
        if key in ("checkpoint", "special_tokens"):
            yield key, node.where
        elif key in PART_KEYS and isinstance(node.value, dict):
            entries = node.value.items() if key == "encoders" else [("", node)]
            for name, part in entries:
                prefix = f"{key}.{name}" if name else key
                for inner, value in part.value.items() if isinstance(part.value, dict) else ():
                    if inner == "connector" and isinstance(value.value, dict):
                        yield from (
                            (f"{prefix}.connector.{inmost}", value.value[inmost].where)
                            for inmost in value.value.keys() - POLICY_KEYS
                        )
                    elif inner not in POLICY_KEYS:
                        yield f"{prefix}.{inner}", value.where


def continued_from(recipe: Recipe, checkpoint: str) -> Recipe:
    """Return the recipe of a stage that begins with a checkpoint: of its parts, only what trains at which rate remains.

    Args:
        recipe: The recipe of the stage, with the model of the whole recipe.
        checkpoint: Model of the former stage.
    """
    model = recipe.model
    parts: dict[str, Any] = {
        "decoder": _policy_only(model.decoder),
        "seq2seq": _policy_only(model.seq2seq),
        "encoders": {name: _policy_only(part) for name, part in model.encoders.items()},
        "connector": _policy_only(model.connector),
    }
    policy = {name: getattr(model, name) for name in ("trains", "learning_rates", "lora")}
    return recipe.model_copy(update={"model": ModelConfig(checkpoint=checkpoint, **policy, **parts)})


def _policy_only(part: Any) -> Any:
    """Return a section of a part with nothing but what trains and at which rate; None if it sets neither."""
    if part is None:
        return None
    values: dict[str, Any] = {key: getattr(part, key) for key in POLICY_KEYS}
    connector = getattr(part, "connector", None)
    if isinstance(connector, ConnectorConfig):
        values["connector"] = _policy_only(connector)
    return type(part)(**values)
