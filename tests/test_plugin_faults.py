"""Plug-ins whose settings or objects are faulty: each is named, and none ends a command that does not use it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import example_metrics
from metalm_cli.evaluation.metrics.task_metrics import ChanceLevel, chance, metric_value
from metalm_cli.models.connectors import check_connector, make_connector
from metalm_cli.tasks import Example
from plugin_distributions import metalm, write_distribution

SETTINGS = """
from pydantic import Field
from metalm_cli.config.schema.base import Section


class Sound(Section):
    count: int = Field(ge=1, description="Number of documents.")


class Named(Section):
    name: str = Field(description="A name.")


class NoSection:
    pass
"""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folder on Python's path for modules; names that the test adds to registries are taken back."""
    for names in registry.KINDS.values():
        monkeypatch.setattr(names, "_entries", dict(names._entries))
    monkeypatch.setattr(example_metrics, "_load", example_metrics._load.__wrapped__)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "faulty_objects", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "name", "settings", "reason"),
    [
        ("objectives", "bad", "faulty_settings:NoSection", "not a subclass"),
        ("objectives", "bad", "faulty_settings:Missing", "has no attribute 'Missing'"),
        ("objectives", "bad", "no_such_module:Sound", "No module named 'no_such_module'"),
        ("objectives", "bad", "faulty_settings:Named", "declare the key name"),
        ("connectors", "a-b", "faulty_settings:Sound", "cannot be the name of a key"),
        ("connectors", "layers", "faulty_settings:Sound", "cannot be the name of a key"),
        ("data_sources", "config", "faulty_settings:Sound", "cannot be the name of a key"),
    ],
)
def test_faulty_settings_are_named_and_left_out(
    kind: str, name: str, settings: str, reason: str, tmp_path: Path
) -> None:
    register = f"def register(plugins):\n    plugins.{kind}.add({name!r}, 'a:b', settings={settings!r})\n"
    files = {"faulty_settings.py": SETTINGS, "faulty_plugin.py": register}
    write_distribution(tmp_path, "faulty", files, {"faulty": "faulty_plugin:register"})
    done = metalm(tmp_path, "recipe", "check", "small", site=tmp_path)
    assert (done.returncode, done.stdout) == (0, "small: ok\n")
    assert f"warning: the {registry.KINDS[kind].kind} {name} of faulty 1.0 is left out" in done.stderr
    assert reason in done.stderr


OBJECTS = """
import torch


def raises(text, reference):
    raise ValueError("no words")


def two(text, reference):
    return 2.0


def half(text, reference):
    return 1.0 if text == reference else 0.5


class Wide(torch.nn.Module):
    def __init__(self, width, target, extra=0):
        super().__init__()
        self.layer = torch.nn.Linear(width, target + extra)

    def forward(self, outputs):
        return self.layer(outputs)


NOT_A_COMMAND = 3
"""


def test_a_metric_that_fails_is_named(added: Path) -> None:
    (added / "faulty_objects.py").write_text(OBJECTS)
    for name in ("raises", "two", "half"):
        registry.metrics.add(name, f"faulty_objects:{name}", origin="faulty 1.0")
    example = Example("t", 0, {}, ("yes",))
    with pytest.raises(MetalmError, match=r"the metric raises of faulty 1\.0 fails") as error:
        metric_value("raises", ["no"], [example])
    assert error.value.why == "ValueError: no words; text 'no', reference 'yes'"
    with pytest.raises(MetalmError, match=r"the metric two of faulty 1\.0 fails") as error:
        metric_value("two", ["no"], [example])
    assert "it returns 2.0, expected a number of 0 to 1" in error.value.why
    assert metric_value("half", ["no", "yes"], [example, example]).value == 75.0


def test_the_chance_level_of_a_metric_is_the_score_of_the_options(added: Path) -> None:
    (added / "faulty_objects.py").write_text(OBJECTS)
    registry.metrics.add("half", "faulty_objects:half", origin="sound 1.0")
    examples = [
        Example("t", row, {}, (("no", "yes")[label],), label=label, options=("no", "yes"))
        for row, label in enumerate((1, 1, 1, 0))
    ]
    # A guess is right with 1 in one half and scores 0.5 in the other; `yes` is right for three of four.
    assert chance("half", examples) == ChanceLevel(75.0, 100 * (3 + 0.5) / 4)
    assert chance("accuracy", examples) == ChanceLevel(50.0, 75.0)
    assert chance("half", [Example("t", 0, {}, ("yes",))]) == ChanceLevel()


def test_a_connector_that_fails_is_named(added: Path) -> None:
    (added / "faulty_objects.py").write_text(OBJECTS)
    registry.connectors.add("wide", "faulty_objects:Wide", origin="faulty 1.0")
    assert make_connector({"kind": "wide"}, 3, 5)(torch.zeros(2, 3)).shape == (2, 5)
    with pytest.raises(MetalmError, match=r"the connector wide of faulty 1\.0 cannot be made") as error:
        make_connector({"kind": "wide", "depth": 3}, 3, 5)
    assert "unexpected keyword argument 'depth'" in error.value.why
    wide = make_connector({"kind": "wide", "extra": 1}, 3, 5)
    with pytest.raises(MetalmError, match="does not give one finite vector") as error:
        check_connector("wide", wide(torch.zeros(2, 3)), (2, 5))
    assert error.value.why == "got (2, 6), expected finite values of shape (2, 5)"
    with pytest.raises(MetalmError, match="does not give one finite vector"):
        check_connector("wide", torch.full((2, 5), torch.nan), (2, 5))
    check_connector("wide", torch.zeros(2, 5), (2, 5))
    with pytest.raises(MetalmError, match="no connector is named wild") as error:
        make_connector({"kind": "wild"}, 3, 5)
    assert error.value.remedy == "did you mean wide? metalm plugins lists all names"


def test_a_command_that_is_none_is_named(tmp_path: Path) -> None:
    register = "def register(plugins):\n    plugins.commands.add('bad', 'faulty_objects:NOT_A_COMMAND')\n"
    write_distribution(
        tmp_path,
        "faulty",
        {"faulty_objects.py": OBJECTS, "faulty_plugin.py": register},
        {"faulty": "faulty_plugin:register"},
    )
    done = metalm(tmp_path, "bad", site=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the command bad of faulty 1.0 is not a command" in done.stderr


SOURCE_PLUGIN = """
def register(plugins):
    plugins.data_sources.add(
        "counted", "counted_source:open_counted", description="Numbered documents.", settings="faulty_settings:Sound"
    )
    plugins.template_importers.add("lines", "counted_source:IMPORTER", description="a file of lines")
"""
SOURCE = """
from metalm_cli.data.sources.base import RandomAccessRows
from metalm_cli.data.sources.openers import OpenedRows
from metalm_cli.templates.importers.draft import TemplateImporter


class Counted(RandomAccessRows):
    def __init__(self, count):
        self.count = count

    @property
    def rows(self):
        return self.count

    def load(self, row):
        return {"text": f"document {row}"}

    def where(self, row):
        return f"document {row}"


def open_counted(source, context):
    if source.counted.count == 13:
        raise ValueError("thirteen")
    return OpenedRows(Counted(source.counted.count), "numbers") if source.counted.count < 100 else 3


IMPORTER = TemplateImporter(".txt", None)
"""
OPEN = """
import json
from metalm_cli.config.schema.data import DataConfig
from metalm_cli.data import open_corpus
from metalm_cli.errors import MetalmError
for count in (7, 13, 100):
    sources = [{"name": "n", "counted": {"count": count}}]
    data = DataConfig.model_validate({"sources": sources, "validation": {"documents": 0}})
    try:
        corpus = open_corpus(data, seed=0)
        reader = corpus.reader(lambda number: True)
        print(json.dumps([corpus.sources[0].kind, sorted(reader.get(number).text for number in range(7))]))
    except MetalmError as error:
        print(json.dumps([error.what, error.why]))
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    files = {"faulty_settings.py": SETTINGS, "counted_plugin.py": SOURCE_PLUGIN, "counted_source.py": SOURCE}
    return write_distribution(tmp_path, "counted", files, {"counted": "counted_plugin:register"})


def test_a_data_source_is_a_key_of_a_source(sources: Path) -> None:
    done = metalm(sources, site=sources, code=f"exec({OPEN!r})")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["counted", [f"document {row}" for row in range(7)]],
        ["the data source counted of counted 1.0 fails", "ValueError: thirteen"],
        ["the data source counted of counted 1.0 fails", "it returns int, expected OpenedRows"],
    ]


def test_the_recipe_schema_has_the_data_source(sources: Path) -> None:
    page = metalm(sources, "recipe", "schema", "--markdown", site=sources).stdout
    assert "At most one of `hub`, `path`, `world`, `counted`." in page
    assert "| `counted` | a mapping or null | `null` | Numbered documents. |" in page
    replaced = "data.sources=[{name: n, counted: {count: 0}}]"
    done = metalm(sources, "recipe", "check", "small", replaced, site=sources)
    assert done.returncode == 2
    assert "data.sources.0.counted.count: got 0, expected a whole number of at least 1" in done.stderr
    done = metalm(sources, "recipe", "check", "small", "data.sources.0.counted.count=5", site=sources)
    assert done.returncode == 0, done.stderr
    assert "data.sources.0.world" in done.stdout + done.stderr, "the note names the source that is dropped"


def test_an_importer_that_fails_in_the_sandbox_is_named(sources: Path) -> None:
    (sources / "words.txt").write_text("one\n")
    arguments = ["templates", "import", "lines", "words.txt", "--out", "out"]
    done = metalm(sources, *arguments, site=sources)
    assert done.returncode == 2
    assert "words.txt: the reading process failed: TypeError" in done.stderr
    assert not (sources / "out").exists()
