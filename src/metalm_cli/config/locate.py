"""Where recipes are: paths, and the shipped names that work from a checkout and from a wheel alike."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.config.yaml_nodes import MAX_BYTES, YamlNode, parse
from metalm_cli.errors import MetalmError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*\Z")

FOUNDATION = "base"
"""File stem of recipes that others extend and that cannot be run by themselves."""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe file.

    Args:
        path: The file.
        name: The shipped name, or the file's stem.
        shipped: Whether it comes with the package.
    """

    path: Path
    name: str
    shipped: bool

    @property
    def foundation(self) -> bool:
        """Whether this is a shipped part of other recipes, not runnable by itself."""
        return self.shipped and self.path.stem == FOUNDATION

    @property
    def recorded(self) -> bool:
        """Whether a run wrote this file into its folder: its keys may be those of an earlier version."""
        return self.path.name == "recipe.yaml" and (self.path.parent / "environment.json").is_file()

    @property
    def display(self) -> str:
        """The path as messages show it: relative if it lies below the working directory."""
        return display(self.path)


def display(path: Path) -> str:
    """``path`` relative to the working directory if it lies below it, else absolute."""
    absolute = Path(os.path.abspath(path))
    try:
        return str(absolute.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(absolute)


def shipped_root(kind: str) -> Path:
    """Folder of what ships with the package, in a wheel and in an editable checkout.

    Args:
        kind: ``recipes``, ``templates``, …

    Raises:
        MetalmError: When the installation holds no such folder.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "shipped" / kind, package.parent.parent / kind):
        if folder.is_dir():
            return folder
    raise MetalmError(
        f"the shipped {kind} are missing from this installation",
        where=str(package),
        remedy="install metalm again",
    )


def is_path(recipe: str) -> bool:
    """Whether an argument is a path: it ends in ``.yaml`` or starts with ``/``, ``./``, ``../`` or ``~/``."""
    return recipe.endswith((".yaml", ".yml")) or recipe.startswith(("/", "./", "../", "~/"))


def shipped_names(*, foundations: bool = False) -> list[str]:
    """Names of the shipped recipes, sorted, those at the top first.

    Args:
        foundations: Include the parts that other recipes extend.
    """
    root = shipped_root("recipes")
    names = [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")]
    wanted = [name for name in names if foundations or name.rsplit("/", 1)[-1] != FOUNDATION]
    return sorted(wanted, key=lambda name: (name.count("/"), name))


def find_recipe(recipe: str, *, beside: Path | None = None, where: str = "") -> RecipeFile:
    """The file that a RECIPE argument or an ``extends`` key names.

    Args:
        recipe: A path, or a shipped name such as ``paper/language-1.3b``.
        beside: File whose folder relative paths start from; default the working directory.
        where: The place that names it, for messages.

    Raises:
        MetalmError: When there is no such file or name (with the nearest names), or a name that leaves its root.
    """
    if is_path(recipe):
        path = Path(recipe).expanduser()
        if beside is not None:
            path = beside.parent / path
        if path.is_file():
            return RecipeFile(path, path.stem, _ships(path))
        what = "is a folder, not a recipe" if path.is_dir() else "not found"
        raise MetalmError(
            f"recipe {recipe} {what}", where=where or display(path), remedy="give a YAML file or a shipped name"
        )
    if _NAME.match(recipe):
        path = shipped_root("recipes") / f"{recipe}.yaml"
        if path.is_file():
            return RecipeFile(path, recipe, True)
    raise _unknown_name(recipe, where)


def _ships(path: Path) -> bool:
    return path.resolve().is_relative_to(shipped_root("recipes").resolve())


def _unknown_name(recipe: str, where: str) -> MetalmError:
    names = shipped_names(foundations=True)
    short = {name.rsplit("/", 1)[-1]: name for name in names}
    near = difflib.get_close_matches(recipe, [*names, *short], n=1, cutoff=0.6)
    if Path(f"{recipe}.yaml").is_file():
        remedy = f"did you mean ./{recipe}.yaml?"
    elif near:
        remedy = f"did you mean {short.get(near[0], near[0])}?"
    elif Path(recipe).exists():
        remedy = f"a path starts with ./ or ends in .yaml: ./{recipe}"
    elif "=" in recipe:
        remedy = "an override is KEY=VALUE with a dotted key, such as train.steps=100"
    else:
        remedy = "metalm recipe list shows the names; a path ends in .yaml or starts with ./"
    return MetalmError(f"no shipped recipe is named {recipe}", where=where, remedy=remedy)


def read_recipe(found: RecipeFile, layer: int) -> YamlNode:
    """The marked values of a recipe file.

    Args:
        found: The file.
        layer: Number of the layer it is.

    Raises:
        MetalmError: When it cannot be read, is not UTF-8 or not YAML, is empty, or is not a mapping.
    """
    try:
        with found.path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MetalmError(
            "recipe cannot be read", where=found.display, why=error.strerror or type(error).__name__
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = f"{found.display}:{line}"
        raise MetalmError("recipe is not UTF-8 text", where=where, remedy="save it as UTF-8") from None
    node = parse(text, found.display, layer=layer)
    if not isinstance(node.value, dict):
        got = "nothing" if node.value is None else "a list" if isinstance(node.value, list) else "a single value"
        raise MetalmError(
            "a recipe is a mapping of keys to values",
            where=node.where,
            why=f"got {got}",
            remedy="start from metalm recipe show small",
        )
    return node
