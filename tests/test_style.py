"""Names and prose keep to the field's terms and to plain English: what a regular expression can find."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON = sorted(
    path for folder in ("src", "tests", "benchmarks", "examples") for path in (REPOSITORY / folder).rglob("*.py")
)
SOURCE = [path for path in PYTHON if path.is_relative_to(REPOSITORY / "src")]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ("LOG.md", "recipes.md")]
"""Pages that people write: the log quotes what earlier versions printed, and the recipe reference is generated."""

VAGUE_NAMES = frozenset({"one", "found", "at", "said", "told", "asked", "kept", "made", "given", "shown"})
"""Names that say nothing of what they name."""

PATTERNS = {
    "no X for not an X": r"(?<![Tt]here )\b(?:is|are|was|were|be) no (?!longer|more than|less than|need|matter)\w+",
    "said, told, asked": r"\b(?:said|told|untold|asked)\b",
    "so many for n": r"\bso many\b",
    "at hand": r"\bat hand\b",
    "to be had": r"\b(?:to|can|cannot|could) be had\b",
    "held against": r"\bheld against\b",
    "too after a comma": r", too\b(?! (?:long|short|large|small|many|much|few|little|late|early|deep|high|low|slow))",
    "goes on from": r"\bgo(?:es|ing)? on from\b",
    "what is shown": r"\b[Ww]hat is (?:shown|said|kept|made|asked)\b",
    "even so": r"\beven so\b",
    "hangs on": r"\bhangs? on\b",
    "tell apart": r"\b(?:tells?|told|telling) apart\b",
    "is to be": r"\b(?:is|are) to be \w+ed\b",
    "speak of": r"\bspeaks? of\b",
    "nobody": r"\bnobody\b",
    "stands": r"\b(?:stands?|stood) (?:in|at|on|there|where|before|behind|beside|for itself)\b",
    "lies": r"\b(?:lies|lie|lay) (?:in|at|on|there|beside|below|elsewhere)\b",
}
"""Turns of phrase that are no plain technical English; each is replaced by the usual term."""

EXEMPT = {
    "src/metalm_cli/evaluation/evaluator.py": "said {sorted(options.items())}",  # in the key of cached answers
    "src/metalm_cli/reports/reading/session_spans.py": "said",  # a key of sessions.json
}
"""A text of a file that is left as it is: it is saved in files that must stay readable."""

LINE_LENGTH = 100
"""Columns of the pages, tables, links and code left out."""


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a module binds, with their lines; imported names and keyword arguments of calls are others' names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            or (isinstance(node, ast.MatchAs | ast.MatchStar) and node.name)
            or (isinstance(node, ast.ExceptHandler) and node.name)
        ):
            yield node.name, node.lineno


def prose(source: str, data: bool = False) -> Iterator[tuple[str, int]]:
    """Comments and strings of a module, with the lines they begin at.

    Args:
        source: The module.
        data: Its strings are data (sentences of the miniature world): only docstrings and comments are prose.
    """
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if data and token.type != tokenize.COMMENT and not token.string.startswith('"""'):
            continue
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield token.string, token.start[0]


def phrases(text: str, line: int = 1) -> list[str]:
    """Turns of phrase in a text, each with its line."""
    flat = re.sub(
        r"\s*\n\s*(?:#\s*)?", lambda match: " " if match[0].count("\n") == 1 else "\n" * match[0].count("\n"), text
    )
    hits = []
    for name, pattern in PATTERNS.items():
        for match in re.finditer(pattern, flat):
            start = text.find(match[0].split()[0], 0)
            near = re.search(re.escape(match[0]).replace(r"\ ", r"\s+(?:#\s*)?"), text)
            offset = text.count("\n", 0, near.start() if near else max(start, 0))
            hits.append(f"{line + offset}: {name}: {match[0]}")
    return hits


def prose_hits(path: Path) -> list[str]:
    if path.suffix == ".md":
        text = re.sub(
            r"```.*?```|`[^`\n]*`",
            lambda match: "\n" * match[0].count("\n"),
            path.read_text(encoding="utf-8"),
            flags=re.DOTALL,
        )
        return phrases(text)
    data = "miniworld" in path.parts
    exempt = EXEMPT.get(short(path), "")
    texts = prose(path.read_text(encoding="utf-8"), data)
    return [hit for text, line in texts if not exempt or exempt not in text for hit in phrases(text, line)]


def capital_errors(path: Path) -> list[str]:
    """Messages of errors that begin with a capital letter, unless with an abbreviation."""
    hits = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id.endswith("Error")
            and node.args
        ):
            continue
        message = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
        if (
            isinstance(message, ast.Constant)
            and isinstance(message.value, str)
            and re.match(r"[A-Z][a-z]", message.value)
        ):
            hits.append(f"{node.lineno}: {message.value[:60]}")
    return hits


def long_lines(path: Path) -> list[str]:
    text = re.sub(
        r"```.*?```", lambda match: "\n" * match[0].count("\n"), path.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    lines = enumerate(text.splitlines(), start=1)
    return [
        f"{number}: {line[:60]}"
        for number, line in lines
        if len(line) > LINE_LENGTH and not line.startswith(("|", "!["))
    ]


def short(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name


@pytest.mark.parametrize("path", PYTHON, ids=short)
def test_names_say_what_they_name(path: Path) -> None:
    names = [f"{line}: {name}" for name, line in bound_names(ast.parse(path.read_text(encoding="utf-8")))]
    assert [entry for entry in names if entry.rpartition(" ")[2] in VAGUE_NAMES] == []


@pytest.mark.parametrize("path", [*SOURCE, *PAGES], ids=short)
def test_prose_is_plain_english(path: Path) -> None:
    assert prose_hits(path) == []


@pytest.mark.parametrize("path", SOURCE, ids=short)
def test_error_messages_begin_in_lower_case(path: Path) -> None:
    assert capital_errors(path) == []


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_pages_are_wrapped(path: Path) -> None:
    assert long_lines(path) == []


def test_the_checks_recognise_what_they_look_for(tmp_path: Path) -> None:
    assert [name for name, _ in bound_names(ast.parse("def f(at):\n    one = self.kept = at\n"))] == [
        "f",
        "at",
        "one",
        "kept",
    ]
    wrapped = "This is\n    no recipe, and what cannot\n    be had is told."
    assert [hit.split(": ")[1] for hit in phrases(wrapped)] == ["no X for not an X", "said, told, asked", "to be had"]
    assert phrases("There is no recipe of that name. It is too long.") == []
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text(f"`is no recipe` said\n{'x' * 101}\n| {'x' * 101} |\n")
    module.write_text('raise MetalmError("Wrong")\nraise MetalmError(f"JSON {1}")\n')
    assert prose_hits(page) == ["1: said, told, asked: said"]
    assert long_lines(page) == [f"2: {'x' * 60}"]
    assert capital_errors(module) == ["1: Wrong"]
