"""Registries, and the loading of plug-ins: what is found, in which order, and what becomes of faulty ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metalm_cli.common import registry as registries
from metalm_cli.common.registry import plugins as loading
from metalm_cli.common.registry.plugins import Plugin, PluginLoader
from metalm_cli.common.registry.registry import Entry, Registry
from metalm_cli.errors import MetalmError
from plugin_distributions import write_distribution

BUILT_IN = {"mean": ("statistics:fmean", "arithmetic mean"), "median": ("statistics:median", "")}


def test_a_name_is_imported_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lazily_imported.py").write_text("class Outer:\n    value = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    aggregates = Registry("aggregate", BUILT_IN)
    aggregates.add("seven", "lazily_imported:Outer.value", description="7")
    assert "lazily_imported" not in sys.modules
    assert aggregates.load("seven") == 7
    assert aggregates.load("mean")([1, 2]) == 1.5
    assert aggregates.names() == ["mean", "median", "seven"]
    assert aggregates.entries()[0] == Entry("mean", "statistics:fmean", "metalm", "arithmetic mean")
    assert aggregates.entries()[2] == Entry("seven", "lazily_imported:Outer.value", "this program", "7")
    assert aggregates.load_settings("seven") is None
    monkeypatch.delitem(sys.modules, "lazily_imported")


def test_an_unknown_name_is_an_error_with_the_nearest_and_all_names() -> None:
    aggregates = Registry("aggregate", BUILT_IN)
    with pytest.raises(MetalmError) as error:
        aggregates.load("meen", where="suite.yaml:3")
    assert str(error.value) == (
        "no aggregate is named meen\n"
        "  where: suite.yaml:3\n"
        "  why: registered are mean, median\n"
        "  remedy: did you mean mean? metalm plugins lists all names"
    )
    with pytest.raises(MetalmError, match="no aggregate is named x") as error:
        Registry("aggregate").entry("x")
    assert (error.value.why, error.value.remedy) == ("registered are none", "metalm plugins lists all names")
    many = Registry("aggregate", {f"a{index}": ("statistics:mean", "") for index in range(45)})
    with pytest.raises(MetalmError) as error:
        many.load("b")
    assert error.value.why.endswith("a39 and 5 more")


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("mean", "statistics:mean", "already registered by metalm"),
        ("", "statistics:mean", "not a valid name"),
        ("a b", "statistics:mean", "not a valid name"),
        ("-a", "statistics:mean", "not a valid name"),
        (3, "statistics:mean", "not a valid name"),
        ("a", "statistics.mean", "no valid target"),
        ("a", "statistics:", "no valid target"),
        ("a", len, "no valid target"),
    ],
)
def test_what_cannot_be_registered_is_an_error(name: str, target: str, message: str) -> None:
    aggregates = Registry("aggregate", BUILT_IN)
    with pytest.raises(MetalmError, match=message):
        aggregates.add(name, target)
    assert aggregates.names() == ["mean", "median"]


def test_a_target_that_cannot_be_imported_names_who_registered_it() -> None:
    aggregates = Registry("aggregate")
    aggregates.add("gone", "no_such_module:x", settings="statistics:NoSuchClass", origin="foreign 1.0")
    with pytest.raises(MetalmError) as error:
        aggregates.load("gone")
    assert str(error.value) == (
        "the aggregate gone of foreign 1.0 cannot be imported\n"
        "  where: no_such_module:x\n"
        "  why: ModuleNotFoundError: No module named 'no_such_module'\n"
        "  remedy: repair, update or uninstall foreign 1.0"
    )
    with pytest.raises(MetalmError, match="cannot be imported") as error:
        aggregates.load_settings("gone")
    assert error.value.where == "statistics:NoSuchClass"


# -- plug-ins ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_plug_in_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the limit, so that the load of the machine changes no result."""
    monkeypatch.setattr(loading, "SLOW_SECONDS", 60.0)


def load(registered: dict[str, Registry]) -> tuple[list[Plugin], list[str]]:
    """Load the installed plug-ins into registries; also return the warnings."""
    warnings: list[str] = []
    loader = PluginLoader(registered, warnings.append)
    plugins = loader.load()
    assert loader.load() is plugins
    return plugins, warnings


def two_registries() -> dict[str, Registry]:
    return {"metrics": Registry("metric", BUILT_IN), "commands": Registry("command")}


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str, points: list[str]) -> None:
    """Install a distribution with one module, whose ``register`` is that of every entry point."""
    module = f"{name.replace('-', '_')}_registering"
    write_distribution(folder, name, {f"{module}.py": source}, dict.fromkeys(points, f"{module}:register"))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, module, raising=False)


ADDS = """
def register(plugins):
    plugins.metrics.add("{name}", "statistics:mode", description="{name}")
    plugins.commands.add("{name}", "statistics:fmean")
"""


def test_a_plug_in_adds_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "first-plugin", ADDS.format(name="mode"), ["first"])
    registered = two_registries()
    plugins, warnings = load(registered)
    assert plugins == [Plugin("first", "first-plugin 1.0", "first_plugin_registering:register")]
    assert warnings == []
    assert registered["metrics"].names() == ["mean", "median", "mode"]
    assert registered["metrics"].entries()[2] == Entry("mode", "statistics:mode", "first-plugin 1.0", "mode")
    assert registered["commands"].names() == ["mode"]


SECOND_FAILS = """
def register(plugins):
    plugins.commands.add("whole", "statistics:fmean")
    plugins.metrics.add("whole", "statistics:mode")
    {failure}
"""


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("raise RuntimeError('two\\nlines \\x1b[31m')", "RuntimeError: two"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("plugins.metrics.add('mean', 'statistics:mode')", "the metric mean is already registered by metalm"),
        ("plugins.metrics.add('whole', 'a:b')", "the metric whole is already registered by faulty 1.0"),
        ("plugins.metrics.add('x', 'a.b')", "the metric x has no valid target"),
        ("plugins.metrics.add('x', 'a:b', settings=3)", "the metric x has no valid target"),
        ("plugins.metrics.add('x', 'a:b', description=3)", "the description of the metric x is not a text"),
        ("plugins.tasks.add('x', 'a:b')", "AttributeError: 'Plugins' object has no attribute 'tasks'"),
    ],
)
def test_a_plug_in_that_fails_is_skipped_as_a_whole(
    failure: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "a", "faulty", SECOND_FAILS.format(failure=failure), ["faulty"])
    install(monkeypatch, tmp_path / "b", "sound", ADDS.format(name="sound"), ["sound"])
    registered = two_registries()
    plugins, warnings = load(registered)
    assert [(plugin.name, plugin.skipped) for plugin in plugins] == [("faulty", reason), ("sound", "")]
    assert registered["metrics"].names() == ["mean", "median", "sound"]
    assert registered["commands"].names() == ["sound"]
    assert warnings == [
        f"warning: the plug-in faulty of faulty 1.0 is skipped: {reason}\n"
        "  remedy: repair, update or uninstall faulty 1.0\n"
    ]


@pytest.mark.parametrize("value", ["no_such_module:register", "statistics:no_such_function", "statistics", "a b c"])
def test_an_entry_point_that_leads_nowhere_is_skipped(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(write_distribution(tmp_path, "lost", {}, {"lost": value})))
    plugins, warnings = load(two_registries())
    assert [bool(plugin.skipped) for plugin in plugins] == [True]
    assert warnings[0].startswith("warning: the plug-in lost of lost 1.0 is skipped: ")


def test_damaged_metadata_is_not_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_distribution(tmp_path, "bare", {"bare.py": ADDS.format(name="bare")}, {"b": "bare:register"})
    (tmp_path / "bare-1.0.dist-info" / "METADATA").unlink()
    write_distribution(tmp_path, "broken", {}, {})
    (tmp_path / "broken-1.0.dist-info" / "entry_points.txt").write_text("metalm.plugins\nno equals sign\n[\n")
    (tmp_path / "file-1.0.dist-info").write_text("not a folder")
    monkeypatch.syspath_prepend(str(tmp_path))
    registered = two_registries()
    plugins, _ = load(registered)
    assert registered["commands"].names() == ["bare"]
    assert [(plugin.name, plugin.origin) for plugin in plugins if not plugin.skipped] == [("b", "bare 1.0")]


def test_two_plug_ins_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "z", "zeta", ADDS.format(name="of-zeta"), ["same"])
    install(monkeypatch, tmp_path / "a", "alpha", ADDS.format(name="of-alpha"), ["same"])
    registered = two_registries()
    plugins, warnings = load(registered)
    assert registered["commands"].names() == ["of-alpha"], "the first distribution by name is loaded"
    assert [plugin.skipped for plugin in plugins] == ["", "alpha 1.0 has a plug-in of this name"]
    assert len(warnings) == 1
    assert "the plug-in same of zeta 1.0 is skipped" in warnings[0]


def test_two_plug_ins_that_add_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "a", "alpha", ADDS.format(name="same"), ["alpha"])
    install(monkeypatch, tmp_path / "z", "zeta", ADDS.format(name="same"), ["zeta"])
    plugins, _ = load(two_registries())
    assert [plugin.skipped for plugin in plugins] == ["", "the metric same is already registered by alpha 1.0"]


def test_of_two_versions_the_first_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, name in (("1.0", "old"), ("2.0", "new")):
        source = {f"both_{name}.py": ADDS.format(name=name)}
        write_distribution(tmp_path / version, "both", source, {"both": f"both_{name}:register"}, version)
        monkeypatch.syspath_prepend(str(tmp_path / version))
    registered = two_registries()
    plugins, warnings = load(registered)
    assert [plugin.origin for plugin in plugins] == ["both 2.0"]
    assert (registered["commands"].names(), warnings) == (["new"], [])


def test_a_slow_plug_in_is_loaded_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SLOW_SECONDS", 0.05)
    install(monkeypatch, tmp_path, "slow", f"import time\ntime.sleep(0.06)\n{ADDS.format(name='slow')}", ["slow"])
    registered = two_registries()
    plugins, warnings = load(registered)
    assert registered["commands"].names() == ["slow"]
    assert plugins[0].slow.endswith("ms to register, more than 50 ms")
    assert warnings[0].startswith("warning: the plug-in slow of slow 1.0 slows down every command: it takes ")


def test_a_plug_in_that_imports_torch_is_loaded_and_named(tmp_path: Path) -> None:
    files = {"torch.py": "", "heavy.py": f"import torch\n{ADDS.format(name='heavy')}"}
    write_distribution(tmp_path, "heavy", files, {"heavy": "heavy:register"})
    code = (
        "import sys; from metalm_cli.common import registry\n"
        "registry.plugins.SLOW_SECONDS = 10.0\n"
        "print(registry.commands.names()[-1], registry.metrics.names()[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(tmp_path))
    assert done.stdout == "heavy heavy\n"
    assert done.stderr == (
        "warning: the plug-in heavy of heavy 1.0 slows down every command: it imports torch\n"
        "  remedy: let heavy:register only register names, and import nothing else\n"
    )


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(folder), *(entry for entry in sys.path if entry)])
    return {**os.environ, "PYTHONPATH": path, **more}


def test_warnings_are_not_written_during_completion(tmp_path: Path) -> None:
    write_distribution(tmp_path, "lost", {}, {"lost": "no_such_module:register"})
    code = "from metalm_cli.common import registry; registry.metrics.names(); registry.commands.names()"
    for more, lines in (({}, 2), ({"_METALM_COMPLETE": "complete_bash"}, 0)):
        environ = environment(tmp_path, **more)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
        assert (done.returncode, done.stderr.count("\n")) == (0, lines)


def test_a_plug_in_may_use_the_registries_while_it_registers(tmp_path: Path) -> None:
    source = (
        "from metalm_cli.common import registry\n"
        "def register(plugins):\n"
        "    assert registry.commands.names() == registry.commands.names()\n"
        "    plugins.metrics.add('reentrant', 'a:b')\n"
    )
    write_distribution(tmp_path, "reentrant", {"reentrant.py": source}, {"reentrant": "reentrant:register"})
    code = "from metalm_cli.common import registry; print(registry.metrics.names()[-1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(tmp_path))
    assert (done.stdout, done.stderr) == ("reentrant\n", "")


def test_no_distribution_with_plug_ins_costs_no_parsing_of_metadata() -> None:
    code = (
        "import sys; from metalm_cli.common import registry; registry.metrics.names();"
        "print([name for name in ('importlib.metadata', 'email', 'torch', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(Path.cwd()))
    assert done.stdout == "[]\n"


def test_there_is_a_registry_for_each_attribute_of_plugins() -> None:
    assert list(registries.KINDS) == list(registries.Plugins.__annotations__)
    for registry in registries.KINDS.values():
        for entry in registry.entries():
            assert registry.load(entry.name) is not None
            assert entry.description, entry.name
