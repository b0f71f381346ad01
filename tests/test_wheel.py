"""The wheel, installed in an environment of its own and used outside a checkout, does what the checkout does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import metalm_cli
from metalm_cli.config.locate import shipped_names
from metalm_cli.evaluation.suites import list_suites, load_suite
from metalm_cli.provenance.published_training import read_published_table
from metalm_cli.runs.reference_curves.curve import curve_names
from metalm_cli.tasks.registry import Cards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).parents[1]
SHIPPED = {
    "src/metalm_cli": "metalm_cli",
    "recipes": "metalm_cli/shipped/recipes",
    "templates": "metalm_cli/shipped/templates",
}
"""Folders of the checkout, and where the wheel has them."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as an installer builds it; hatchling comes from this environment or from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--no-deps",
    ]
    built = subprocess.run([*pip, *isolation, "-w", folder, REPOSITORY], capture_output=True, text=True)
    if "hatchling" in built.stderr and "No matching distribution found" in built.stderr:
        pytest.skip("hatchling is not installed, and the package index does not answer")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


class Installation:
    """An environment with the wheel, and an empty folder and home to use it in.

    It sees the packages of this environment, but no ``.pth`` file of theirs, so not the checkout.

    Args:
        folder: Parent of all of them.
        wheel: The wheel.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self.bin, home = folder / "empty", folder / "env" / "bin", folder / "home"
        self.folder.mkdir()
        home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
        (self.site,) = (folder / "env" / "lib").glob("*/site-packages")
        (self.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("METALM_", "PYTHON", "XDG_"))
        }
        self.environment = {**inherited, "HOME": str(home), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}

    def run(self, *command: str, code: int = 0) -> str:
        """Run a program of the environment in the empty folder, and return its standard output."""
        program = [str(self.bin / command[0]), *command[1:]]
        process = subprocess.run(program, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert process.returncode == code, f"{' '.join(command)}\n{process.stdout[-3000:]}\n{process.stderr[-3000:]}"
        assert "Traceback" not in process.stderr
        return process.stdout

    def python(self, code: str) -> str:
        """Run Python code in the empty folder, and return its standard output."""
        return self.run("python", "-c", code)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    installation = Installation(tmp_path_factory.mktemp("installed"), wheel)
    place = installation.python("import metalm_cli; print(metalm_cli.__file__)").strip()
    assert Path(place) == installation.site / "metalm_cli" / "__init__.py"
    return installation


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    expected = {
        f"{place}/{path.relative_to(REPOSITORY / folder).as_posix()}"
        for folder, place in SHIPPED.items()
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name for name in archive.namelist() if not name.startswith(f"metalm-{metalm_cli.__version__}.dist-info/")
        }
    assert names == expected
    assert {"metalm_cli/provenance/published_training.yaml", "metalm_cli/reports/page.html.jinja"} <= names


def test_the_lists_are_those_of_the_checkout(installed: Installation) -> None:
    assert installed.run("metalm", "--version") == f"metalm {metalm_cli.__version__}\n"
    assert sorted(_column(installed.run("metalm", "recipe", "list"), 0)) == sorted(shipped_names())
    assert _column(installed.run("metalm", "suites", "list"), 0) == list_suites()
    assert set(_column(installed.run("metalm", "tasks", "list"), 1)) == set(Cards().names)
    code = (
        "from metalm_cli.evaluation.suites import list_suites, load_suite;"
        "from metalm_cli.runs.reference_curves.curve import curve_names;"
        "from metalm_cli.config.locate import shipped_root;"
        "print(*[load_suite(name).sha256 for name in list_suites()]);"
        "print(*curve_names());"
        "print(shipped_root('recipes'))"
    )
    hashes, curves, root = installed.python(code).splitlines()
    assert hashes.split() == [load_suite(name).sha256 for name in list_suites()]
    assert curves.split() == curve_names()
    assert Path(root) == installed.site / "metalm_cli" / "shipped" / "recipes"


def test_commands_that_read_data_of_the_package(installed: Installation) -> None:
    assert "docked" in installed.run("metalm", "templates", "show", "world_nli")
    assert "demo/gpt" in installed.run("metalm", "reproduce", "demo", "--dry-run")
    assert "learning_rate" in installed.run("metalm", "recipe", "show", "families/metalm")
    code = (
        "from metalm_cli.provenance.published_training import read_published_table;"
        "print(read_published_table().model_dump_json())"
    )
    assert installed.python(code) == f"{read_published_table().model_dump_json()}\n"


def test_the_demo_and_its_report_outside_a_checkout(installed: Installation) -> None:
    installed.run("metalm", "demo", "--quick", "--out", "demo")
    page = (installed.folder / "demo" / "report.html").read_text(encoding="utf-8")
    assert "figure-loss" in page
    (run, *_) = sorted(path.parent for path in (installed.folder / "demo").glob("*/recipe.yaml"))
    assert json.loads((run / "environment.json").read_bytes())["metalm"] == metalm_cli.__version__
    assert "page.html\n" in installed.run("metalm", "report", str(run), "--out", "page.html")
    assert (installed.folder / "page.html").stat().st_size > 50_000


def _column(table: str, index: int) -> list[str]:
    """Cells of a column of a table that was not printed to a terminal."""
    return [line.split("\t")[index] for line in table.splitlines()]
