"""Old names of options and keys are errors that give the new names; the help groups the commands."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import typer

from metalm_cli.cli import app as tree
from metalm_cli.cli.renamed_options import RENAMED
from metalm_cli.common import registry
from metalm_cli.config import schema_types
from metalm_cli.config.schema.base import Section
from metalm_cli.config.schema.recipes import RECIPES
from metalm_cli.config.schema.tasks import DemonstrationOptions, TaskDataConfig, TemplateOptions
from metalm_cli.evaluation.resolve_settings import RECIPE_KEYS
from metalm_cli.tasks import Card
from metalm_cli.templates import PromptStyle
from metalm_cli.templates.template import TemplateFile


def sections(root: type[Section]) -> dict[type[Section], str]:
    """All sections of a schema, each with a dotted key below which it is."""
    by_section: dict[type[Section], str] = {root: ""}
    for key, section, *_ in schema_types.walk_keys(root):
        by_section.setdefault(section, key.rpartition(".")[0])
    return by_section


ROOTS: list[Any] = [*RECIPES.values(), Card, TemplateFile]
SECTIONS = {section: key for root in ROOTS for section, key in sections(root).items()}


@pytest.mark.parametrize("option", sorted(RENAMED))
@pytest.mark.parametrize("form", ["{} x", "{}=x"])
def test_an_old_option_is_an_error_that_gives_the_new_one(
    option: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tree.run(["evaluate", "model", *form.format(option).split()]) == 2
    assert f"option {option} is now {RENAMED[option]}" in capsys.readouterr().err


def test_no_command_has_an_option_of_an_old_name_and_some_command_has_each_new_one() -> None:
    options: set[str] = set()
    for name in registry.commands.names():
        command = tree.load_command(name)
        commands = list(command.commands.values()) if isinstance(command, typer.core.TyperGroup) else [command]
        options |= {option for entry in commands for p in entry.params for option in (*p.opts, *p.secondary_opts)}
    assert not options & set(RENAMED)
    assert set(RENAMED.values()) <= options


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_old_keys_are_not_keys_and_new_ones_are(section: type[Section]) -> None:
    assert not set(section.renamed) & set(section.model_fields)
    assert {*section.renamed.values(), *section.renamed_values} <= set(section.model_fields)


def test_every_old_key_of_a_recipe_is_an_error_that_gives_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    tried = 0
    for command, recipe in (("pretrain", "small"), ("finetune", "world")):
        for section, path in sections(RECIPES[command]).items():
            for old, new in section.renamed.items():
                key = schema_types.join_key(path.replace("NAME", "text"), old)
                assert tree.run(["recipe", "check", recipe, f"{key}=1"]) == 2
                assert (
                    f"this key is now {schema_types.join_key(path.replace('NAME', 'text'), new)}"
                    in capsys.readouterr().err
                )
                tried += 1
    assert tried >= 25


def test_the_help_groups_the_commands_by_folder() -> None:
    panels = {entry.name: tree.panel_of(entry) for entry in registry.commands.entries()}
    assert set(panels.values()) == set(tree.PANELS.values())
    assert panels["pretrain"] == panels["instruct"] == "Train"
    assert panels["tasks"] == panels["show"] == "Data, tasks and templates"


@pytest.mark.parametrize(
    "command",
    [
        ["recipe", "check", "world", "data.tasks=extras"],
        ["recipe", "check", "world", "data.tasks=[world, extras]"],
        ["templates", "lint", "--task", "extras"],
        ["data", "mirror", "extras"],
    ],
)
def test_the_old_name_of_a_group_is_an_error_that_gives_the_new_one(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tree.run(command) == 2
    assert "is now non_core" in capsys.readouterr().err


def test_notes_of_evaluations_name_the_present_keys() -> None:
    known = {**TemplateOptions.model_fields, **DemonstrationOptions.model_fields, **TaskDataConfig.model_fields}
    assert {TemplateOptions.renamed.get(key, DemonstrationOptions.renamed.get(key)) for key in RECIPE_KEYS} == set(
        RECIPE_KEYS.values()
    )
    assert {RECIPE_KEYS.get(key, key) for key in asdict(PromptStyle())} - set(known) == {"windows", "encoder"}
