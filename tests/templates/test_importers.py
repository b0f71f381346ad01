"""Importers: the twelve real defects are found, the rest is imported, and hostile files do nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards
from metalm_cli.templates import read_templates
from metalm_cli.templates.importers import Report, import_templates, sandbox
from metalm_cli.templates.importers.draft import ImportRefused, as_jinja_string, as_jinja_text, slug
from metalm_cli.templates.importers.flan import parse_patterns, to_jinja
from metalm_cli.templates.importers.importer import MAX_FILE
from metalm_cli.templates.render import render
from metalm_cli.templates.template import Template

FIXTURES = Path(__file__).parent / "fixtures"
ENTAILED = {"premise": "sentence1", "hypothesis": "sentence2"}


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return {name: Cards()[name] for name in ("rte", "anli_r1", "cb", "story_cloze", "cola")}


def imported(format: str, path: Path, out: Path, cards: dict[str, Card]) -> tuple[Report, dict[str, list[Template]]]:
    report = import_templates(format, path, out, cards)
    return report, {file.name: read_templates(out / f"{file.name}.yaml").templates for file in report.files}


# -- FLAN -------------------------------------------------------------------------------------------------------------


def test_the_twelve_real_defects_are_found_and_nothing_else(tmp_path: Path, cards: dict[str, Card]) -> None:
    report, files = imported("flan", FIXTURES / "flan_defects.txt", tmp_path / "out", cards)
    found = {(origin.split()[-1], name): reason.partition(":")[0] for origin, name, reason in report.refused}
    stray = {("rte", at) for at in (2, 3, 4)} | {(key, at) for key in ("anli", "cb") for at in (1, 2, 3)}
    assert found == {
        **{(key, f"flan-{at}"): "stray-n" for key, at in stray},
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
    assert [one.inverted for one in files["rte"]] == [False, False, True]
    assert files["rte"][2].target == "{{ premise }}"
    assert files["story_cloze"][0].input == "{{ story }}\n\nWhich line comes last?\n{{ options }}"
    assert {file.name: file.card for file in report.files}["anli"] == "anli_r1"
    assert all(not file.notes for file in report.files)


def test_fields_of_unknown_keys_are_left_and_reported(tmp_path: Path, cards: dict[str, Card]) -> None:
    path = tmp_path / "templates.py"
    path.write_text(
        'PATTERNS = {"new_set": [("Say it of {thing}: {", "{word}"), ("Guess what has {word}", "{thing}")]}\n'
    )
    report, files = imported("flan", path, tmp_path / "out", cards)
    assert [(one.input, one.target, one.inverted) for one in files["new_set"]] == [
        ("Say it of {{ thing }}: {{ '{' }}", "{{ answer }}", False),
        ("Guess what has {{ answer }}", "{{ thing }}", True),
    ]
    assert report.files[0].notes == (("", "no card is known for it: its fields are left as they are (thing)"),)


def test_markers_become_fields_and_other_braces_stay() -> None:
    assert to_jinja("{a} { {} {b c} {{a}}", {"a": "x"}) == "{{ x }} { {} {b c} {{ '{' }}{{ x }}}"
    assert as_jinja_text("{% x %} {# y #} {{ z }} {") == "{{ '{' }}% x %} {{ '{' }}# y #} {{ '{' }}{ z }} {{ '{' }}"
    for text in ("{% x %} {# y #} {{ z }} {", "}} {{{ %} {", "plain"):
        for write in (as_jinja_text, as_jinja_string):
            assert render(example(), Template(name="one", input=write(text) + "{{ task }}")).input == f"{text}set"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("???") == "unnamed"


def example() -> Any:
    from metalm_cli.tasks import Example

    return Example("set", 0, {}, ("yes",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import os\nPATTERNS = {}", "line 1 is no literal"),
        ('PATTERNS = {"a": [(str(1), "{answer}")]}', "never executed"),
        ("def f():\n    pass\nPATTERNS = {}", "line 1 is no literal"),
        ("PATTERNS = {", "no Python"),
        ("PATTERNS = " + "[" * 5000 + "]" * 5000, "no Python"),
        ("OTHER = {}", "has no PATTERNS"),
        ('PATTERNS = {"a": ["{answer}"]}', "no list of"),
        ('PATTERNS = {"a": []}', "no list of"),
    ],
)
def test_files_that_are_none_of_flans(text: str, why: str) -> None:
    with pytest.raises(ImportRefused, match=why):
        parse_patterns(text)


def test_literals_beside_the_patterns_are_passed_over() -> None:
    text = '"""Words."""\nN = 3\nPATTERNS: dict = {"a": [("{x}", "{y}")]}\n'
    assert parse_patterns(text) == {"a": [("{x}", "{y}")]}


# -- promptsource and Natural Instructions ----------------------------------------------------------------------------


def test_promptsource(tmp_path: Path, cards: dict[str, Card]) -> None:
    report, files = imported("promptsource", FIXTURES / "promptsource.yaml", tmp_path / "out", cards)
    first, second = files["rte"]
    assert first.input == "{{premise}}\nMust one grant that {{ hypothesis }} Yes or no?"
    assert (first.name, first.target, first.inverted) == ("must-one-grant-it", "{{ answer }}", False)
    assert first.allow == ["options-not-listed"]
    assert (second.target, second.inverted) == ("{{ hypothesis }}", True)
    assert [(name, why.partition(":")[0]) for _, name, why in report.refused] == [
        ("the-wrong-way-round", "labels-swapped"),
        ("no-separator", "it has 0 separators |||, expected one between input and target"),
        ("a-name-that-is-not-known", "unknown-field"),
    ]


def test_natural_instructions(tmp_path: Path, cards: dict[str, Card]) -> None:
    _, files = imported("natural-instructions", FIXTURES, tmp_path / "out", cards)
    plain, shown = files["task901_made_up_colours"]
    row = type(example())("set", 0, {"input": "snow"}, ("white",))
    definition = (
        "You are told what a thing is. Name its usual colour, in one word; sets such as {{red, blue}} are not wanted."
    )
    assert render(row, plain).input == f"{definition}\n\nInput: snow\nOutput:"
    examples = (
        "Example 1\nInput: grass in spring\nOutput: green\nWhy: Fresh grass is green.\n\n"
        "Example 2\nInput: coal\nOutput: black\n\nNow complete this one."
    )
    assert render(row, shown).input == f"{definition}\n\n{examples}\nInput: snow\nOutput:"
    assert render(row, shown).target == "white"


def test_real_natural_instructions(tmp_path: Path, data_root: Path) -> None:
    folder = data_root / "natural_instructions" / "tasks"
    report = import_templates("natural-instructions", folder, tmp_path / "out", {})
    assert len(report.files) == len(list(folder.glob("*.json")))
    assert report.refused == []


# -- hostile files ----------------------------------------------------------------------------------------------------

HEAD = "dataset: glue\nsubset: rte\ntemplates:\n"
TAIL = " {{ sentence1 }} {{ sentence2 }} {{ answer_choices | join(', ') }} ||| {{ answer_choices[label] }}"


def prompts(**texts: str) -> str:
    """A file of promptsource's with these templates."""
    entries = [
        f"  {name}: !Template {{name: {name}, answer_choices: null, jinja: {json.dumps(text + TAIL)}}}\n"
        for name, text in texts.items()
    ]
    return HEAD + "".join(entries)


def test_hostile_templates_are_refused_one_by_one(tmp_path: Path, cards: dict[str, Card]) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(
        prompts(
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
    report, files = imported("promptsource", path, tmp_path / "out", cards)
    assert [one.name for one in files["rte"]] == ["sound"]
    why = {name: reason for _, name, reason in report.refused}
    assert set(why) == {
        "classes", "filtered", "repeats", "ranges", "loops", "nested", "doubles", "includes", "deep",
    }  # fmt: skip
    assert why["classes"].startswith("it reaches for __")
    assert why["loops"] == "it takes more than 2 s to render"
    assert "beyond the limits" in why["doubles"]


@pytest.mark.parametrize(
    ("format", "name", "text", "why"),
    [
        ("flan", "t.py", "open({mark!r}, 'w')\nPATTERNS = {{}}\n", "never executed"),
        ("flan", "t.py", "PATTERNS = {{'a': [(open({mark!r}, 'w').name, '')]}}\n", "never executed"),
        ("promptsource", "t.yaml", HEAD + "  a: !!python/object/apply:os.mkdir [{mark!r}]\n", "constructor"),
        ("promptsource", "t.yaml", "templates: " + "[" * 20_000, "recursion"),
        ("promptsource", "t.yaml", "a: &a [x, x]\ndataset: *a\ntemplates: {{b: 1}}\n", "no text"),
        ("natural-instructions", "t.json", "[" * 100_000, "no JSON"),
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
        file.truncate(MAX_FILE + 1)
    with pytest.raises(MetalmError, match="expected at most"):
        import_templates("natural-instructions", path, tmp_path / "out", {})


def worker(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the limited process run this in the place of a reader."""
    import subprocess

    real = subprocess.run
    start = (
        "from metalm_cli.templates.importers import sandbox_worker\n"
        f"def read(text, cards, source):\n    {code}\n"
        "sandbox_worker.READERS['flan'] = read\nsandbox_worker.main()\n"
    )

    def run(command: list[str], **values: Any) -> Any:
        return real([*command[:2], "-c", start], **values)

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
    worker(monkeypatch, code)
    found = list(sandbox.read_in_sandbox("flan", [(str(path), path)], {}))
    assert "is not for this process" in found[0]["refused"] or "are not written here" in found[0]["refused"]
    assert path.read_text() == "x"


def test_a_process_that_dies_costs_the_file_that_it_was_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("x")
    sources = [(name, tmp_path / name) for name in ("a", "b", "c")]
    worker(monkeypatch, "return [] if source != 'b' else __import__('signal').raise_signal(9)")
    found = {one["name"]: one for one in sandbox.read_in_sandbox("flan", sources, {})}
    assert found["b"]["refused"] == "the process that read it was ended by signal 9"
    assert found["a"]["files"] == found["c"]["files"] == []


@pytest.mark.parametrize(("wall", "cpu", "why"), [(2.0, 20, "takes too long"), (60.0, 1, "too much processor time")])
def test_a_process_that_does_not_end(
    wall: float, cpu: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(sandbox, "WALL_SECONDS", wall)
    monkeypatch.setattr(sandbox, "FILE_SECONDS", 0.0)
    end = f"worker.CPU_SECONDS = {cpu}; worker._more_time()\n    while True: pass"
    worker(monkeypatch, end)
    found = list(sandbox.read_in_sandbox("flan", [("a", tmp_path / "a")], {}))
    assert why in found[0]["refused"]


# -- writing ----------------------------------------------------------------------------------------------------------


def test_nothing_is_half_written(tmp_path: Path, cards: dict[str, Card], monkeypatch: pytest.MonkeyPatch) -> None:
    from metalm_cli.templates.importers import importer

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importer, "read_templates", fail)
    with pytest.raises(MetalmError, match="cannot be written"):
        import_templates("flan", FIXTURES / "flan_defects.txt", tmp_path / "out", cards)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, cards: dict[str, Card]) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(MetalmError, match="is taken"):
        import_templates("flan", FIXTURES / "flan_defects.txt", tmp_path, cards)
    with pytest.raises(MetalmError, match="no format is named t0"):
        import_templates("t0", FIXTURES, tmp_path / "out", cards)
    with pytest.raises(MetalmError, match="there is no FLAN's"):
        import_templates("flan", tmp_path / "nowhere", tmp_path / "out", cards)


def test_two_files_of_one_name(tmp_path: Path, cards: dict[str, Card]) -> None:
    for name in ("one", "two"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "templates.yaml").write_text(prompts(sound="Read."))
    report, _ = imported("promptsource", tmp_path / "in", tmp_path / "out", cards)
    assert Counter(file.name for file in report.files) == {"rte": 1}
    assert [why for _, _, why in report.refused] == ["another file is named rte already"]
