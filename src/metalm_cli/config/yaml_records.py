"""Reading of YAML records other than recipes (task cards, templates, clusters), with all problems in one error."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

from metalm_cli.common.paths import check_regular
from metalm_cli.config.locate import display
from metalm_cli.config.recipe_errors import RecipeError, RecipeProblem
from metalm_cli.config.schema.base import Section
from metalm_cli.config.validate import SchemaChecker
from metalm_cli.config.yaml_nodes import MAX_BYTES, YamlNode, parse_yaml
from metalm_cli.errors import MetalmError

Record = TypeVar("Record", bound=Section)


def read_node(path: Path, kind: str) -> YamlNode:
    """Read a YAML file into nodes with locations.

    Args:
        path: The file.
        kind: Kind of the record, for messages (``task card``).

    Raises:
        MetalmError: The file cannot be read, is too large, or is not a YAML mapping.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MetalmError(f"cannot read the {kind}", where=display(path), why=error.strerror or str(error)) from error
    if len(data) > MAX_BYTES:
        raise MetalmError(
            f"the {kind} is too large",
            where=display(path),
            why=f"{path.stat().st_size:,} bytes, the limit is {MAX_BYTES:,}",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MetalmError(f"the {kind} is not UTF-8 text", where=display(path), why=str(error)) from error
    node = parse_yaml(text, display(path))
    if not isinstance(node.value, dict):
        raise MetalmError(f"the {kind} is not a mapping", where=display(path), remedy="write key: value lines")
    return node


def read_record(path: Path, schema: type[Record], kind: str) -> Record:
    """Read and check a YAML record.

    Args:
        path: The file.
        schema: Schema of the record.
        kind: Kind of the record, for messages (``task card``).

    Raises:
        MetalmError: As :func:`read_node`; or the record does not match the schema (all problems, each with its line).
    """
    return build_record(read_node(path, kind), schema, path.stem, kind)


def build_record(node: YamlNode, schema: type[Record], name: str, kind: str) -> Record:
    """Build a record from YAML nodes.

    Raises:
        RecipeError: The record does not match the schema; lists all problems, each with its line.
    """
    checker = SchemaChecker(schema)
    record = checker.build(node)
    if checker.problems or record is None:
        raise RecipeError(name, checker.problems or [RecipeProblem(name, "is empty")], kind)
    return cast(Record, record)
