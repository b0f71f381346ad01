"""From a recipe's name, overrides and flags to one checked recipe, with where every value came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metalm_cli.config import schema_types
from metalm_cli.config.cross_key_rules import check_cross_key_rules
from metalm_cli.config.locate import RecipeFile, find_recipe
from metalm_cli.config.merge_layers import OVERRIDE, LayerStack, OverriddenValue, apply_command_line, read_layers
from metalm_cli.config.recipe_errors import RecipeError, RecipeProblem
from metalm_cli.config.schema.recipes import RECIPES, FinetuneRecipe, PretrainRecipe
from metalm_cli.config.validate import Checker
from metalm_cli.config.yaml_nodes import Kind, YamlNode, to_flow_yaml
from metalm_cli.errors import MetalmError

DEFAULTS: dict[str, str] = {"pretrain": "small", "finetune": "multitask", "instruct": "flan"}
"""The recipe of each command when none is given."""


@dataclass(frozen=True)
class Provenance:
    """Where a value came from.

    Args:
        kind: ``default``, ``recipe`` or ``command line``.
        where: ``file:line`` for a recipe, ``command line``, or empty for a default.
    """

    kind: Kind
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.kind


@dataclass(frozen=True)
class Resolved:
    """A recipe that is ready to run.

    Args:
        name: Shipped name, or the file's stem.
        recipe: The checked recipe, of its command's class.
        provenance: Where each leaf key's value came from. A list of values is one leaf; items of a list of
            mappings are keyed by their number.
        dropped: Values that later layers have pushed out, in order.
        found: The recipe's file.
    """

    name: str
    recipe: Any
    provenance: dict[str, Provenance]
    dropped: tuple[OverriddenValue, ...]
    found: RecipeFile

    def with_checkpoint(self, checkpoint: str) -> Resolved:
        """The same recipe with a finished model to go on from."""
        model = self.recipe.model.model_copy(update={"checkpoint": checkpoint})
        provenance = {**self.provenance, "model.checkpoint": Provenance("command line", "the newest run")}
        return replace(self, recipe=self.recipe.model_copy(update={"model": model}), provenance=provenance)

    def to_yaml(self) -> str:
        """The whole recipe, defaults included, as YAML that resolves to itself; ``extends`` is gone."""
        return "\n".join(line for line, _ in self.lines()) + "\n"

    def lines(self) -> Iterator[tuple[str, str]]:
        """The lines of :meth:`to_yaml`, each with the dotted key of its leaf (empty where it holds none)."""
        values = self.recipe.model_dump(exclude={"extends"})
        yield from _lines(values, "", "")


def resolve(
    command: str | None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Resolved:
    """Find, merge and check a recipe.

    Args:
        command: The command that will run it; None: the one that the recipe names.
        recipe: A path or a shipped name; None: the command's default.
        overrides: ``KEY=VALUE`` arguments.
        flags: Values of flags that stand for keys, by dotted key.

    Raises:
        RecipeError: With all problems of its values.
        MetalmError: When it cannot be found or read, or belongs to another command.
    """
    found = find_recipe(DEFAULTS[command or "pretrain"] if recipe is None else recipe)
    stack, schema = merge_layers(command, found, overrides, flags or {})
    checker = Checker(schema)
    built = checker.build(stack.root)
    problems = list(checker.problems)
    if isinstance(built, PretrainRecipe | FinetuneRecipe):
        given = set(_given(stack.root, ""))
        problems += _placed(check_cross_key_rules(built, given), checker.bad, stack.root)
    if problems or not isinstance(built, PretrainRecipe | FinetuneRecipe):
        raise RecipeError(found.name, problems)
    leaves = _leaves(built.model_dump(exclude={"extends"}), ())
    provenance = {".".join(map(str, parts)): _provenance(stack.root, parts) for parts in leaves}
    return Resolved(found.name, built, provenance, tuple(stack.dropped), found)


def merge_layers(
    command: str | None, found: RecipeFile, overrides: Sequence[str], flags: Mapping[str, Any]
) -> tuple[LayerStack, type[PretrainRecipe] | type[FinetuneRecipe]]:
    """The merged, unchecked layers of a recipe, and its schema.

    Raises:
        MetalmError: When a layer cannot be read.
    """
    schema = RECIPES[command or command_of(found)]
    stack = LayerStack(schema)
    count = read_layers(stack, found)
    apply_command_line(stack, overrides, flags, count + 1)
    return stack, schema


def command_of(found: RecipeFile) -> str:
    """The command that a recipe, or what it extends, names; pretrain if none does.

    Raises:
        MetalmError: A layer cannot be read.
    """
    stack = LayerStack(PretrainRecipe)
    read_layers(stack, found)
    named = stack.root.value.get("command", YamlNode(None)).value
    return named if isinstance(named, str) and named in RECIPES else "pretrain"


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Part ``[RECIPE] [KEY=VALUE …]`` into the recipe and the overrides.

    >>> split_arguments(["small", "train.steps=10"])
    ('small', ['train.steps=10'])

    Raises:
        MetalmError: For more than one recipe.
    """
    overrides = [argument for argument in arguments if OVERRIDE.match(argument)]
    recipes = [argument for argument in arguments if not OVERRIDE.match(argument)]
    if len(recipes) > 1:
        raise MetalmError(
            f"expected one recipe, got {' and '.join(recipes)}",
            where="command line",
            remedy="an override is KEY=VALUE without spaces, such as train.steps=100",
        )
    return (recipes[0] if recipes else None), overrides


def unreadable_recipe_problems(found: RecipeFile, overrides: Sequence[str] = ()) -> list[RecipeProblem]:
    """Problems of a recipe that is only extended: what stands in it is checked, what is missing is not."""
    stack, schema = merge_layers(None, found, overrides, {})
    checker = Checker(schema)
    checker.build(stack.root)
    return [problem for problem in checker.problems if not problem.message.startswith("missing")]


def _placed(found: Iterator[RecipeProblem], bad: set[str], root: YamlNode) -> Iterator[RecipeProblem]:
    """Problems with their places, leaving out those that rest on a value already found wrong."""
    for problem in found:
        keys = (problem.key, *problem.uses)
        if any(wrong == key or key.startswith(f"{wrong}.") for wrong in bad for key in keys):
            continue
        if any(wrong.startswith(f"{problem.key}.") for wrong in bad):
            continue
        places = (_provenance(root, key.split(".")).where for key in keys)
        where = problem.where or next((place for place in places if place), "")
        yield RecipeProblem(problem.key, problem.message, problem.remedy, where, problem.uses)


def _provenance(root: YamlNode, parts: Sequence[str | int]) -> Provenance:
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


def _given(node: YamlNode, path: str) -> Iterator[str]:
    for key, inner in node.value.items() if isinstance(node.value, dict) else ():
        if inner.value is not None:
            yield schema_types.join(path, key)
        yield from _given(inner, schema_types.join(path, key))


def _leaves(value: Any, parts: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*parts, key))
    elif _is_block(value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*parts, number))
    else:
        yield parts


def _is_block(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and item for item in value)


def _lines(value: dict[str, Any], indent: str, path: str) -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        inner_path, name = schema_types.join(path, key), to_flow_yaml(key)
        if isinstance(inner, dict) and inner:
            yield f"{indent}{name}:", ""
            yield from _lines(inner, indent + "  ", inner_path)
        elif _is_block(inner):
            yield f"{indent}{name}:", ""
            for number, item in enumerate(inner):
                nested = list(_lines(item, indent + "    ", schema_types.join(inner_path, number)))
                first, first_key = nested[0]
                yield f"{indent}  - {first.strip()}", first_key
                yield from nested[1:]
        else:
            yield f"{indent}{name}: {to_flow_yaml(inner)}", inner_path
