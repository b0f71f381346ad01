"""``metalm tasks``: output and exit codes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from card_fixtures import CLASSES_BODY, sentence_pair, write_card, write_rows
from metalm_cli.cli import console
from metalm_cli.cli.app import run
from metalm_cli.tasks import Cards
from shard_fixtures import captions, picture, write_shard

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("METALM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def listed_tasks(capsys: Capture, *arguments: str) -> dict[str, list[str]]:
    assert run(["tasks", "list", *arguments]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    return {row[1]: row for row in rows}


def test_list(capsys: Capture, tmp_path: Path) -> None:
    rows = listed_tasks(capsys)
    assert set(rows) == set(Cards().names)
    assert rows["rte"][:7] == ["nli", "rte", "core", "train_and_eval", "accuracy", "2 classes", "hub"]
    assert rows["bbh"][2:4] == ["non_core", "eval"]
    assert [rows[name][2] for name in ("world_nli", "lexical_kinds")] == ["world", "lexical"]
    assert rows["world_nli"][6] == "train, validation, test"
    assert rows["copa"][5] == "options"
    assert rows["squad"][5] == "open"
    clusters = [row[0] for row in rows.values()]
    assert clusters == sorted(clusters, key=list(dict.fromkeys(clusters)).index)
    assert set(listed_tasks(capsys, "--cluster", "nli", "--core")) == {
        card.name for card in Cards().all() if card.cluster == "nli" and card.core
    }
    assert run(["tasks", "list", "--cluster", "nlix"]) == 2
    assert "did you mean nli?" in capsys.readouterr().err


def test_a_narrow_terminal_shows_names_on_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for width, headers in ((80, ["cluster", "task", "data", "description"]), (120, ["cluster", "task", "kind"])):
        out = io.StringIO()
        terminal = Console(file=out, force_terminal=True, width=width, no_color=True)
        monkeypatch.setattr(console, "stdout", lambda terminal=terminal: terminal)
        assert run(["tasks", "list", "--cluster", "nli"]) == 0
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in out.getvalue().splitlines()]
        assert lines[0][: len(headers)] == headers
        assert ["nli", "lexical_entailment"] in [line[:2] for line in lines]
        assert (["also", "shows", "kind,", "usage,"] in [line[-6:-2] for line in lines]) == (width < 120)


def test_list_shows_local_splits(capsys: Capture, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "rte" / "validation.jsonl", [{}])
    write_card(tmp_path / "cards", file="nowhere.jsonl")
    rows = listed_tasks(capsys, "--data-root", str(tmp_path / "data"), "--cards", "cards")
    assert (rows["rte"][6], rows["cb"][6], rows["mine"][6]) == ("validation", "hub", "missing")
    assert run(["tasks", "list", "--data-root", "nowhere"]) == 2


def test_show(capsys: Capture, tmp_path: Path) -> None:
    path = write_card(tmp_path, splits="{train: 'rows[:2]', test: 'rows[2:]'}")
    write_rows(
        tmp_path / "rows.jsonl", [sentence_pair(0, "One."), sentence_pair(1, "Two."), sentence_pair(0, "Three.")]
    )
    assert run(["tasks", "show", str(path)]) == 0
    output = capsys.readouterr().out
    for text in (
        "mine: Does it follow?",
        "class label, by id: entailment -> yes, not_entailment -> no",
        "premise = premise",
        "flan: none, fused: none, none: 1, passages: none, plain: 1",
        "train = rows[:2]: 2 rows in",
        "test = rows[2:]: 1 rows in",
    ):
        assert text in output
    assert "One." in output
    assert "Two." in output
    assert "Three." not in output
    assert run(["tasks", "show", "rte"]) == 0
    output = capsys.readouterr().out
    assert "no local data" in output
    assert "flan: 10 (2 inverted)" in output
    assert run(["tasks", "show", "rtee"]) == 2
    assert "did you mean rte?" in capsys.readouterr().err


def test_check_reads_every_row(capsys: Capture, tmp_path: Path) -> None:
    write_card(tmp_path / "cards", CLASSES_BODY + "row_filter: label != 7\n", file="../rows.jsonl")
    rows = [sentence_pair(0, "a" * length) for length in (1, 2, 3, 4)] + [sentence_pair(1), sentence_pair(7)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert run(["tasks", "check", "mine", "--cards", "cards"]) == 0
    output = capsys.readouterr().out
    assert "train: 6 rows, 1 left out" in output
    assert "answers: yes 80.0%, no 20.0%" in output
    assert "premise 3/9/9; hypothesis 10/10/10; answer 3/3/3" in output
    assert "1 task checked, 0 with problems; 0 without local data" in output
    assert run(["tasks", "check", "mine", "--cards", "cards", "--rows", "4"]) == 0
    output = capsys.readouterr().out
    assert "train: the first 4 rows" in output
    assert "no row is no" in output


def test_check_lists_what_is_wrong(capsys: Capture, tmp_path: Path) -> None:
    write_card(tmp_path / "cards", file="../rows.jsonl", splits="{train: rows, validation: rows}")
    write_rows(
        tmp_path / "rows.jsonl", [sentence_pair(), *[sentence_pair(-1)] * 8, sentence_pair(premise=""), '{"premise"']
    )
    write_card(tmp_path / "cards", name="sound", file="../sound.jsonl")
    write_rows(tmp_path / "sound.jsonl", [sentence_pair()])
    write_card(tmp_path / "cards", name="gone", file="../gone.jsonl")
    (tmp_path / "cards" / "broken.yaml").write_text("name: broken\n")
    assert run(["tasks", "check", "mine", "sound", "gone", "broken", "--cards", "cards"]) == 1
    caught = capsys.readouterr()
    assert "4 tasks" not in caught.out
    assert "3 tasks checked, 3 with problems" in caught.out
    assert caught.out.count("got -1, expected 0 to 1") == 10
    assert caught.out.count("... and 5 more rows") == 2
    assert "rows.jsonl:2" in caught.out
    assert "gone.jsonl" in caught.out
    assert "broken.yaml" in caught.err


@pytest.mark.parametrize(
    ("metric", "words"), [("pearson", "a number is needed as the answer"), ("matthews", None), ("accuracy", None)]
)
def test_check_applies_the_metric(capsys: Capture, tmp_path: Path, metric: str, words: str | None) -> None:
    write_card(tmp_path, CLASSES_BODY.replace("name: accuracy", f"name: {metric}"))
    write_rows(tmp_path / "rows.jsonl", [sentence_pair()])
    assert run(["tasks", "check", "mine.yaml"]) == (0 if words is None else 1)
    assert (words or "0 with problems") in capsys.readouterr().out


def test_check_without_data(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert run(["tasks", "check", "story_cloze"]) == 2
    caught = capsys.readouterr()
    assert "no local data: story_cloze" in caught.out
    assert "no task was checked" in caught.err
    assert run(["tasks", "check", "story_cloze", "world_gist"]) == 0
    assert "1 task checked, 0 with problems; 1 without local data" in capsys.readouterr().out
    assert run(["tasks", "check", "rtee"]) == 2
    assert "did you mean rte?" in capsys.readouterr().err
    assert run(["tasks", "check", "--rows", "0"]) == 2


def test_check_finds_a_template_that_reads_a_missing_field(capsys: Capture, tmp_path: Path) -> None:
    card = write_card(tmp_path, CLASSES_BODY + "templates: own.yaml\n")
    (tmp_path / "own.yaml").write_text(
        "templates:\n- {name: one, input: '{{ premise }} {{ hypothesys }} {{ options }}'}\n"
    )
    write_rows(tmp_path / "rows.jsonl", [sentence_pair()])
    assert run(["tasks", "check", "mine.yaml"]) == 1
    output = capsys.readouterr().out
    assert "problem: template one of mine reads hypothesys, which the card does not have" in output
    assert "1 task checked, 1 with problems" in output
    (tmp_path / "rows.jsonl").unlink()
    card.write_text(card.read_text().replace("file: rows.jsonl", "hub: {id: me/absent}"))
    assert run(["tasks", "check", "mine.yaml"]) == 1
    output = capsys.readouterr().out
    assert "reads hypothesys" in output
    assert "0 tasks checked, 1 with problems; 1 without local data" in output


@pytest.mark.parametrize(("notes", "code"), [(["new", "", ""], 0), (["", "", ""], 1)])
def test_an_optional_field_may_be_empty_in_a_split_but_not_in_all(
    capsys: Capture, tmp_path: Path, notes: list[str], code: int
) -> None:
    write_rows(tmp_path / "mine.jsonl", [{"text": f"Row {note}.", "note": note} for note in notes])
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, cluster: misc, description: d, file: mine.jsonl, licence: none, citation: none,"
        " splits: {train: 'rows[:2]', validation: 'rows[2:]'}, fields: {text: text, note: note},"
        " optional_fields: [note], answer: {text: text}, metric: {name: exact_match, source: us}}"
    )
    assert run(["tasks", "check", str(tmp_path / "mine.yaml")]) == code
    assert capsys.readouterr().out.count("the optional field note is empty in every row") == code


def test_files_of_known_records_are_shown_and_checked(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "sums.csv").write_text(
        "instruction,input,output\n" + "".join(f"Add 1.,{n},{n + 1}\n" for n in range(20))
    )
    assert run(["tasks", "show", "sums.csv"]) == 0
    assert "read as Alpaca" in capsys.readouterr().out
    assert run(["tasks", "check", "sums.csv"]) == 0
    assert "1 task checked, 0 with problems" in capsys.readouterr().out


def test_real_cards(capsys: Capture, data_root: Path) -> None:
    assert run(["tasks", "check", "--data-root", str(data_root), "--rows", "100"]) == 0
    assert ", 0 with problems;" in capsys.readouterr().out


CSV = "id,Review,Sentiment\n" + "".join(
    f'{number},"Text {number}, fine",{("good", "bad")[number % 2]}\n' for number in range(30)
)


def test_new(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "My Reviews.csv").write_text(CSV)
    assert run(["tasks", "new", "My Reviews.csv", "--cluster", "sentiment"]) == 0
    output = capsys.readouterr().out
    assert "answer: class in Sentiment, one of bad, good" in output
    rows = [int(number) for number in re.findall(r"(?:train|validation): (\d+) rows?, My Reviews.csv", output)]
    assert (len(rows), sum(rows)) == (2, 30)
    card = tmp_path / "cards" / "my_reviews.yaml"
    assert (tmp_path / "cards" / "templates" / "my_reviews.yaml").is_file()
    assert "# class in Sentiment" in card.read_text()
    assert run(["tasks", "check", str(card)]) == 0
    assert run(["templates", "lint", "cards/templates", "--cards", "cards", "--task", "my_reviews"]) == 0
    capsys.readouterr()
    before = card.read_bytes()
    assert run(["tasks", "new", "My Reviews.csv"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert card.read_bytes() == before


def test_new_reads_json_lines(capsys: Capture, tmp_path: Path) -> None:
    write_rows(tmp_path / "quiz.jsonl", [{"question": f"q {number}", "answer": f"a {number}"} for number in range(20)])
    assert run(["tasks", "new", "quiz.jsonl", "--name", "my_quiz", "--out", "other/cards"]) == 0
    assert (tmp_path / "other" / "cards" / "my_quiz.yaml").is_file()
    assert 'file: "../../quiz.jsonl"' in (tmp_path / "other" / "cards" / "my_quiz.yaml").read_text()


@pytest.mark.parametrize(
    ("file", "text", "arguments", "words"),
    [
        ("a.csv", "", [], "the file has no rows"),
        ("a.csv", "x,y\n1\n", [], "fewer values"),
        ("a.xlsx", "x", [], "a task card is drafted from a data file"),
        ("a.jsonl", "{\n", [], "a line is not JSON"),
        ("a.jsonl", "[1]\n", [], "is not an object"),
        ("a.jsonl", json.dumps({"one": "x"}) + "\n", [], "no card can be drafted"),
        ("rte.csv", CSV, [], "a shipped task is already named rte"),
        ("a.csv", CSV, ["--name", "My Task"], "did you mean my_task?"),
        ("a.csv", CSV, ["--cluster", "../x"], "is not a valid name"),
    ],
)
def test_new_refuses(capsys: Capture, tmp_path: Path, file: str, text: str, arguments: list[str], words: str) -> None:
    (tmp_path / file).write_text(text)
    assert run(["tasks", "new", file, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "cards").exists()
    assert run(["tasks", "new", "nowhere.csv"]) == 2


def test_new_drafts_a_card_of_shards_with_images(capsys: Capture, tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 1)):
        for shard in range(count):
            members: dict[str, bytes | str] = {}
            for number in range(30):
                entries = {"title": f"Picture {number} of {split} {shard}", "size": {"width": 8}}
                members[f"{number}.{('jpg', 'png')[number % 2]}"] = picture(number)
                members |= {f"{number}.json": json.dumps(entries), f"{number}.cls": str(number % 3)}
            write_shard(tmp_path / "shapes" / f"{split}-{shard}.tar", members)
    assert run(["tasks", "new", "shapes", "--cluster", "sorting"]) == 0
    printed = capsys.readouterr().out
    for words in ("answer: class in cls, one of 0, 1, 2", "image: image in jpg | default(png)", "not used: __key__"):
        assert words in printed
    assert "train: 60 rows" in printed
    assert "validation: 30 rows" in printed
    card = Cards(["cards/shapes.yaml"])["shapes"]
    assert card.fields == {"json_title": "json.title"}
    assert card.splits == {"train": "train", "validation": "val"}
    assert run(["tasks", "check", "cards/shapes.yaml"]) == 0
    assert run(["templates", "lint", "cards/templates", "--cards", "cards", "--task", "shapes"]) == 0
    assert run(["tasks", "check", "shapes/"]) == 2
    assert "metalm tasks new shapes" in " ".join(capsys.readouterr().err.split())


def test_check_shards_without_a_card(capsys: Capture, tmp_path: Path) -> None:
    write_shard(tmp_path / "a-0.tar", captions(0, 30))
    write_shard(tmp_path / "a-1.tar", {"x.txt": "no image"} | captions(30, 30))
    assert run(["tasks", "check", "a-{0..1}.tar"]) == 0
    printed = capsys.readouterr().out
    assert "1 left out" in printed
    assert sum(map(int, re.findall(r"(?:train|validation): (\d+) rows", printed))) == 61
    (tmp_path / "a-1.tar").rename(tmp_path / "a-1.tar.gz")
    assert run(["tasks", "check", "a-1.tar.gz"]) == 2
    assert "uncompress it once" in capsys.readouterr().err
    assert run(["tasks", "check", "a-{0..1}.tar"]) == 2
    assert "1 of 2 shards are missing" in capsys.readouterr().err
