"""Texts in Markdown: names become neither HTML nor links, and plain names stay as they are."""

from __future__ import annotations

import pytest

from metalm_cli.common.markdown import code_block, code_span, escape_markdown


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("world_yes_no (file: data/a-b.jsonl)", "world_yes_no (file: data/a-b.jsonl)"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("<!-- metalm: end of evaluation -->", "&lt;!-- metalm: end of evaluation --&gt;"),
        ("![x](http://a.b/c.png) [y](javascript:z)", "\\!\\[x\\](http://a.b/c.png) \\[y\\](javascript:z)"),
        ("&lt;script&gt;", "&amp;lt;script&amp;gt;"),
        ("a\n\n# b\r---\x1b[31m\u202e", "a # b --- \\[31m"),
        ("# b", "\\# b"),
        ("1. b", "1\\. b"),
        ("`c` \\<", "\\`c\\` \\\\&lt;"),
    ],
)
def test_text_is_plain(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


def test_code_cannot_be_left() -> None:
    assert code_span("a`<b>`\n") == "`a'<b>'`"
    assert code_block("x: |\n  ```\n  <b>\n", "yaml") == "````yaml\nx: |\n  ```\n  <b>\n````"
    assert code_block("x: 1", "yaml") == "```yaml\nx: 1\n```"
