"""Importers: twelve real defects are refused, other templates are imported, and hostile files have no effect."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards
from metalm_cli.templates import read_templates
from metalm_cli.templates.importers import ImportReport, import_templates, sandbox
from metalm_cli.templates.importers.draft import ImportRefused, as_jinja_string, as_jinja_text, short_name
from metalm_cli.templates.importers.flan import parse_patterns, to_jinja
from metalm_cli.templates.importers.importer import MAX_FILE_BYTES
from metalm_cli.templates.render import render
from metalm_cli.templates.template import Template

FIXTURES = Path(__file__).parent / "fixtures"
ENTAILED = {"premise": "sentence1", "hypothesis": "sentence2"}


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return {name: Cards()[name] for name in ("rte", "anli_r1", "cb", "story_cloze", "cola")}


def import_and_read(
    format: str, path: Path, out: Path, cards: dict[str, Card]
) -> tuple[ImportReport, dict[str, list[Template]]]:
    report = import_templates(format, path, out, cards)
    return report, {file.name: read_templates(out / f"{file.name}.yaml").templates for file in report.files}


# -- FLAN -------------------------------------------------------------------------------------------------------------


def test_the_twelve_real_defects_are_found_and_nothing_else(tmp_path: Path, cards: dict[str, Card]) -> None:
    report, files = import_and_read("flan", FIXTURES / "flan_defects.txt", tmp_path / "out", cards)
    refused = {(origin.split()[-1], name): reason.partition(":")[0] for origin, name, reason in report.refused}
    stray = {("rte", index) for index in (2, 3, 4)} | {(key, index) for key in ("anli", "cb") for index in (1, 2, 3)}
    assert refused == {
        **{(key, f"flan-{index}"): "stray-n" for key, index in stray},
        ("story_cloze", "flan-2"): "target-in-input",
        ("story_cloze", "flan-3"): "target-in-input",
        ("cola", "flan-2"): "duplicate",
    }
    assert {name: len(templates) for name, templates in files.items()} == {
        "rte": 3,
        "anli": 1,
        "cb": 1,
        "story_cloze": 2,
        "cola": 2,
    }
    assert [template.inverted for template in files["rte"]] == [False, False, True]
    assert files["rte"][2].target == "{{ premise }}"
    assert files["story_cloze"][0].input == "{{ story }}\n\nWhich line comes last?\n{{ options }}"
    assert {file.name: file.card for file in report.files}["anli"] == "anli_r1"
    assert all(not file.notes for file in report.files)


def test_fields_of_unknown_keys_are_left_and_reported(tmp_path: Path, cards: dict[str, Card]) -> None:
    path = tmp_path / "templates.py"
    path.write_text(
        'PATTERNS = {"new_set": [("Say it of {thing}: {", "{word}"), ("Guess what has {word}", "{thing}")]}\n'
    )
    report, files = import_and_read("flan", path, tmp_path / "out", cards)
    assert [(template.input, template.target, template.inverted) for template in files["new_set"]] == [
        ("Say it of {{ thing }}: {{ '{' }}", "{{ answer }}", False),
        ("Guess what has {{ answer }}", "{{ thing }}", True),
    ]
    assert report.files[0].notes == (("", "no matching card: field names are unchanged (thing)"),)


def test_markers_become_fields_and_other_braces_stay() -> None:
    assert to_jinja("{a} { {} {b c} {{a}}", {"a": "x"}) == "{{ x }} { {} {b c} {{ '{' }}{{ x }}}"
    assert as_jinja_text("{% x %} {# y #} {{ z }} {") == "{{ '{' }}% x %} {{ '{' }}# y #} {{ '{' }}{ z }} {{ '{' }}"
    for text in ("{% x %} {# y #} {{ z }} {", "}} {{{ %} {", "plain"):
        for write in (as_jinja_text, as_jinja_string):
            assert render(example(), Template(name="one", input=write(text) + "{{ task }}")).input == f"{text}set"
    assert short_name("../../etc/passwd") == "etc-passwd"
    assert short_name("???") == "unnamed"


def example() -> Any:
    from metalm_cli.tasks import Example

    return Example("set", 0, {}, ("yes",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import os\nos.getcwd()\nPATTERNS = {}", "line 2 is a call"),
        ('PATTERNS = {"a": [(str(1), "{answer}")]}', "never executed"),
        ("def f():\n    pass\nPATTERNS = {}", "missing: PATTERNS"),
        ("PATTERNS = {'a': [('x', 'y')]}\nfor k in PATTERNS:\n    PATTERNS[k] = 1\n", "not a literal"),
        ("PATTERNS = {'a': [('x' * 9, 'y')]}\n", "not a literal"),
        ("PATTERNS = {'a': [other('x')]}\n", "not a literal"),
        ("PATTERNS = {", "not valid Python"),
        ("PATTERNS = " + "[" * 5000 + "]" * 5000, "not valid Python"),
        ("OTHER = {}", "missing: PATTERNS"),
        ('PATTERNS = {"a": ["{answer}"]}', "is not a list of"),
        ('PATTERNS = {"a": []}', "is not a list of"),
    ],
)
def test_files_not_in_flans_format_are_refused(text: str, why: str) -> None:
    with pytest.raises(ImportRefused, match=why):
        parse_patterns(text)


def test_literals_beside_the_patterns_are_passed_over() -> None:
    text = '"""Words."""\nN = 3\nPATTERNS: dict = {"a": [("{x}", "{y}")]}\n'
    assert parse_patterns(text) == {"a": {"flan-0": ("{x}", "{y}")}}


SECOND_VERSION = """
import copy, dataclasses
from made import up
PATTERNS = {"a": [("Say " + "{x}" "!\\n", "{answer}")], "b": list((("{y}", "{x}"),))}
PATTERNS["c"] = PATTERNS["a"]
PATTERNS.update({"d": [("{x}?".replace("?", "."), "{answer}")]})
OTHERS = copy.deepcopy(PATTERNS)
for key in OTHERS:
  OTHERS[key] = up.change(OTHERS[key])

@dataclasses.dataclass
class Shot:
  inputs: str
  targets: str
  inputs_prefix: str = ""
  x_y_delimiter: str = "\\n"
  targets_prefix: str = ""
  @property
  def both(self):
    return self.inputs + self.targets

FEWSHOT_PATTERNS = {"a": [Shot("{x}", targets="{answer}", inputs_prefix="Q: ", targets_prefix="A: ")]}
"""


def test_flans_second_version_is_read_without_running_it(tmp_path: Path) -> None:
    assert parse_patterns(SECOND_VERSION) == {
        "a": {"flan-0": ("Say {x}!\n", "{answer}"), "few-shot-0": ("Q: {x}\nA: ", "{answer}")},
        "b": {"flan-0": ("{y}", "{x}")},
        "c": {"flan-0": ("Say {x}!\n", "{answer}")},
        "d": {"flan-0": ("{x}.", "{answer}")},
    }
    (tmp_path / "templates.py").write_text(SECOND_VERSION)
    _, files = import_and_read("flan", tmp_path / "templates.py", tmp_path / "out", {})
    few_shot = files["a"][1]
    row = type(example())("set", 0, {"x": "one"}, ("two",))
    assert (render(row, few_shot).input, render(row, few_shot).target) == ("Q: one\nA:", "two")


# -- promptsource and Natural Instructions ----------------------------------------------------------------------------


def test_promptsource(tmp_path: Path, cards: dict[str, Card]) -> None:
    report, files = import_and_read("promptsource", FIXTURES / "promptsource.yaml", tmp_path / "out", cards)
    first, second = files["rte"][:2]
    assert first.input == "{{premise}}\nMust one grant that {{ hypothesis }} Yes or no?"
    assert (first.name, first.target, first.inverted) == ("must-one-grant-it", "{{ answer }}", False)
    assert first.allow == ["options-not-listed"]
    assert (second.target, second.inverted) == ("{{ hypothesis }}", True)
    assert [(name, why.partition(":")[0]) for _, name, why in report.refused] == [
        ("no-separator", "no-separator"),
        ("the-wrong-way-round", "labels-swapped"),
    ]
    assert files["rte"][2].input.count("row.") == 1


def test_natural_instructions(tmp_path: Path, cards: dict[str, Card]) -> None:
    _, files = import_and_read("natural-instructions", FIXTURES, tmp_path / "out", cards)
    plain, with_examples = files["task901_made_up_colours"]
    row = type(example())("set", 0, {"input": "snow"}, ("white",))
    definition = (
        "You are told what a thing is. Name its usual colour, in one word; sets such as {{red, blue}} are not wanted."
    )
    assert render(row, plain).input == f"{definition}\n\nInput: snow\nOutput:"
    examples = (
        "Example 1\nInput: grass in spring\nOutput: green\nWhy: Fresh grass is green.\n\n"
        "Example 2\nInput: coal\nOutput: black\n\nNow complete this one."
    )
    assert render(row, with_examples).input == f"{definition}\n\n{examples}\nInput: snow\nOutput:"
    assert render(row, with_examples).target == "white"


def test_real_natural_instructions(tmp_path: Path, data_root: Path) -> None:
    folder = data_root / "natural_instructions" / "tasks"
    report = import_templates("natural-instructions", folder, tmp_path / "out", {})
    assert len(report.files) == len(list(folder.glob("*.json")))
    assert report.refused == []


# -- hostile files ----------------------------------------------------------------------------------------------------

PROMPTS_HEAD = "dataset: glue\nsubset: rte\ntemplates:\n"
PROMPTS_TAIL = " {{ sentence1 }} {{ sentence2 }} {{ answer_choices | join(', ') }} ||| {{ answer_choices[label] }}"


def promptsource_file(**texts: str) -> str:
    """Content of a promptsource file with these templates."""
    entries = [
        f"  {name}: !Template {{name: {name}, answer_choices: null, jinja: {json.dumps(text + PROMPTS_TAIL)}}}\n"
        for name, text in texts.items()
    ]
    return PROMPTS_HEAD + "".join(entries)


def test_hostile_templates_are_refused_one_by_one(tmp_path: Path, cards: dict[str, Card]) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(
        promptsource_file(
            sound="Read.",
            classes="{{ ''.__class__.__mro__ }}",
            filtered="{{ (''|attr('__class__')).mro() }}",
            repeats="{{ 'a' * 200000000 }}",
            ranges="{{ range(1000000000) | list }}",
            loops="{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
            nested="{% for i in [1] %}{% for j in [1] %}{% for k in [1] %}x{% endfor %}{% endfor %}{% endfor %}",
            doubles="{% set a = 'aaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 32 + "{{ a }}",
            includes="{% include 'x' %}",
            deep="{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        )
    )
    report, files = import_and_read("promptsource", path, tmp_path / "out", cards)
    assert [template.name for template in files["rte"]] == ["sound"]
    why = {name: reason for _, name, reason in report.refused}
    assert set(why) == {
        "classes", "filtered", "repeats", "ranges", "loops", "nested", "doubles", "includes", "deep",
    }  # fmt: skip
    assert why["classes"].startswith("access to __")
    assert why["loops"] == "rendering fails: it takes too much work: more than 1,000,000 steps"
    assert why["doubles"] == why["loops"]


@pytest.mark.parametrize(
    ("format", "name", "text", "why"),
    [
        ("flan", "t.py", "open({mark!r}, 'w')\nPATTERNS = {{}}\n", "never executed"),
        ("flan", "t.py", "PATTERNS = {{'a': [(open({mark!r}, 'w').name, '')]}}\n", "never executed"),
        ("promptsource", "t.yaml", PROMPTS_HEAD + "  a: !!python/object/apply:os.mkdir [{mark!r}]\n", "constructor"),
        ("promptsource", "t.yaml", "templates: " + "[" * 20_000, "recursion"),
        ("promptsource", "t.yaml", "a: &a [x, x]\ndataset: *a\ntemplates: {{b: 1}}\n", "not a text"),
        ("natural-instructions", "t.json", "[" * 100_000, "not valid JSON"),
        ("natural-instructions", "t.json", '{{"Definition": 3}}', "expected a text"),
        ("natural-instructions", "t.json", '{{"Definition": "' + "so " * 30_000 + '"}}', "at most 50,000"),
    ],
)
def test_hostile_files_are_refused_and_do_nothing(
    format: str, name: str, text: str, why: str, tmp_path: Path, cards: dict[str, Card]
) -> None:
    mark = tmp_path / "executed"
    (tmp_path / name).write_text(text.format(mark=str(mark)) if "mark" in text or "{{" in text else text)
    with pytest.raises(MetalmError, match=why):
        import_templates(format, tmp_path / name, tmp_path / "out", cards)
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(MetalmError, match="expected at most"):
        import_templates("natural-instructions", path, tmp_path / "out", {})


def replace_reader(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Make the sandboxed process run this code in place of a reader."""
    import subprocess

    real_run = subprocess.run
    script = (
        "from metalm_cli.templates.importers import draft, sandbox_worker\n"
        f"def read(text, cards, source):\n    {code}\n"
        "sandbox_worker.main(draft.TemplateImporter('.py', read))\n"
    )

    def run(command: list[str], **values: Any) -> Any:
        return real_run([*command[:2], "-c", script], **values)

    monkeypatch.setattr(sandbox.subprocess, "run", run)


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "open(source, 'w')",
        "import os; os.remove(source)",
    ],
)
def test_the_process_has_no_network_no_commands_and_no_files(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.py"
    path.write_text("x")
    replace_reader(monkeypatch, code)
    answers = list(sandbox.read_in_sandbox("flan", [(str(path), path)], {}))
    assert "is not allowed in this process" in answers[0]["refused"]
    assert path.read_text() == "x"


def test_the_process_imports_what_this_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = "from metalm_cli.templates.importers.draft import ImportRefused, TemplateImporter\n"
    plugin += "def read(text, cards, source):\n    raise ImportRefused('read by the plug-in')\n"
    (tmp_path / "reader_on_pythonpath.py").write_text(plugin + "IMPORTER = TemplateImporter('.py', read)\n")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "json.py").write_text("raise SystemExit('run')")
    path = tmp_path / "t.py"
    path.write_text("x")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:work:{tmp_path / 'work'}:.:")
    answers = list(sandbox.read_in_sandbox("reader_on_pythonpath:IMPORTER", [("t.py", path)], {}))
    assert answers == [{"name": "t.py", "refused": "read by the plug-in"}]


def test_a_process_that_dies_loses_only_its_current_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("x")
    sources = [(name, tmp_path / name) for name in ("a", "b", "c")]
    replace_reader(monkeypatch, "return [] if source != 'b' else __import__('signal').raise_signal(9)")
    answers = {answer["name"]: answer for answer in sandbox.read_in_sandbox("flan", sources, {})}
    assert answers["b"]["refused"] == "the reading process was ended by signal 9"
    assert answers["a"]["files"] == answers["c"]["files"] == []


@pytest.mark.parametrize(("wall", "cpu", "why"), [(2.0, 20, "takes too long"), (60.0, 1, "too much processor time")])
def test_a_process_that_does_not_finish_is_ended(
    wall: float, cpu: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(sandbox, "STARTUP_TIMEOUT_S", wall)
    monkeypatch.setattr(sandbox, "FILE_TIMEOUT_S", 0.0)
    loop = f"sandbox_worker.FILE_CPU_S = {cpu}; sandbox_worker._extend_cpu_limit()\n    while True: pass"
    replace_reader(monkeypatch, loop)
    answers = list(sandbox.read_in_sandbox("flan", [("a", tmp_path / "a")], {}))
    assert why in answers[0]["refused"]


# -- writing ----------------------------------------------------------------------------------------------------------


def test_nothing_is_half_written(tmp_path: Path, cards: dict[str, Card], monkeypatch: pytest.MonkeyPatch) -> None:
    from metalm_cli.templates.importers import importer

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importer, "read_templates", fail)
    with pytest.raises(MetalmError, match="cannot write"):
        import_templates("flan", FIXTURES / "flan_defects.txt", tmp_path / "out", cards)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, cards: dict[str, Card]) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(MetalmError, match="is not empty"):
        import_templates("flan", FIXTURES / "flan_defects.txt", tmp_path, cards)
    with pytest.raises(MetalmError, match="no template importer is named t0"):
        import_templates("t0", FIXTURES, tmp_path / "out", cards)
    with pytest.raises(MetalmError, match="found no FLAN's"):
        import_templates("flan", tmp_path / "nowhere", tmp_path / "out", cards)


def test_two_files_of_one_name(tmp_path: Path, cards: dict[str, Card]) -> None:
    for name in ("one", "two"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "templates.yaml").write_text(promptsource_file(sound="Read."))
    report, _ = import_and_read("promptsource", tmp_path / "in", tmp_path / "out", cards)
    assert Counter(file.name for file in report.files) == {"rte": 1, "rte_2": 1}
    assert report.refused == []
    assert report.files[1].notes[0] == ("", "another file is named rte.yaml: rename this one to use it instead")
