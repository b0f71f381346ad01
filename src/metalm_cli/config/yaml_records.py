"""YAML records other than recipes: task cards, templates, clusters. One schema, all problems at once."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

from metalm_cli.config.locate import display
from metalm_cli.config.recipe_errors import RecipeError, RecipeProblem
from metalm_cli.config.schema.base import Section
from metalm_cli.config.validate import Checker
from metalm_cli.config.yaml_nodes import MAX_BYTES, YamlNode, parse
from metalm_cli.errors import MetalmError

Record = TypeVar("Record", bound=Section)


def read_node(path: Path, kind: str) -> YamlNode:
    """A YAML file as marked values.

    Args:
        path: The file.
        kind: What it is, for messages (``task card``).

    Raises:
        MetalmError: It cannot be read, is too large, or is no YAML mapping.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MetalmError(f"a {kind} cannot be read", where=display(path), why=error.strerror or str(error)) from error
    if len(data) > MAX_BYTES:
        raise MetalmError(f"a {kind} of {len(data):,} bytes", where=display(path), why=f"the limit is {MAX_BYTES:,}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MetalmError(f"a {kind} is not UTF-8", where=display(path), why=str(error)) from error
    node = parse(text, display(path))
    if not isinstance(node.value, dict):
        raise MetalmError(f"a {kind} holds no mapping", where=display(path), remedy="write key: value lines")
    return node


def read_record(path: Path, schema: type[Record], kind: str) -> Record:
    """Read and check a YAML record.

    Args:
        path: The file.
        schema: What it must be.
        kind: What it is, for messages (``task card``).

    Raises:
        MetalmError: As :func:`read_node`; or all that does not fit the schema, each with its line.
    """
    return build_record(read_node(path, kind), schema, path.stem, kind)


def build_record(node: YamlNode, schema: type[Record], name: str, kind: str) -> Record:
    """The record that marked values hold.

    Raises:
        RecipeError: All that does not fit the schema, each with its line.
    """
    checker = Checker(schema)
    built = checker.build(node)
    if checker.problems or built is None:
        raise RecipeError(name, checker.problems or [RecipeProblem(name, "holds nothing")], kind)
    return cast(Record, built)
