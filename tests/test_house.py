"""Repository rules: imports between packages, tracked files, file sizes, links, and the commands of the README."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

HOUSE = Path(__file__).resolve().parent.parent
PACKAGE = HOUSE / "src" / "metalm_cli"
OPEN_TO_ALL = {"errors", "common"}
LIGHT_ROOMS = ("cli", "config", "miniworld", "sessions")
HEAVY = {"torch", "transformers"}
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{path.name}" for path in HOUSE.glob("docs/*.md")),
]


# -- rooms ------------------------------------------------------------------------------------------------------------


def rooms_of(page: str) -> dict[str, set[str]]:
    """Rooms (top-level packages) that each room may import, from the table in the architecture page."""
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\| ([^|]*) \|$", page, flags=re.MULTILINE)
    return {room: set(re.findall(r"\w+", allowed)) for room, allowed in rows}


def inner_folders_of(page: str) -> dict[str, set[str]]:
    """Sibling folders that each inner folder may import, from the table in the architecture page."""
    rows = re.findall(r"^\| `([\w/]+/[\w/]+)/` \| ([^|]*) \|$", page, flags=re.MULTILINE)
    return {folder: set(re.findall(r"[\w/]+", allowed)) for folder, allowed in rows}


def imports(source: str) -> Iterator[str]:
    """Dotted names that a module imports at any level, including imports for type checkers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def trespasses(room: str, source: str, allowed: set[str]) -> list[str]:
    """Imports of rooms that a room may not import."""
    ours = [name.split(".")[1] for name in imports(source) if name.startswith("metalm_cli.")]
    return sorted({other for other in ours if (PACKAGE / other).is_dir()} - allowed - {room} - OPEN_TO_ALL)


def eager(source: str) -> set[str]:
    """Packages that a module imports when it is imported, so not those inside functions or for type checkers."""
    packages: set[str] = set()
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            packages.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
        pending.extend(ast.iter_child_nodes(node))
    return packages


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


ARCHITECTURE = (HOUSE / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = rooms_of(ARCHITECTURE)
INNER = inner_folders_of(ARCHITECTURE)
MAX_FILES = 15
"""Maximum number of Python files in a folder of the package, without ``__init__.py``."""


def test_the_table_names_the_rooms_that_exist() -> None:
    exist = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(ROOMS) == exist
    assert set().union(*ROOMS.values()) <= exist


def test_the_checks_find_what_they_look_for() -> None:
    source = "def f():\n    from metalm_cli.training.trainer import Trainer\n    import torch\n"
    assert trespasses("data", source, {"sessions"}) == ["training"]
    assert trespasses("cli", source, {"training"}) == []
    assert eager(source) == set()
    guarded = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nclass A:\n    import transformers\n"
    )
    assert eager(guarded) == {"typing", "transformers"}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    imports_by_file = {
        path.name: trespasses(room, path.read_text(encoding="utf-8"), ROOMS[room]) for path in modules(room)
    }
    assert {name: others for name, others in imports_by_file.items() if others} == {}


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_rooms_import_no_heavy_package(room: str) -> None:
    heavy_by_file = {path.name: eager(path.read_text(encoding="utf-8")) & HEAVY for path in modules(room)}
    assert {name: heavy for name, heavy in heavy_by_file.items() if heavy} == {}


def folder_of(module: str) -> str:
    """Folder of a module of the package, below the package: ``data/examples``."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    while not (path.is_dir() or path.with_suffix(".py").is_file()):
        path = path.parent
    return (path if path.is_dir() else path.parent).relative_to(PACKAGE).as_posix()


def inner_trespasses(folder: str, source: str, allowed: set[str]) -> list[str]:
    """Sibling folders of the same room that a file in an inner folder imports without permission."""
    room = folder.partition("/")[0]
    siblings = {
        other.removeprefix(f"{room}/")
        for name in imports(source)
        if name.startswith(f"metalm_cli.{room}.") and (other := folder_of(name)) not in (room, folder)
    }
    return sorted(siblings - allowed)


def test_the_inner_table_names_the_inner_folders_that_exist() -> None:
    exist = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/*/**/__init__.py")}
    assert set(INNER) == exist
    assert {f"{folder.partition('/')[0]}/{other}" for folder in INNER for other in INNER[folder]} <= exist


@pytest.mark.parametrize("folder", sorted(INNER))
def test_an_inner_folder_imports_only_what_the_table_allows(folder: str) -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in (PACKAGE / folder).glob("*.py")}
    problems = {name: inner_trespasses(folder, source, INNER[folder]) for name, source in files.items()}
    assert {name: others for name, others in problems.items() if others} == {}


def test_a_folder_holds_at_most_fifteen_files() -> None:
    sizes = {
        folder.relative_to(PACKAGE).as_posix(): len([path for path in folder.glob("*.py") if path.stem != "__init__"])
        for folder in [PACKAGE, *PACKAGE.rglob("*")]
        if folder.is_dir()
    }
    assert {folder: size for folder, size in sizes.items() if size > MAX_FILES} == {}


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Modules that each module imports at any level, without imports for type checkers.

    Args:
        sources: Source text of each module by dotted name.
    """
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        graph[module] = set()
        pending: list[ast.AST] = [ast.parse(source)]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                pending.extend(node.orelse)
                continue
            if isinstance(node, ast.Import):
                graph[module] |= {alias.name for alias in node.names} & set(sources)
            elif isinstance(node, ast.ImportFrom) and node.module:
                targets = {f"{node.module}.{alias.name}" for alias in node.names} & set(sources)
                graph[module] |= targets or {node.module} & set(sources)
            pending.extend(ast.iter_child_nodes(node))
        graph[module].discard(module)
    return graph


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules of an import cycle; empty if there is none."""
    import graphlib

    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_there_are_no_import_circles() -> None:
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    sources = {name.removesuffix(".__init__"): path.read_text(encoding="utf-8") for path, name in names.items()}
    assert circles(import_graph(sources)) == []


def test_import_circles_are_recognised() -> None:
    sources = {"a": "def f():\n    from b import g\n", "b": "import c\n", "c": "from a import f\n"}
    assert len(circles(import_graph(sources))) == 4
    guarded = {**sources, "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import f\n"}
    assert circles(import_graph(guarded)) == []


def test_the_tree_of_the_architecture_page_captions_every_folder() -> None:
    tree = re.search(r"```text\nsrc/metalm_cli/\n(.*?)```", ARCHITECTURE, flags=re.DOTALL)
    assert tree is not None
    captioned, parents = [], []
    for line in tree[1].splitlines():
        match = re.fullmatch(r"((?:  )+)(\w+)/ +(\S.*)", line)
        assert match, line
        parents[len(match[1]) // 2 - 1 :] = [match[2]]
        captioned.append("/".join(parents))
    exist = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")} - {"."}
    assert sorted(captioned) == sorted(exist)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, metalm_cli; print(sorted({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# -- what is in the repository ----------------------------------------------------------------------------------------


@cache
def tracked() -> tuple[Path, ...]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(path for name in listed.stdout.split("\0") if name and (path := HOUSE / name).is_file())


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


# The strings are split, so that this file does not contain them.
FORBIDDEN = ("/wo" + "rk/", "/ro" + "ot/", "." + "library", "pypi" + ".org", "python" + "hosted", "/opt/" + "pypi")
ONE_MACHINE = "/t" + "mp/"
NEIGHBOUR = "sha" + "red/"


@pytest.mark.skipif(not tracked(), reason="not a git checkout")
def test_the_repository_names_no_machine() -> None:
    hits = []
    for path in tracked():
        name, text = path.relative_to(HOUSE).as_posix(), text_of(path)
        forbidden = list(FORBIDDEN)
        if not name.startswith("tests/"):
            forbidden.append(ONE_MACHINE)
        if name != ".ci/run":
            forbidden += ["../" + NEIGHBOUR.rstrip("/")]
        hits += [f"{name}: {word}" for word in forbidden if word in text]
    assert hits == []


@pytest.mark.skipif(not tracked(), reason="not a git checkout")
def test_nothing_large_or_generated_is_tracked() -> None:
    large = [path.name for path in tracked() if path.stat().st_size > 300_000]
    generated = [path.name for path in tracked() if path.suffix in {".pyc", ".safetensors", ".bin", ".pt", ".log"}]
    assert (large, generated) == ([], [])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_can_be_read_at_once(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 400
    tree = ast.parse("\n".join(lines))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [function.name for function in functions if (function.end_lineno or 0) - function.lineno >= 90] == []


# -- pages ------------------------------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    text = (HOUSE / page).read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (HOUSE / page).parent / name if name else HOUSE / page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_files_and_tests_that_pages_name_exist(page: str) -> None:
    text = (HOUSE / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|src|docs|recipes|benchmarks|examples)/[\w./-]+\.\w+)(?:::(\w+))?`", text)
    missing = [
        f"{name}::{test}" if test else name
        for name, test in named
        if not (HOUSE / name).is_file() or (test and f"def {test}(" not in (HOUSE / name).read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_the_changelog_has_this_version() -> None:
    import metalm_cli

    changelog = (HOUSE / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {metalm_cli.__version__}" in changelog or "## Unreleased" in changelog
    assert f'version = "{metalm_cli.__version__}"' in (HOUSE / "pyproject.toml").read_text(encoding="utf-8")


def test_the_license_names_no_owner() -> None:
    text = (HOUSE / "LICENSE").read_text(encoding="utf-8")
    assert text.lstrip().startswith("Apache License")
    assert "Copyright [yyyy] [name of copyright owner]" in text


def test_constraints_pin_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    for file, wanted in (
        ("constraints.txt", [*project["dependencies"], *extras]),
        ("constraints-min.txt", project["dependencies"]),
    ):
        lines = (HOUSE / file).read_text(encoding="utf-8").splitlines()
        pins = {normal(line) for line in lines if re.match(r"[\w.-]+==[\w.]+(\s|$)", line)}
        assert {normal(requirement) for requirement in wanted} - pins == set(), file
        assert all(not line or line.startswith("#") or "==" in line for line in lines), file


def normal(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


# -- README -----------------------------------------------------------------------------------------------------------


def readme_commands(program: str) -> list[str]:
    """Lines in shell blocks of the README that run ``program``; continuation lines are joined."""
    text = (HOUSE / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if shlex.split(line, comments=True)[:1] == [program]]


def words(command: str) -> list[str]:
    """Arguments of a command line, without the program."""
    return shlex.split(command, comments=True)[1:]


def test_readme_shows_the_two_commands_first() -> None:
    make_commands = [words(command) for command in readme_commands("make")]
    assert make_commands[:2] == [["demo"], ["test"]]
    targets = set(re.findall(r"^(\w+):.*## ", (HOUSE / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {target for command in make_commands for target in command if "=" not in target} <= targets


def test_readme_is_short() -> None:
    assert len((HOUSE / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_walks_have_at_most_twelve_steps_through_files_that_exist() -> None:
    section = ARCHITECTURE.partition("## Two walks")[2].partition("\n## ")[0]
    walks = [re.findall(r"^(\d+)\. ", walk, flags=re.MULTILINE) for walk in section.split("A question of")]
    assert [len(steps) for steps in walks] == [12, 10]
    files = re.findall(r"`([\w/]+\.py)`", section)
    assert len(files) >= 20
    assert [name for name in files if not (PACKAGE / name).is_file()] == []


def test_readme_shows_commands() -> None:
    assert len(readme_commands("metalm")) >= 5


# -- configuration that ships -----------------------------------------------------------------------------------------


def test_accelerate_takes_the_fsdp2_configuration() -> None:
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    file = HOUSE / "recipes" / "accelerate" / "fsdp2.yml"
    config = ClusterConfig.from_yaml_file(str(file))
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= known
    assert config.fsdp_config["fsdp_version"] == 2
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["mixed_precision"] == "no"
