"""Opening a corpus: finding its files, and the errors of missing, empty or broken sources."""

from pathlib import Path

import pytest

from metalm_cli.common.cache import cache_folder
from metalm_cli.errors import Exit, MetalmError

GOOD = [{"text": f"row {number}", "meta": {"set": "a"}} for number in range(300)]


def error_of(corpus, *sources, **options) -> str:
    with pytest.raises(MetalmError) as caught:
        corpus(*sources, **options)
    assert caught.value.exit_code == Exit.USAGE
    return str(caught.value)


def test_paths_are_files_folders_or_globs(write, corpus, tmp_path, monkeypatch):
    for name in ("d/b.jsonl.gz", "d/a.jsonl", "d/c.jsonl.zst"):
        write(name, [{"text": name}])
    write("d/notes.txt", ["x"])
    monkeypatch.chdir(tmp_path)
    for path, names in {
        str(tmp_path / "d"): "abc",
        "d": "abc",
        "d/*.jsonl*": "abc",
        "d/[ab]*": "ab",
        "**/c.jsonl.zst": "c",
        "d/b.jsonl.gz": "b",
    }.items():
        (info,) = corpus({"path": path}).sources
        assert "".join(Path(file.path).name[0] for file in info.files) == names
        assert all(len(file.sha256) == 64 for file in info.files)
        assert info.rows == len(names)


def test_relative_paths_are_looked_for_in_the_data_folder(write, corpus, tmp_path, monkeypatch):
    write("root/d/a.jsonl", [{"text": "a"}])
    assert corpus({"path": "d"}, data_root=tmp_path / "root").sources[0].rows == 1
    monkeypatch.setenv("METALM_DATA", str(tmp_path / "root"))
    assert corpus({"path": "d/*.jsonl"}).sources[0].rows == 1
    message = error_of(corpus, {"path": "e"})
    assert "--data-root" in message
    assert str(tmp_path / "root" / "e") in message


@pytest.mark.parametrize(
    "file", ["x/train.jsonl", "x/train.jsonl.zst", "me/x/train.jsonl.gz", "x/train/0.jsonl", "s0/train/0.jsonl.gz"]
)
def test_local_copies_of_hub_data(file, write, corpus, tmp_path):
    write(f"root/{file}", GOOD)
    (info,) = corpus({"hub": "me/x"}, data_root=tmp_path / "root", offline=True).sources
    assert (info.kind, info.rows, info.revision) == ("hub", 300, None)
    assert info.files[0].path == str(tmp_path / "root" / file)


@pytest.mark.parametrize("hub", ["../x", "a/../../x", "a/b/c", "/etc", ".hidden/x"])
def test_hub_names_do_not_leave_the_data_root(hub, write, corpus, tmp_path):
    write("x/train.jsonl", GOOD)
    (tmp_path / "root").mkdir()
    assert "has no valid hub data set name" in error_of(corpus, {"hub": hub}, data_root=tmp_path / "root", offline=True)


def test_missing_places(corpus, write, tmp_path):
    assert "the path does not exist" in error_of(corpus, {"path": "no/such/*.jsonl"})
    write("d/a.pdf", ["x"])
    assert "holds no *.jsonl" in error_of(corpus, {"path": str(tmp_path / "d")})
    message = error_of(corpus, {"path": str(tmp_path / "d" / "a.pdf")})
    assert "a data file is named *.jsonl" in message
    assert "data folder does not exist" in error_of(corpus, {"path": "x"}, data_root=tmp_path / "none")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_an_empty_source(lines, streaming, write, corpus):
    message = error_of(corpus, {"path": str(write("a.jsonl.gz", lines)), "streaming": streaming})
    assert "source s0 is empty" in message


@pytest.mark.parametrize("streaming", [False, True])
def test_broken_rows_are_reported_before_work_begins(streaming, write, corpus):
    for row, expected in {
        '{"text": "cut': "a line is not JSON",
        '["a"]': "a row of source s0 is not an object",
        '{"body": "a", "id": 1}': "no column 'text'",
        '{"text": 3}': "got int, expected a string",
        '{"text": null}': "got null, expected a string",
    }.items():
        path = write("a.jsonl", [GOOD[0], row])
        message = error_of(corpus, {"path": str(path), "streaming": streaming})
        assert expected in message
        assert f"{path}:2" in message
        assert "body" in message or "body" not in row


def test_a_broken_row_is_reported_when_a_table_is_opened_and_when_a_stream_is_read(write, corpus):
    path = write("a.jsonl", [*GOOD[:77], '{"text": "cut', *GOOD[77:]])
    assert f"{path}:78" in error_of(corpus, {"path": str(path)})
    reader = corpus({"path": str(path), "streaming": True}).reader(bool)
    with pytest.raises(MetalmError, match="not JSON") as caught:
        _ = [reader.get(number) for number in range(301)]
    assert f"{path}:78" in str(caught.value)
    assert caught.value.exit_code == Exit.FAILED


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_to_train_on(write, corpus, streaming):
    source = {"path": str(write("a.jsonl", GOOD)), "exclude": {"meta.set": ["a", "b"]}, "streaming": streaming}
    message = error_of(corpus, source)
    assert "has no document to train on" in message
    assert "300 excluded" in message
    blank = write("b.jsonl", [{"text": " "}] * 5)
    assert "5 empty" in error_of(corpus, {"path": str(blank)})


def test_few_usable_rows_are_found(write, corpus, read):
    rows = [{"text": " "}] * 300 + [{"text": "here"}] + [{"text": " "}] * 300
    (info,) = corpus({"path": str(write("a.jsonl", rows))}).sources
    assert (info.rows, info.usable) == (601, 1)


def test_a_misspelt_excluded_field(write, corpus):
    message = error_of(corpus, {"path": str(write("a.jsonl", GOOD)), "exclude": {"meta.sett": ["a"]}})
    assert "exclude.meta.sett" in message
    assert "meta, text" in message


def test_weights_are_needed_for_streams_and_all_or_none(write, corpus):
    path = str(write("a.jsonl", GOOD))
    message = error_of(corpus, {"path": path}, {"path": path, "streaming": True, "weight": 1})
    assert "s0 has none, and the row count of s1 is unknown" in message
    assert "others have one" in error_of(corpus, {"path": path}, {"path": path, "weight": 1})
    assert corpus({"path": path, "streaming": True}).sources[0].share == 1.0


def test_the_size_of_the_texts_is_estimated(write, corpus):
    rows = [{"text": "ä" * 10, "more": "x" * 50}] * 200
    assert corpus({"path": str(write("a.jsonl", rows))}).sources[0].text_bytes == 4000


def test_the_cache_folder(tmp_path, monkeypatch):
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "metalm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "metalm"


def test_a_folder_whose_name_looks_like_a_pattern_is_read(write, corpus, tmp_path):
    write("d[v2]/a.jsonl", [{"text": "a"}])
    write("dv/b.jsonl", [{"text": "b"}] * 2)
    assert corpus({"path": str(tmp_path / "d[v2]" / "*.jsonl")}).sources[0].rows == 1
    assert corpus({"path": str(tmp_path / "d[v]" / "*.jsonl")}).sources[0].rows == 2
