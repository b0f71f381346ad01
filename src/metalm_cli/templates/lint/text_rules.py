"""Static rules on a template's text: stray literals, spaces, punctuation, special tokens, duplicates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from metalm_cli.templates.template import Template
from metalm_cli.templates.template_ast import MARKER, TemplateAst, parse_template

Problem = tuple[str, str]
"""Rule id and message."""

_PATTERNS: tuple[tuple[str, str, str], ...] = (
    (
        "stray-n",
        rf'(?:(?<=[.?!:;,"”)\n])|(?<={MARKER}))n{{1,2}}(?=\n|\Z|{MARKER})',
        "an n in place of a line break (\\n)",
    ),
    ("stray-n", rf"(?:(?<=[.?!:])|(?<={MARKER}))n{{1,2}}(?=[A-Z])", "an n in place of a line break (\\n)"),
    ("stray-escape", r"\\[nrt]", "a literal backslash escape"),
    ("stray-braces", r"\{\w*\}|\{\{|\}\}|\{%|%\}", "literal braces"),
    ("stray-separator", r"\|\|\|", "a literal |||"),
    (
        "special-token",
        r"</?s>|<\|[\w ]+\|>|</?(?:bos|eos|pad|unk|mask|sep|cls)>|<</?SYS>>"
        r"|\[/?(?:CLS|SEP|PAD|MASK|UNK|BOS|EOS|INST)\]",
        "a special token",
    ),
    ("doubled-space", r"(?<=\S) {2,}(?=\S)", "two spaces"),
    ("trailing-space", r"[ \t]+(?=\n)", "spaces at the end of a line"),
    (
        "doubled-punctuation",
        r"([,;:?!])\1|(?<!\.)\.\.(?!\.)|[,;:][.?!,;:]|[?!][.,;:]",
        "two punctuation marks in a row",
    ),
    ("loose-punctuation", rf"(?:(?<=\w)|(?<={MARKER})) +[,.;:?!](?=\s|\Z)", "a space before a punctuation mark"),
    ("loose-punctuation", r"[,;(\[]\s*\Z", "an open punctuation mark at the end of the text"),
)
_COMPILED = [(rule, re.compile(pattern), message) for rule, pattern, message in _PATTERNS]
_EXCERPT_MARGIN = 16
_JINJA_TAG = re.compile(r"(\{\{|\{%)-?\s*(.*?)\s*-?(\}\}|%\})", re.DOTALL)


def text_problems(source: str) -> Iterator[Problem]:
    """Yield problems of a template's text, whatever its fields are.

    >>> [message for rule, message in text_problems("{{ hypothesis }}n\\n{{ options }}")]
    ['an n in place of a line break (\\\\n): ...{{ hypothesis }}n\\\\n{{ options }}']
    """
    ast = parse_template(source)
    if source.rstrip("\n") != source.rstrip():
        yield "trailing-space", "spaces at the end of the text"
    reported: set[str] = set()
    for wording in ast.wordings:
        for rule, pattern, message in _COMPILED:
            match = pattern.search(wording)
            if match is not None and rule not in reported:
                reported.add(rule)
                yield rule, f"{message}: {_excerpt(ast, wording, match)}"
        brace = re.search(r"[{}]", wording)
        if brace is not None and not reported & {"stray-braces", "lone-brace"}:
            reported.add("lone-brace")
            yield "lone-brace", f"a literal brace: {_excerpt(ast, wording, brace)}"


def _excerpt(ast: TemplateAst, wording: str, match: re.Match[str]) -> str:
    start, end = max(match.start() - _EXCERPT_MARGIN, 0), match.end() + _EXCERPT_MARGIN
    text = ast.to_text(wording[start:end]).replace("\n", "\\n")
    return "..." + text if start else text


def normalised_texts(template: Template) -> str:
    """Normalise a template's texts: without case, spacing and punctuation, equal for duplicates."""
    texts = [_JINJA_TAG.sub(r"\1\2\3", part.text) for part in template.input_parts] + [
        _JINJA_TAG.sub(r"\1\2\3", template.target)
    ]
    return "\0".join(re.sub(r"[^\w{}%]+", " ", text).strip().casefold() for text in texts)


def duplicates(templates: Sequence[Template]) -> Iterator[tuple[Template, Template]]:
    """Yield templates that duplicate an earlier one, each with the earlier one."""
    first_templates: dict[str, Template] = {}
    for template in templates:
        earlier = first_templates.setdefault(normalised_texts(template), template)
        if earlier is not template:
            yield template, earlier
