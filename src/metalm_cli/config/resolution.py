"""Resolving a recipe: find, merge and check its layers, and record the provenance of each value."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from metalm_cli.config import schema_types
from metalm_cli.config.locate import RecipeFile, find_recipe
from metalm_cli.config.lowered_values import LoweredValue, ModelLengths, lower_lengths, lower_values
from metalm_cli.config.merge_layers import OVERRIDE, LayerStack, OverriddenValue, apply_command_line, read_layers
from metalm_cli.config.recipe_errors import RecipeError, RecipeProblem
from metalm_cli.config.rules.cross_key_rules import check_cross_key_rules
from metalm_cli.config.schema.recipes import RECIPES, FinetuneRecipe, PretrainRecipe, Recipe
from metalm_cli.config.stages import STAGES, continued_from, stage_nodes, stage_problems
from metalm_cli.config.validate import SchemaChecker
from metalm_cli.config.yaml_nodes import LayerKind, YamlNode, to_flow_yaml
from metalm_cli.errors import MetalmError

DEFAULTS: dict[str, str] = {"pretrain": "small", "finetune": "multitask", "instruct": "flan"}
"""Default recipe of each command."""

ReadLengths = Callable[[Recipe], ModelLengths]
"""Reads what the model of a recipe reads."""


@dataclass(frozen=True)
class Provenance:
    """Origin of a value.

    Args:
        kind: ``default``, ``recipe`` or ``command line``.
        where: ``file:line`` for a recipe, ``command line``, or empty for a default.
    """

    kind: LayerKind
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.kind


@dataclass(frozen=True)
class ResolvedRecipe:
    """A merged and checked recipe.

    Args:
        name: Name of a shipped recipe, or stem of the file.
        recipe: The recipe, an instance of its command's class.
        provenance: Origin of each leaf value by dotted key. A list of plain values is one leaf; items of a list of
            mappings are keyed by their index.
        dropped: Values that were dropped by later layers, in order, and values that were lowered to fit later layers.
        recipe_file: File of the recipe.
        stages: Stages of a recipe that has them; recipe and provenance are then those of the first.
        stages_yaml: Recipe with stages as YAML, which resolves to the same; empty without stages.
        stages_command: Command of a recipe with stages; empty without stages.
    """

    name: str
    recipe: Any
    provenance: dict[str, Provenance]
    dropped: tuple[OverriddenValue | LoweredValue, ...]
    recipe_file: RecipeFile
    stages: tuple[ResolvedStage, ...] = ()
    stages_yaml: str = ""
    stages_command: str = ""

    @property
    def command(self) -> str:
        """Command that runs the recipe, whatever the commands of its stages."""
        return self.stages_command or str(self.recipe.command)

    def with_checkpoint(self, checkpoint: str) -> ResolvedRecipe:
        """Return a copy that continues from a checkpoint."""
        model = self.recipe.model.model_copy(update={"checkpoint": checkpoint})
        provenance = {**self.provenance, "model.checkpoint": Provenance("command line", "the newest run")}
        stages = tuple(replace(stage, resolved=stage.resolved.with_checkpoint(checkpoint)) for stage in self.stages)
        recipe = self.recipe.model_copy(update={"model": model})
        return replace(self, recipe=recipe, provenance=provenance, stages=stages)

    def continued_from(self, checkpoint: str) -> ResolvedRecipe:
        """Return a copy for a stage that begins with the model of the former one."""
        recipe = continued_from(self.recipe, checkpoint)
        leaves = [".".join(map(str, parts)) for parts in _leaf_paths(recipe.model_dump(exclude={"extends"}), ())]
        provenance = {key: self.provenance.get(key, Provenance("default")) for key in leaves}
        provenance["model.checkpoint"] = Provenance("command line", "the former stage")
        return replace(self, recipe=recipe, provenance=provenance)

    def to_yaml(self) -> str:
        """Return the complete recipe as YAML, with defaults and without ``extends``; it resolves to the same recipe."""
        return "\n".join(line for line, _ in self.lines()) + "\n"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the lines of :meth:`to_yaml`, each with the dotted key of its leaf value (empty if there is none)."""
        values = self.recipe.model_dump(exclude={"extends"})
        yield from _yaml_lines(values, "", "")


@dataclass(frozen=True)
class ResolvedStage:
    """A stage of a recipe.

    Args:
        name: Name of the stage.
        resolved: The recipe of the stage, with the model that the first stage begins with.
        own: Keys of the stage with those of the command line, as plain values.
    """

    name: str
    resolved: ResolvedRecipe
    own: dict[str, Any]


def resolve(
    command: str | None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    read_lengths: ReadLengths | None = None,
) -> ResolvedRecipe:
    """Find, merge and check a recipe.

    Args:
        command: Command that runs the recipe; None: the command that the recipe sets.
        recipe: Path or name of a shipped recipe; None: the command's default.
        overrides: ``KEY=VALUE`` arguments.
        flags: Values of command-line options that set keys, by dotted key.
        read_lengths: Reads what the model reads, to which lengths are lowered; None: lengths are not compared with it.

    Raises:
        RecipeError: Values are invalid; lists all problems.
        MetalmError: The recipe cannot be found or read, or belongs to another command.
    """
    recipe_file = find_recipe(DEFAULTS[command or "pretrain"] if recipe is None else recipe)
    stack, schema = merge_layers(command, recipe_file, overrides, flags or {})
    if stack.root.value.get(STAGES, YamlNode(None)).value is not None:
        return _resolve_stages(recipe_file, stack, schema, read_lengths)
    checked_recipe, lowered, problems = _check(stack.root, schema, read_lengths)
    if problems or checked_recipe is None:
        raise RecipeError(recipe_file.name, problems)
    provenance = _provenance(stack.root, checked_recipe, lowered)
    return ResolvedRecipe(recipe_file.name, checked_recipe, provenance, (*stack.dropped, *lowered), recipe_file)


def _check(
    root: YamlNode, schema: type[Any], read_lengths: ReadLengths | None
) -> tuple[Any, tuple[LoweredValue, ...], list[RecipeProblem]]:
    """Build and check a merged recipe; return it (None if it is incomplete), its lowered values, and its problems."""
    checker = SchemaChecker(schema)
    recipe = checker.build(root)
    problems = list(checker.problems)
    if not isinstance(recipe, PretrainRecipe | FinetuneRecipe):
        return None, (), problems
    recipe, lowered = lower_values(recipe, root)
    nodes = dict(_set_nodes(root, ""))
    given_keys = {key for key, node in nodes.items() if node.kind == "command line"}
    rules = check_cross_key_rules(recipe, nodes.keys(), given_keys)
    problems += _locate_problems(rules, checker.invalid_keys, root)
    if problems or read_lengths is None:
        return recipe, lowered, problems
    recipe, shortened, too_long = lower_lengths(recipe, root, read_lengths(recipe))
    rules = check_cross_key_rules(recipe, nodes.keys(), given_keys) if shortened else iter(())
    problems += _locate_problems(chain(too_long, rules), set(), root)
    return recipe, (*lowered, *shortened), problems


def _provenance(root: YamlNode, recipe: Any, lowered: Sequence[LoweredValue]) -> dict[str, Provenance]:
    leaves = _leaf_paths(recipe.model_dump(exclude={"extends"}), ())
    provenance = {".".join(map(str, parts)): _provenance_of(root, parts) for parts in leaves}
    for value in lowered:
        provenance[value.key] = provenance[value.by_key] if value.by_key else Provenance("command line", "the model")
    return provenance


def _resolve_stages(
    recipe_file: RecipeFile, stack: LayerStack, schema: type[Any], read_lengths: ReadLengths | None
) -> ResolvedRecipe:
    """Resolve a recipe with stages: each must be a complete recipe with what all of them share.

    Raises:
        RecipeError: Values are invalid; lists all problems.
    """
    checker = SchemaChecker(schema)
    checker.build(stack.root)
    problems = [
        problem for problem in checker.problems if not problem.is_missing or problem.key.startswith(f"{STAGES}.")
    ]
    if not any(problem.key.split(".")[0] == STAGES for problem in problems):
        problems += stage_problems(stack.root)
    stages: list[ResolvedStage] = []
    if not problems:
        command = next(name for name, recipe in RECIPES.items() if recipe is schema)
        for node in stage_nodes(stack.root, command):
            recipe, lowered, stage_errors = _check(node.root, node.schema, read_lengths)
            problems += [replace(problem, key=f"{STAGES}.{node.index}.{problem.key}") for problem in stage_errors]
            if recipe is not None:
                name = f"{recipe_file.name} {node.name}"
                provenance = _provenance(node.root, recipe, lowered)
                resolved = ResolvedRecipe(name, recipe, provenance, lowered, recipe_file)
                stages.append(ResolvedStage(node.name, resolved, _with_lowered(node.own, lowered)))
    if problems:
        raise RecipeError(recipe_file.name, problems)
    shared = {key: node for key, node in stack.root.plain().items() if key not in (STAGES, "extends")}
    shared = {"command": schema.model_fields["command"].default, **shared}
    record = "\n".join(line for line, _ in _yaml_lines({**shared, STAGES: [stage.own for stage in stages]}, "", ""))
    return replace(
        stages[0].resolved,
        name=recipe_file.name,
        dropped=tuple(stack.dropped),
        stages=tuple(stages),
        stages_yaml=f"{record}\n",
        stages_command=str(shared["command"]),
    )


def _with_lowered(own: dict[str, Any], lowered: Sequence[LoweredValue]) -> dict[str, Any]:
    """Return the keys of a stage with its lengths that were lowered to fit the model.

    The run records these values, which its record would otherwise set to what they were.
    """
    own = copy.deepcopy(own)
    for value in lowered:
        if not value.by_key.startswith("train."):
            *sections, name = value.key.split(".")
            inner = own
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[name] = value.lowered
    return own


def merge_layers(
    command: str | None, recipe_file: RecipeFile, overrides: Sequence[str], flags: Mapping[str, Any]
) -> tuple[LayerStack, type[PretrainRecipe] | type[FinetuneRecipe]]:
    """Merge the layers of a recipe without checking them; return them with the schema.

    Raises:
        MetalmError: A layer cannot be read.
    """
    schema = RECIPES[command or command_of(recipe_file)]
    stack = LayerStack(schema)
    count = read_layers(stack, recipe_file)
    apply_command_line(stack, overrides, flags, count + 1)
    return stack, schema


def command_of(recipe_file: RecipeFile) -> str:
    """Return the command that a recipe or one of its base recipes sets; ``pretrain`` if none does.

    Raises:
        MetalmError: A layer cannot be read.
    """
    stack = LayerStack(PretrainRecipe)
    read_layers(stack, recipe_file)
    command = stack.root.value.get("command", YamlNode(None)).value
    return command if isinstance(command, str) and command in RECIPES else "pretrain"


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split ``[RECIPE] [KEY=VALUE …]`` arguments into the recipe and the overrides.

    >>> split_arguments(["small", "train.steps=10"])
    ('small', ['train.steps=10'])

    Raises:
        MetalmError: There is more than one recipe.
    """
    overrides = [argument for argument in arguments if OVERRIDE.match(argument)]
    recipes = [argument for argument in arguments if not OVERRIDE.match(argument)]
    if len(recipes) > 1:
        raise MetalmError(
            f"expected a single recipe, got {' and '.join(recipes)}",
            where="command line",
            remedy="an override is KEY=VALUE without spaces, such as train.steps=100",
        )
    return (recipes[0] if recipes else None), overrides


def base_recipe_problems(recipe_file: RecipeFile, overrides: Sequence[str] = ()) -> list[RecipeProblem]:
    """Return the problems of a base recipe: its values are checked, but required keys may be missing."""
    stack, schema = merge_layers(None, recipe_file, overrides, {})
    checker = SchemaChecker(schema)
    checker.build(stack.root)
    return [problem for problem in checker.problems if not problem.is_missing]


def _locate_problems(
    problems: Iterator[RecipeProblem], invalid_keys: set[str], root: YamlNode
) -> Iterator[RecipeProblem]:
    """Add locations to problems; skip problems that depend on an invalid value."""
    for problem in problems:
        keys = (problem.key, *problem.depends_on)
        if any(invalid_key == key or key.startswith(f"{invalid_key}.") for invalid_key in invalid_keys for key in keys):
            continue
        if any(wrong.startswith(f"{problem.key}.") for wrong in invalid_keys):
            continue
        locations = (_provenance_of(root, _split_key(key)).where for key in keys)
        where = problem.where or next((location for location in locations if location), "")
        yield replace(problem, where=where)


def _split_key(key: str) -> list[str | int]:
    """Split a dotted key into names and list indices."""
    return [int(part) if part.isdecimal() else part for part in key.split(".")]


def _provenance_of(root: YamlNode, parts: Sequence[str | int]) -> Provenance:
    node = root
    for part in parts:
        inner = None
        if isinstance(node.value, dict):
            inner = node.value.get(str(part))
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            inner = node.value[part]
        if inner is None:
            return Provenance("default")
        node = inner
    return Provenance(node.kind, node.where)


def _set_nodes(node: YamlNode, path: str) -> Iterator[tuple[str, YamlNode]]:
    for key, inner in node.value.items() if isinstance(node.value, dict) else ():
        if inner.value is not None:
            yield schema_types.join_key(path, key), inner
        yield from _set_nodes(inner, schema_types.join_key(path, key))


def _leaf_paths(value: Any, parts: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaf_paths(inner, (*parts, key))
    elif _is_list_of_mappings(value):
        for index, inner in enumerate(value):
            yield from _leaf_paths(inner, (*parts, index))
    else:
        yield parts


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and item for item in value)


def _yaml_lines(value: dict[str, Any], indent: str, path: str) -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        inner_path, name = schema_types.join_key(path, key), to_flow_yaml(key)
        if isinstance(inner, dict) and inner:
            yield f"{indent}{name}:", ""
            yield from _yaml_lines(inner, indent + "  ", inner_path)
        elif _is_list_of_mappings(inner):
            yield f"{indent}{name}:", ""
            for index, item in enumerate(inner):
                nested = list(_yaml_lines(item, indent + "    ", schema_types.join_key(inner_path, index)))
                first_line, first_key = nested[0]
                yield f"{indent}  - {first_line.strip()}", first_key
                yield from nested[1:]
        else:
            yield f"{indent}{name}: {to_flow_yaml(inner)}", inner_path
