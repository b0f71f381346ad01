"""Which parts of a model start from an outside checkpoint, by the lineage of what the run starts from."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.provenance.lineage import pretrained_parts

PARTS = ("decoder", "encoders.text", "connectors.text")


def outside(part: str | None, name: str = "hub/model") -> dict[str, Any]:
    """Record of a checkpoint that metalm did not train."""
    record: dict[str, Any] = {"checkpoint": name, "lineage": None}
    return record if part is None else {**record, "part": part}


def run(part: str | None, *ancestors: dict[str, Any]) -> dict[str, Any]:
    """Record of a run that started from ancestors; without any, its model was trained from scratch."""
    record: dict[str, Any] = {"checkpoint": "runs/a", "lineage": {"command": "pretrain", "ancestors": [*ancestors]}}
    return record if part is None else {**record, "part": part}


@pytest.mark.parametrize(
    ("ancestors", "expected"),
    [
        ([], {}),
        ([outside("encoders.text")], {"encoders.text": "hub/model"}),
        (
            [outside("encoders.text", "a"), outside("decoder", "b")],
            {"decoder": "b", "encoders.text": "a"},
        ),
        ([run("encoders.text")], {}),
        ([run("encoders.text", outside("encoders.other"))], {"encoders.text": "hub/model"}),
        ([run("decoder", run("model", outside("model")))], {"decoder": "hub/model"}),
        ([outside("model")], {"decoder": "hub/model", "encoders.text": "hub/model"}),
        ([run("model")], {}),
        ([run("model", outside("encoders.text"))], {"encoders.text": "hub/model"}),
        ([run("model", run("model", outside("decoder")))], {"decoder": "hub/model"}),
        ([run("model", outside("encoders.vision"))], {}),
        ([run("model", run(None, outside(None)))], {}),
        ([{"checkpoint": "runs/a", "part": "model", "lineage": {"command": "pretrain"}}], {}),
        ([{"checkpoint": "runs/a", "part": "model", "lineage": {"ancestors": ["a", None, {"part": [1]}]}}], {}),
        ([{"checkpoint": "runs/a", "part": "decoder", "lineage": {"ancestors": "damaged"}}], {}),
    ],
    ids=[
        "nothing",
        "an encoder",
        "two parts",
        "an encoder trained here from scratch",
        "an encoder trained on here",
        "a decoder trained on twice",
        "a whole model",
        "a model from scratch",
        "a model of an ancestor with an encoder",
        "two generations",
        "an encoder that the model has not",
        "version 0.1 records no parts",
        "a lineage without ancestors",
        "ancestors of another form",
        "ancestors that are no list",
    ],
)
def test_parts_from_outside(ancestors: list[dict[str, Any]], expected: dict[str, str]) -> None:
    assert pretrained_parts(ancestors, PARTS) == expected


def test_an_encoder_decoder_is_one_part() -> None:
    assert pretrained_parts([run("model", outside("seq2seq", "t5-small"))], ["seq2seq"]) == {"seq2seq": "t5-small"}
    assert pretrained_parts([outside("model", "t5-small")], ["seq2seq"]) == {"seq2seq": "t5-small"}
