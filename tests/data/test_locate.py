"""Locating the files of a source: each file once, in bounded time."""

from pathlib import Path


def test_a_file_is_read_once_whatever_links_lead_to_it(write, corpus, tmp_path):
    for name in ("d/a.jsonl", "d/deep/b.jsonl", "d/.hidden/c.jsonl"):
        write(name, [{"text": name}])
    (tmp_path / "d" / "deep" / "up").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "alias.jsonl").symlink_to("a.jsonl")
    for pattern, names in {
        "d/**/*.jsonl": ["d/a.jsonl", "d/deep/b.jsonl"],
        "d/**/**/**/**/*.jsonl": ["d/a.jsonl", "d/deep/b.jsonl"],
        "d/**": ["d/a.jsonl", "d/deep/b.jsonl"],
        "d/*/up/**/b.jsonl": ["d/deep/up/deep/b.jsonl"],
        "d/*/*/*/*/*/*/*/b.jsonl": ["d/deep/up/deep/up/deep/up/deep/b.jsonl"],
        "d": ["d/a.jsonl"],
    }.items():
        (info,) = corpus({"path": str(tmp_path / pattern)}).sources
        assert [str(Path(file.path).relative_to(tmp_path)) for file in info.files] == names, pattern
