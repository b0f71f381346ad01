"""Reading of studies: shipped ones by name, others by path."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common.paths import expand_user
from metalm_cli.common.registry import did_you_mean
from metalm_cli.config.locate import STUDIES, display, is_path, shipped_root
from metalm_cli.config.recipe_errors import RecipeError, RecipeProblem
from metalm_cli.config.yaml_nodes import YamlNode
from metalm_cli.config.yaml_records import build_record, read_node
from metalm_cli.errors import MetalmError
from metalm_cli.studies.check_names import name_problems
from metalm_cli.studies.schema import Scale, StudyFile

COPY = "study"
"""Stem of the copy of a study's file in the study's folder."""
DEMO = "demo"
"""Name of the study that ``metalm demo`` runs."""
WORLD = "world"
"""Name of the study that it runs where no pretrained encoder is installed, and ran in earlier versions."""


@dataclass(frozen=True)
class Study:
    """A study with its file.

    Args:
        file: Contents of the file.
        path: The file.
    """

    file: StudyFile
    path: Path

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.file.name

    @property
    def claims_sha256(self) -> str:
        """Hash of the claims with their expectations."""
        claims = [
            claim.model_dump(mode="json", exclude=None if claim.second_evaluation else {"second_evaluation"})
            for claim in self.file.claims  # without it, the hash is that of studies before this key existed
        ]
        return hashlib.sha256(json.dumps(claims, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def default_scale(self) -> str:
        """The first scale of the file."""
        return next(iter(self.file.scales))

    def scale(self, name: str) -> Scale:
        """Return a scale.

        Raises:
            MetalmError: The study has no scale of this name.
        """
        if name not in self.file.scales:
            raise MetalmError(
                f"the study {self.name} has no scale {name}",
                where=display(self.path),
                why=f"scales: {', '.join(self.file.scales)}",
                remedy=did_you_mean(name, list(self.file.scales)) or "choose one of these with --scale",
            )
        return self.file.scales[name]


def list_studies() -> list[str]:
    """Return the names of the shipped studies, sorted."""
    return sorted(path.stem for path in (shipped_root("recipes") / STUDIES).glob("*.yaml"))


def load_study(name_or_path: str | Path) -> Study:
    """Read a study.

    Args:
        name_or_path: The name of a shipped study, or a path, which ends in ``.yaml`` or starts with ``/``, ``./``,
            ``../`` or ``~/``.

    Raises:
        MetalmError: The study is unknown (the message suggests a similar name); or the file is not a study, has an
            invalid key, names an unknown arm, stage, evaluation or scale, or has stages that need each other (with
            file, line and key).
    """
    path = _find(str(name_or_path))
    node = read_node(path, "study")
    return Study(_build(node, path), path)


def _find(name: str) -> Path:
    """Return the file of a study."""
    if is_path(name):
        path = expand_user(name)
        if path.is_file():
            return path
        problem = "is a folder, not a study" if path.is_dir() else "not found"
        raise MetalmError(
            f"study {name} {problem}", where=display(path), remedy="give a YAML file or the name of a shipped study"
        )
    names = list_studies()
    if name in names:
        return shipped_root("recipes") / STUDIES / f"{name}.yaml"
    files = [file for file in (name, f"{name}.yaml") if Path(file).exists()]
    remedy = did_you_mean(name, names) or "metalm reproduce lists the studies; a path ends in .yaml or starts with ./"
    if files:
        remedy = f"a path ends in .yaml or starts with ./: ./{files[0]}"
    raise MetalmError(f"no study is named {name}", why=f"studies: {', '.join(names)}", remedy=remedy)


def _build(node: YamlNode, path: Path) -> StudyFile:
    """Build the contents of a file, and check what the schema alone cannot."""
    if "evaluations" not in node.value and "scales" not in node.value:
        raise MetalmError(
            "the file is not a study",
            where=display(path),
            why="it has no scales and no evaluations" if node.value else "it is empty",
            remedy="a study has name, description, scales, stages, evaluations and claims; docs/studies.md has an "
            "example",
        )
    file = build_record(node, StudyFile, path.stem, "study")
    problems = []
    if path.stem not in (file.name, COPY):
        remedy = f"rename the file to {file.name}.yaml, or change the name"
        problems.append(
            RecipeProblem("name", f"study {file.name} has the file name {path.name}", remedy, node.value["name"].where)
        )
    problems += name_problems(file, node)
    if problems:
        raise RecipeError(file.name, problems, "study")
    return file
