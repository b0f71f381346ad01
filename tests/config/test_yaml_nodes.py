"""YAML 1.2 parsing with line numbers, and output that YAML 1.1 and 1.2 parsers read alike."""

from __future__ import annotations

import math
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.config.yaml_nodes import MAX_INTEGER, parse_scalar, parse_yaml, to_flow_yaml
from metalm_cli.errors import Exit, MetalmError

SCALARS = {
    "no": "no",
    "on": "on",
    "Yes": "Yes",
    "1:30": "1:30",
    "012": 12,
    "0o12": 10,
    "0x1F": 31,
    "1e-4": 1e-4,
    "6E5": 6e5,
    "1.": 1.0,
    ".5": 0.5,
    "-3": -3,
    "1_000": "1_000",
    "2020-01-01": "2020-01-01",
    "true": True,
    "FALSE": False,
    "~": None,
    "": None,
    "Null": None,
    "nul": "nul",
    "=": "=",
    "1e400": math.inf,
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_of_the_core_schema(text: str, value: object) -> None:
    got = parse_scalar(text)
    assert got == value
    assert type(got) is type(value)


def test_quoted_scalars_are_text() -> None:
    assert parse_yaml("a: '1'\nb: \"true\"\nc: |\n  3\n", "f").plain() == {"a": "1", "b": "true", "c": "3\n"}


def test_every_value_has_the_line_of_its_key() -> None:
    root = parse_yaml("a:\n  b: 1\n\n  c:\n    - x\n    - {d: 2}\n", "r.yaml")
    assert root.value["a"].where == "r.yaml:1"
    inner = root.value["a"].value
    assert (inner["b"].where, inner["c"].where) == ("r.yaml:2", "r.yaml:4")
    assert [item.where for item in inner["c"].value] == ["r.yaml:5", "r.yaml:6"]
    assert inner["c"].value[1].value["d"].where == "r.yaml:6"


def test_anchors_are_copied() -> None:
    assert parse_yaml("a: &x {d: 1}\nb: *x\n", "f").plain() == {"a": {"d": 1}, "b": {"d": 1}}


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3", "duplicate key a"),
        ("a: 1\nb: {c: 1, c: 2}\n", "f:2", "duplicate key c"),
        ("a: 1\nb: !!str 3\n", "f:2", "tags"),
        ("a: &x !!python/name:os.system 3\n", "f:1", "tags"),
        ("!!map\na: 1\n", "f:1", "tags"),
        ("a: [1\n", "f:2", "YAML"),
        ("a: 1\n\tb: 2\n", "f:2", "YAML"),
        ("a: *x\n", "f:1", "undefined alias"),
        ("a: 1\n<<: {b: 1}\n", "f:2", "extends"),
        ("[1]: 2\n", "f:1", "plain text"),
        ("a: &x [*x]\n", "f:1", "nested"),
        ("a: 1\n---\nb: 2\n", "f:2", "document"),
        ("a: 1\nb: \x01\n", "f:2", "YAML"),
        ("[" * 5000, "f", "nested"),
        ("a: " + "x" * 1_000_001, "f", "too large"),
    ],
)
def test_invalid_yaml_is_an_error_with_its_line(text: str, where: str, message: str) -> None:
    with pytest.raises(MetalmError) as caught:
        parse_yaml(text, "f")
    assert caught.value.where == where
    assert message in str(caught.value)
    assert caught.value.exit_code is Exit.USAGE


def test_an_alias_bomb_is_rejected_quickly() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    start = time.process_time()
    with pytest.raises(MetalmError, match="too many values"):
        parse_yaml(bomb, "f")
    assert time.process_time() - start < 5


PLAIN_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(list(SCALARS)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(PLAIN_VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    if "<<" in str(value):
        return
    text = to_flow_yaml({"k": value})
    assert "\n" not in text
    assert parse_yaml(text, "f").plain() == {"k": value}


@pytest.mark.parametrize("text", [key for key in SCALARS if key != "="])
def test_text_that_looks_like_a_value_is_quoted_for_readers_of_both_versions(text: str) -> None:
    assert yaml.safe_load(to_flow_yaml({"k": text})) == {"k": text}
    assert parse_yaml(to_flow_yaml({"k": text}), "f").plain() == {"k": text}


@pytest.mark.parametrize("number", ["9" * 20, "9" * 3_990, "0x" + "f" * 3_990, "-" + "9" * 30, str(2**63)])
def test_a_number_beyond_64_bits_is_an_error(number: str) -> None:
    with pytest.raises(MetalmError, match="a whole number is too large"):
        parse_yaml(f"a:\n  - {number}", "f")
    assert parse_yaml(f"a: '{number}'", "f").plain() == {"a": number}


def test_escapes_of_json_are_characters_and_half_a_character_is_an_error() -> None:
    assert parse_yaml(r'{"a": "\ud83d\ude00"}', "f").plain() == {"a": "\U0001f600"}
    for text in (r'a: "x\ud83d"', r'"\ud83d": 1'):
        with pytest.raises(MetalmError, match="half of a surrogate pair"):
            parse_yaml(text, "f")
