"""Locating recipes: paths, and names of the shipped recipes in a checkout or an installed wheel."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common.paths import check_regular, expand_user
from metalm_cli.config.yaml_nodes import MAX_BYTES, YamlNode, parse_yaml
from metalm_cli.errors import MetalmError

_SHIPPED_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*\Z")

BASE_STEM = "base"
"""File stem of base recipes: others extend them, and they cannot run by themselves."""

SUITES = "suites"
"""Folder of the shipped suites of tasks, below that of the shipped recipes."""

STUDIES = "studies"
"""Folder of the shipped studies, below that of the shipped recipes."""

REFERENCE = "reference"
"""Folder of the reference curves of the shipped recipes, below that of these."""

_OTHER_FOLDERS = (SUITES, STUDIES, REFERENCE)
"""Folders below that of the shipped recipes that hold no recipes."""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe file.

    Args:
        path: The file.
        name: The shipped name, or the file's stem.
        shipped: Whether the file is part of the package.
    """

    path: Path
    name: str
    shipped: bool

    @property
    def is_base(self) -> bool:
        """Whether this is a shipped base recipe, which others extend and which cannot run by itself."""
        return self.shipped and self.path.stem == BASE_STEM

    @property
    def is_run_record(self) -> bool:
        """Whether a run recorded this file in its folder; its keys may be those of an earlier version."""
        return self.path.name == "recipe.yaml" and (self.path.parent / "environment.json").is_file()

    @property
    def display(self) -> str:
        """The path for messages, relative to the working directory where possible."""
        return display(self.path)


def display(path: Path) -> str:
    """Return ``path`` relative to the working directory if it is inside, else absolute."""
    absolute = Path(os.path.abspath(path))
    try:
        return str(absolute.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(absolute)


def shipped_root(kind: str) -> Path:
    """Return a folder of data files shipped with the package, in a wheel or an editable checkout.

    Args:
        kind: ``recipes``, ``templates``, …

    Raises:
        MetalmError: The folder is missing from the installation.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "shipped" / kind, package.parent.parent / kind):
        if folder.is_dir():
            return folder
    raise MetalmError(
        f"the shipped {kind} are missing from this installation",
        where=str(package),
        remedy="reinstall metalm",
    )


def is_path(recipe: str) -> bool:
    """Return whether an argument is a path: ends in ``.yaml``, or starts with ``/``, ``./``, ``../`` or ``~/``."""
    return recipe.endswith((".yaml", ".yml")) or recipe.startswith(("/", "./", "../", "~/"))


def shipped_names(*, include_bases: bool = False) -> list[str]:
    """Return the names of the shipped recipes, sorted, top-level ones first.

    Args:
        include_bases: Include base recipes, which other recipes extend.
    """
    root = shipped_root("recipes")
    paths = [path.relative_to(root) for path in root.rglob("*.yaml")]
    names = [path.with_suffix("").as_posix() for path in paths if path.parts[0] not in _OTHER_FOLDERS]
    selected = [name for name in names if include_bases or name.rsplit("/", 1)[-1] != BASE_STEM]
    return sorted(selected, key=lambda name: (name.count("/"), name))


def find_recipe(recipe: str, *, beside: Path | None = None, where: str = "") -> RecipeFile:
    """Find the file of a RECIPE argument or an ``extends`` key.

    Args:
        recipe: A path, or a shipped name such as ``paper/language-1.3b``.
        beside: File in whose folder relative paths start; default the working directory.
        where: Location of the reference, for messages.

    Raises:
        MetalmError: No such file or name (the message lists the nearest names), or the name leaves the recipe folder.
    """
    if is_path(recipe):
        path = expand_user(recipe)
        if beside is not None:
            path = beside.parent / path
        if path.is_file():
            return RecipeFile(path, path.stem, _is_shipped(path))
        problem = "is a folder, not a recipe" if path.is_dir() else "not found"
        raise MetalmError(
            f"recipe {recipe} {problem}", where=where or display(path), remedy="give a YAML file or a shipped name"
        )
    if _SHIPPED_NAME.match(recipe) and recipe.split("/")[0] not in _OTHER_FOLDERS:
        path = shipped_root("recipes") / f"{recipe}.yaml"
        if path.is_file():
            return RecipeFile(path, recipe, True)
    raise _unknown_name_error(recipe, where)


def _is_shipped(path: Path) -> bool:
    return path.resolve().is_relative_to(shipped_root("recipes").resolve())


def _unknown_name_error(recipe: str, where: str) -> MetalmError:
    names = shipped_names(include_bases=True)
    by_stem = {name.rsplit("/", 1)[-1]: name for name in names}
    suggestions = difflib.get_close_matches(recipe, [*names, *by_stem], n=1, cutoff=0.6)
    if Path(f"{recipe}.yaml").is_file():
        remedy = f"did you mean ./{recipe}.yaml?"
    elif suggestions:
        remedy = f"did you mean {by_stem.get(suggestions[0], suggestions[0])}?"
    elif Path(recipe).exists():
        remedy = f"a path starts with ./ or ends in .yaml: ./{recipe}"
    elif "=" in recipe:
        remedy = "an override is KEY=VALUE with a dotted key, such as train.steps=100"
    else:
        remedy = "metalm recipe list shows the names; a path ends in .yaml or starts with ./"
    return MetalmError(f"no shipped recipe is named {recipe}", where=where, remedy=remedy)


def read_recipe(recipe_file: RecipeFile, layer: int) -> YamlNode:
    """Read a recipe file into YAML nodes with locations.

    Args:
        recipe_file: The file.
        layer: Layer number of its values.

    Raises:
        MetalmError: The file cannot be read, is not UTF-8 or YAML, is empty, or is not a mapping.
    """
    try:
        check_regular(recipe_file.path)
        with recipe_file.path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MetalmError(
            "cannot read the recipe", where=recipe_file.display, why=error.strerror or type(error).__name__
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = f"{recipe_file.display}:{line}"
        raise MetalmError("recipe is not UTF-8 text", where=where, remedy="save it as UTF-8") from None
    node = parse_yaml(text, recipe_file.display, layer=layer)
    if not isinstance(node.value, dict):
        got = "nothing" if node.value is None else "a list" if isinstance(node.value, list) else "a single value"
        raise MetalmError(
            "the recipe is not a mapping of keys to values",
            where=node.where,
            why=f"got {got}",
            remedy="use the output of metalm recipe show small as a start",
        )
    return node
