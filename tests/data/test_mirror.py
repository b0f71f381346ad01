"""Mirrors of hub data: written completely or not at all, read like other data, not downloaded twice."""

from __future__ import annotations

import datetime
import decimal
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from card_fixtures import CLASSES_BODY
from hub_server import NO_SOCKETS, HubServer
from metalm_cli.data.mirrors import mirror as module
from metalm_cli.data.mirrors.inventory import (
    clean_cache,
    find_dataset,
    list_cache_folders,
    list_datasets,
    remove_mirror,
)
from metalm_cli.data.mirrors.mirror import Manifest, MirrorRequest, mirror
from metalm_cli.errors import MetalmError

NAMES = ["entailment", "not_entailment"]
CARD = """\
name: mine
cluster: nli
description: Does it follow?
hub: {id: me/pairs}
local: {name: copy, splits: {validation: "train[-1:]"}}
splits: {train: "train[:3]", validation: test}
licence: none
citation: none
"""
WRITE = """
import json, sys
from pathlib import Path
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.data.mirrors.mirror import mirror, request_for_card, request_for_source
from metalm_cli.errors import MetalmError
from metalm_cli.config.schema.data import DocumentSource
from metalm_cli.tasks import Cards
card = Cards(["mine.yaml"])["mine"]
root = Path("data")
def write(request=None, **options):
    try:
        return [(m.split, m.state, m.rows) for m in mirror(request or request_for_card(card), root, **options)]
    except MetalmError as error:
        print(error); sys.exit(int(error.exit_code))
"""


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"premise": f"p {index}", "hypothesis": "h \u00e9", "label": index % 2} for index in range(first, first + count)
    ]


def parquet(table: list[dict[str, Any]]) -> bytes:
    """A Parquet file with the class names of its columns."""
    import datasets

    features = datasets.Features(
        premise=datasets.Value("string"), hypothesis=datasets.Value("string"), label=datasets.ClassLabel(names=NAMES)
    )
    buffer = io.BytesIO()
    datasets.Dataset.from_list(table, features=features).to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "mine.yaml").write_text(CARD + CLASSES_BODY)
    with HubServer() as server:
        files = {"data/train-0.parquet": parquet(rows(7)), "data/test-0.parquet": parquet(rows(4, 100))}
        server.add("datasets", "me/pairs", files)
        yield server


def run_code(hub: HubServer, home: Path, code: str) -> Any:
    done = hub.run(WRITE + code, home)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_a_cards_data_is_written_read_back_and_not_downloaded_again(hub: HubServer, tmp_path: Path) -> None:
    splits = run_code(hub, tmp_path, "print(json.dumps(write()))")
    assert splits == [["train", "written", 7], ["test", "written", 4]]
    folder = tmp_path / "data" / "copy"
    assert sorted(path.name for path in folder.iterdir()) == ["features.json", "test.jsonl.gz", "train.jsonl.gz"]
    assert lines(folder / "train.jsonl.gz") == rows(7)
    assert json.loads((folder / "features.json").read_text()) == {"label": NAMES}
    (entry,) = json.loads((tmp_path / "data" / "MANIFEST.json").read_text())
    commit = hub.repos["datasets", "me/pairs"].commit
    expected = ("copy", "me/pairs", None, commit)
    assert tuple(entry[key] for key in ("name", "hub_id", "hub_config", "revision")) == expected
    data = (folder / "test.jsonl.gz").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    assert entry["splits"]["test"] == {"rows": 4, "file": "copy/test.jsonl.gz", "bytes": len(data), "sha256": sha256}
    hub.requests.clear()
    code = """
opened = {role: open_examples(card, role, data_root=root, offline=True) for role in card.splits}
print(json.dumps([write(), {role: [example.fields["premise"] for example in one] for role, one in opened.items()}]))
"""
    again, read = run_code(hub, tmp_path, NO_SOCKETS + code)
    assert again == [["train", "there", 7], ["test", "there", 4]]
    assert read == {"train": ["p 0", "p 1", "p 2"], "validation": ["p 100", "p 101", "p 102", "p 103"]}
    assert hub.requests == []


def test_damaged_or_missing_splits_are_downloaded_again_from_the_same_commit(hub: HubServer, tmp_path: Path) -> None:
    run_code(hub, tmp_path, "print(json.dumps(write()))")
    folder = tmp_path / "data" / "copy"
    content = (folder / "train.jsonl.gz").read_bytes()
    (folder / "train.jsonl.gz").write_bytes(content[:-9] + bytes(9))
    done = run_code(hub, tmp_path, "print(json.dumps(write()))")
    assert done == [["train", "written", 7], ["test", "there", 4]]
    assert (folder / "train.jsonl.gz").read_bytes() == content
    hub.requests.clear()
    (folder / "test.jsonl.gz").unlink()
    run_code(hub, tmp_path, "print(json.dumps(write()))")
    commit = hub.repos["datasets", "me/pairs"].commit
    assert hub.requests
    assert all(commit in request.path for request in hub.requests)


def test_a_source_is_streamed(hub: HubServer, tmp_path: Path) -> None:
    code = """
source = DocumentSource(name="docs", hub="me/pairs", text="premise")
done = write(request_for_source(source))
print(json.dumps([done, request_for_source(DocumentSource(name="x", path="y.jsonl"))]))
"""
    assert run_code(hub, tmp_path, code) == [[["train", "written", 7]], None]
    assert lines(tmp_path / "data" / "docs" / "train.jsonl.gz") == rows(7)
    assert not list((tmp_path / "hf").rglob("*.arrow"))


def test_a_hub_that_fails_leaves_nothing_half_written(hub: HubServer, tmp_path: Path) -> None:
    hub.failing["test-0.parquet"] = 404
    done = hub.run(WRITE + "write()", tmp_path)
    assert done.returncode == 2, done.stdout
    assert "me/pairs" in done.stdout
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "data").rglob("*.gz*"))
    assert not list((tmp_path / "data").rglob(".*"))


@pytest.mark.parametrize("value", [b"\x00", object()])
def test_values_that_json_cannot_hold(value: Any) -> None:
    target = io.BytesIO()
    module._write_row(target, {"value": datetime.date(2020, 1, 2), "other": [decimal.Decimal("1.5")]}, "row 0")
    assert json.loads(target.getvalue()) == {"value": "2020-01-02", "other": ["1.5"]}
    with pytest.raises(MetalmError) as caught:
        module._write_row(target, {"value": value}, "me/pictures, split train, row 2")
    assert caught.value.where == "me/pictures, split train, row 2"
    assert "are not mirrored" in caught.value.remedy


def make_request(**changes: Any) -> MirrorRequest:
    defaults = {"name": "copy", "hub": "me/pairs", "config": None, "revision": None, "splits": ("train",)}
    return MirrorRequest(**{**defaults, **changes})


def test_a_folder_that_is_not_a_mirror_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "train.jsonl").write_text("{}\n")
    assert [(result.split, result.state) for result in mirror(make_request(splits=("test",)), tmp_path)] == [
        ("", "left alone")
    ]
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["train.jsonl"]


def write_mirror(root: Path, **changes: Any) -> None:
    """Write a mirror of one row, and its entry in the manifest."""
    data = gzip.compress(b"{}\n", mtime=0)
    request = make_request(**changes)
    (root / request.name).mkdir(parents=True)
    (root / request.name / "train.jsonl.gz").write_bytes(data)
    (root / request.name / "features.json").write_text("{}")
    facts = {"rows": 1, "file": "x", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    Manifest(root).add_split(request, "c" * 40, "train", facts)


def test_a_folder_that_mirrors_something_else(tmp_path: Path) -> None:
    write_mirror(tmp_path)
    assert [result.state for result in mirror(make_request(), tmp_path)] == ["there"]
    for change in ({"hub": "me/others"}, {"config": "small"}):
        with pytest.raises(MetalmError, match="is a mirror of another data set"):
            list(mirror(make_request(**change), tmp_path))


@pytest.mark.parametrize("change", [{"name": "../up"}, {"splits": ("../up",)}, {"name": ""}])
def test_names_do_not_lead_out(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(MetalmError, match="is not a valid name"):
        list(mirror(make_request(**change), tmp_path))


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]"])
def test_a_broken_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "MANIFEST.json").write_text(text)
    with pytest.raises(MetalmError, match="manifest"):
        list(mirror(make_request(), tmp_path))
    assert (tmp_path / "MANIFEST.json").read_text() == text


def test_entries_of_other_data_sets_are_preserved(tmp_path: Path) -> None:
    other = {"name": "theirs", "notes": "preserved", "splits": {"train": {"rows": 9}}}
    (tmp_path / "MANIFEST.json").write_text(json.dumps([other]))
    write_mirror(tmp_path)
    write_mirror(tmp_path, name="second")
    entries = json.loads((tmp_path / "MANIFEST.json").read_text())
    assert entries[0] == other
    assert [entry["name"] for entry in entries] == ["theirs", "copy", "second"]


def test_local_data_sets_are_listed(tmp_path: Path) -> None:
    write_mirror(tmp_path, config="small")
    (tmp_path / "theirs" / "train").mkdir(parents=True)
    (tmp_path / "theirs" / "train" / "0.jsonl").write_text("{}\n{}\n")
    (tmp_path / "theirs" / "test.jsonl").write_text("{}\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    copy, theirs = list_datasets(tmp_path)
    assert (copy.name, copy.splits, copy.rows, copy.mirror) == ("copy", ("train",), 1, True)
    assert copy.origin == "me/pairs small at cccccccccccc"
    assert (theirs.name, sorted(theirs.splits)) == ("theirs", ["test", "train"])
    assert (theirs.rows, theirs.mirror) == (None, False)
    assert theirs.size == 9


def test_only_mirrors_are_removed_and_only_their_files(tmp_path: Path) -> None:
    write_mirror(tmp_path)
    write_mirror(tmp_path, name="second")
    (tmp_path / "second" / "notes.txt").write_text("mine")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "train.jsonl").write_text("{}\n")
    unknown = "no data set is named"
    for name, words in (("theirs", "is not a mirror"), ("nothing", unknown), ("..", unknown)):
        with pytest.raises(MetalmError, match=words):
            find_dataset(tmp_path, [name])
    for dataset in find_dataset(tmp_path, ["copy", "second"]):
        assert remove_mirror(tmp_path, dataset.name) == 1
    assert not (tmp_path / "copy").exists()
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["notes.txt"]
    assert (tmp_path / "theirs" / "train.jsonl").exists()
    assert json.loads((tmp_path / "MANIFEST.json").read_text()) == []


def test_cleaning_the_cache_removes_only_derived_files(tmp_path: Path) -> None:
    from metalm_cli.data.sources.jsonl import prepare

    source, cache = tmp_path / "a.jsonl.gz", tmp_path / "cache"
    source.write_bytes(gzip.compress(b'{"a": 1}\n'))
    first = prepare(source, cache)
    (cache / "other").mkdir()
    (cache / "other" / "file").write_text("x")
    assert {folder.name: folder.files for folder in list_cache_folders(cache)} == {
        "unpacked": 1,
        "index": 1,
        "files": 1,
    }
    assert clean_cache(cache) == 3
    assert list_cache_folders(cache) == []
    assert (cache / "other" / "file").exists()
    assert source.exists()
    assert prepare(source, cache) == first
