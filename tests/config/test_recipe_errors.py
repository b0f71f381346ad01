"""Recipe errors: all problems at once, each with its key, line, value, expectation and remedy."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from metalm_cli.config import resolve
from metalm_cli.config.recipe_errors import MAX_LISTED, RecipeError, RecipeProblem
from metalm_cli.errors import MetalmError

INVALID_RECIPE = """\
model:
  decoder: {config: {hidden_size: 8}, tokeniser: x, tokenizer: {new: {vocab_size: 1e4}}}
  encoders:
    text: {checkpoint: bert, tokenizer: {new: {}}, trains: last, max_length: "512"}
data:
  sources:
    - {path: a.jsonl, weight: -1}
    - {name: b, hub: x/y, path: z}
  sequence_length: 2048
  isolate_documents: no
objective: {name: semi_causal, span_length: [9, 4], span_fraction: .inf}
train:
  steps: 10
  warmup_steps: 11
  precision: fp8
  betas: [0.9]
  micro_batch_size: 5
learning_rate: 1
"""


def problems_of(text: str, tmp_path: Path, *overrides: str) -> list[RecipeProblem]:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        resolve("pretrain", str(path), overrides)
    return list(caught.value.problems)


def test_all_problems_at_once_each_on_its_line(tmp_path: Path) -> None:
    problems = {problem.key: problem for problem in problems_of(INVALID_RECIPE, tmp_path)}
    lines = {key: int(problem.where.rsplit(":", 1)[1]) for key, problem in problems.items()}
    assert lines == {
        "learning_rate": 18,
        "model.decoder.tokeniser": 2,
        "model.decoder.tokenizer.new.vocab_size": 2,
        "model.decoder.config.model_type": 2,
        "model.encoders.text.trains": 4,
        "model.encoders.text.max_length": 4,
        "model.encoders.text.tokenizer": 4,
        "data.sources.0.name": 7,
        "data.sources.0.weight": 7,
        "data.sources.1.path": 8,
        "data.isolate_documents": 10,
        "objective.span_length": 11,
        "objective.span_fraction": 11,
        "train.warmup_steps": 14,
        "train.precision": 15,
        "train.betas": 16,
        "train.micro_batch_size": 17,
    }
    assert problems["learning_rate"].remedy == "did you mean train.learning_rate?"
    assert problems["model.decoder.tokeniser"].remedy == "did you mean tokenizer?"
    assert problems["model.decoder.tokenizer.new.vocab_size"].remedy == "write 10000"
    assert problems["model.encoders.text.max_length"].remedy == "write 512"
    assert problems["data.isolate_documents"].remedy == "write false"
    assert problems["data.isolate_documents"].message == "got 'no', expected true or false"
    assert problems["train.precision"].message == "got fp8, expected fp32 or bf16"
    assert problems["train.warmup_steps"].message == "got 11 with train.steps 10, expected at most train.steps"
    assert problems["objective.span_fraction"].message == "got .inf, expected a number above 0 and below 1"
    assert problems["data.sources.1.path"].message == "expected only one of hub, path, world, got hub and path"


def test_no_message_is_pydantics(tmp_path: Path) -> None:
    for problem in problems_of(INVALID_RECIPE, tmp_path):
        text = f"{problem.message} {problem.remedy}"
        assert not any(word in text for word in ("Input should", "Value error", "validation", "type=", "Extra"))
        assert "got" in text or "missing" in text or "unknown" in text


def test_the_error_shows_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(INVALID_RECIPE)
    with pytest.raises(RecipeError) as caught:
        resolve("pretrain", str(path))
    text = str(caught.value)
    assert text.startswith("recipe bad has 17 problems")
    assert all(problem.key in text and problem.remedy in text for problem in caught.value.problems)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["train.steps=null"], "train.steps", "train.steps or train.epochs"),
        (["train.steps=20", "train.warmup_steps=21"], "train.warmup_steps", "at most train.steps"),
        (["train.warmup_steps=10000"], "train.warmup_steps", "at most train.steps"),
        (
            ["objective={name: mlm}", "model.decoder=null", "data.validation.objective={name: causal}"],
            "data.validation.objective",
            "got causal with objective mlm",
        ),
        (["train.batch_size=9", "train.micro_batch_size=2"], "train.micro_batch_size", "divisor"),
        (["train.micro_batch_size=16"], "train.micro_batch_size", "divisor"),
        (["train.betas=[0.9, 1.0]"], "train.betas", "below 1"),
        (["objective.span_length=[8, 256]"], "objective.span_length", "below the row length"),
        (["objective.span_length=[129, 200]"], "objective.span_length", "fit the encoder"),
        (["objective.span_length=[9, 3]"], "objective.span_length", "low <= high"),
        (["model.connector={kind: stak}"], "model.connector.kind", "expected linear, mlp, stack"),
        (["model.connector={kind: stack}"], "model.connector.factor", "kind stack needs factor"),
        (["model.connector={kind: stack, factor: 0}"], "model.connector.factor", "at least 1"),
        (["model.connector={kind: mlp, factor: 2}"], "model.connector.factor", "only with kind stack or mean"),
        (["model.connector={kind: mean, factor: 2, heads: 2}"], "model.connector.heads", "only with kind queries"),
        (["model.connector={kind: queries}"], "model.connector.length", "kind queries needs length"),
        (["model.connector={kind: queries, length: 0}"], "model.connector.length", "at least 1"),
        (["model.connector={kind: queries, length: 256}"], "model.connector.length", "expected fewer positions"),
        (["model.connector={kind: mlp, layers: 1}"], "model.connector.layers", "at least 2"),
        (["objective={name: prefix, prefix_length: [8, 256]}"], "objective.prefix_length", "below the row length"),
        (["objective={name: reconstruct, span_length: [8, 256]}"], "objective.span_length", "below the row length"),
        (["objective={name: reconstruct, mark: ''}"], "objective.mark", "text"),
        (["objective.name=reconstruct", "model.encoders=null"], "model.encoders", "missing"),
        (
            ["objective.name=reconstruct", "data.isolate_documents=false"],
            "data.isolate_documents",
            "sessions of their own",
        ),
        (
            ["objective={name: mixed, continuation: {name: prefix, prefix_length: [8, 256]}}"],
            "objective.continuation.prefix_length",
            "below the row length",
        ),
        (
            ["objective={name: mixed, reconstruction: {span_length: [8, 256]}}"],
            "objective.reconstruction.span_length",
            "below the row length",
        ),
        (["objective={name: mixed, reconstruction_share: 1.0}"], "objective.reconstruction_share", "below 1"),
        (["train.distill.weight=0"], "train.distill.weight", "above 0"),
        (["train.distill.weight=-2"], "train.distill.weight", "above 0"),
        (["train.distill.teacher=base"], "train.distill.teacher", "adds none to the decoder"),
        (["train.distill={}", "objective.name=causal", "model.encoders=null"], "train.distill", "docks nothing"),
        (["train.distill={}", "objective={name: reconstruct}"], "train.distill", "the docked texts themselves"),
        (["train.distill={}", "objective={name: mlm}", "model.decoder=null"], "train.distill", "a single encoder"),
        (["train.distill={}", "model.encoders=null"], "train.distill", "without encoders"),
        (
            ["model.checkpoint=x", "model.special_tokens.start=never"],
            "model.special_tokens",
            "together with model.checkpoint",
        ),
        (["model.checkpoint=x", "model.connector.kind=mlp"], "model.connector", "together with model.checkpoint"),
        (["model.checkpoint=x", "model.encoders.text.max_length=64"], "model.encoders.text", "got model.encoders.text"),
        (["model.checkpoint=x", "model.decoder={dropout: 0.1}"], "model.decoder", "got model.decoder.dropout together"),
        (["model.encoders=null"], "model.encoders", "missing"),
        (["objective.name=prefix", "model.encoders=null"], "model.encoders", "missing"),
        (["objective.name=causal"], "model.encoders", "docks nothing"),
        (["model.decoder.config=null"], "model.decoder", "neither checkpoint nor config"),
        (["model.encoders.more={trains: all}"], "model.encoders.more", "neither checkpoint nor config"),
        (["model.encoders.a-b={checkpoint: x}"], "model.encoders.a-b", "letters, digits"),
        (["model.decoder.config.model_type=3"], "model.decoder.config.model_type", "got 3"),
        (["model.decoder={checkpoint: x, tokenizer: {new: {}}}"], "model.decoder.tokenizer", "its own token ids"),
        (["model.decoder.tokenizer=null"], "model.decoder.tokenizer", "missing"),
        (["model.decoder.tokenizer=same"], "model.decoder.tokenizer", "only valid for an encoder"),
        (["objective.name=mlm", "model.decoder=null"], "model.encoders.text.tokenizer", "only valid for an encoder"),
        (["objective.name=rtd"], "model.decoder", "got a decoder"),
        (
            ["objective.name=mlm", "model.decoder=null", "model.encoders.b.checkpoint=x"],
            "model.encoders",
            "a single encoder",
        ),
        (
            ["objective={name: mlm, keep_rate: 0.6, random_rate: 0.5}", "model.decoder=null"],
            "objective.random_rate",
            "1.1",
        ),
        (["data.sources=[]"], "data.sources", "not empty"),
        (["data.sources=[{name: a, path: x}, {name: a, path: y}]"], "data.sources", "two sources named a"),
        (["data.sources=[{name: a}]"], "data.sources.0", "got none"),
        (["data.sources=[{name: a, path: x, revision: b}]"], "data.sources.0.revision", "without hub"),
        (["data.sources=[{name: a, world: {}, split: test}]"], "data.sources.0.split", "without hub"),
        (["data.sources.0.streaming=true"], "data.sources.0.streaming", "are generated"),
        (
            ["data.validation.sources=[{name: a, world: {}, weight: 2}]"],
            "data.validation.sources.0.weight",
            "the same number of documents",
        ),
        (["model.decoder.revision=v1"], "model.decoder.revision", "without model.decoder.checkpoint"),
        (["model=null"], "model", "missing"),
        (["model=3"], "model", "expected a mapping"),
        (["train.trackers=[tensorbord]"], "train.trackers", "tensorboard/wandb/trackio"),
        (["train.steps=true"], "train.steps", "whole number"),
        (["train.max_time=90"], "train.max_time", "90s"),
        (["objective.name=rdt"], "objective.name", "rtd"),
        (["objective.name=distill"], "objective.name", "got distill"),
        (["train.steps.x=1"], "train.steps", "got {x: 1}"),
    ],
)
def test_inconsistent_values_are_errors(overrides: list[str], key: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(
            "pretrain", "small", [argument for argument in overrides if "a-b" not in argument] or (), _flags(overrides)
        )
    matching = [problem for problem in caught.value.problems if problem.key == key]
    assert matching, [problem.key for problem in caught.value.problems]
    assert any(message in problem.message for problem in matching), matching
    assert all(problem.where for problem in matching)


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["data.mixture.weights={world_reviews: 2}"], "data.mixture.weights", "expected strategy explicit"),
        (
            ["data.mixture={weights: {a: 2}, strategy: explicit, groups: [{tasks: [world], weight: 1}]}"],
            "data.mixture.weights",
            "with data.mixture.groups",
        ),
        (
            ["data.mixture={strategy: equal, groups: [{tasks: [world], weight: 1}]}"],
            "data.mixture.strategy",
            "a strategy of its own",
        ),
        (["train.distill={teacher: base}"], "train.distill.teacher", "model.lora adds none"),
        (["train.distill={}", "data.templates.input_route=decoder"], "train.distill", "docks nothing"),
        (["train.distill={}", "model.seq2seq.checkpoint=x"], "train.distill", "an encoder–decoder"),
        (["train.patience=3", "data.validation.examples=0"], "train.patience", "needs validation examples"),
        (["train.final=best", "data.validation.examples=0"], "train.final", "needs validation examples"),
        (["model.encoders.text.max_length=64"], "model.encoders.text", "got model.encoders.text.max_length"),
        (["model.connector.kind=mlp"], "model.connector", "together with model.checkpoint"),
        (
            ["model.trains.encoders=null", "model.encoders.text.trains=none", "model.lora={}"],
            "model.lora.parts",
            "got encoders with model.encoders.text.trains: none",
        ),
    ],
)
def test_inconsistent_values_of_finetuning_are_errors(overrides: list[str], key: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("finetune", "world", overrides)
    matching = [problem for problem in caught.value.problems if problem.key == key]
    assert any(message in problem.message for problem in matching), caught.value.problems


def _flags(overrides: list[str]) -> dict[str, object]:
    """Keys that the command line cannot express."""
    return {"model.encoders": {"a-b": {"checkpoint": "x"}}} if any("a-b" in argument for argument in overrides) else {}


def test_an_invalid_value_causes_no_further_problems() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("pretrain", "small", ["train.steps=x"])
    assert [problem.key for problem in caught.value.problems] == ["train.steps"]


def test_very_many_unknown_keys_are_counted_and_the_first_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("extends: small\ntrain:\n" + "".join(f"  stepz{number}: 1\n" for number in range(5_000)))
    start = time.process_time()
    with pytest.raises(RecipeError) as caught:
        resolve("pretrain", str(path))
    assert time.process_time() - start < 5
    assert len(caught.value.problems) == 5_000
    text = str(caught.value)
    assert text.count("unknown key") == MAX_LISTED
    assert "stepz0: unknown key" in text
    assert "did you mean steps?" in text
    assert text.endswith("and 4,950 more")


@pytest.mark.parametrize("override", ["data.sources.0.path=", "train.steps= "])
def test_an_empty_value_on_the_command_line_is_an_error(override: str) -> None:
    with pytest.raises(MetalmError, match="is empty") as caught:
        resolve("pretrain", "small", [override])
    assert f"{override.partition('=')[0]}=null" in caught.value.remedy


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.learning_rate=1e20", "above 0 and at most 10"),
        ("model.decoder.learning_rate=11", "above 0 and at most 10"),
        ("train.weight_decay=5", "of at least 0 and at most 1"),
        ("train.epsilon=1e12", "above 0 and at most 1"),
        ("train.epochs=1e300", "at most 100000"),
    ],
)
def test_a_number_of_training_beyond_its_limit(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=override.partition("=")[0]) as caught:
        resolve("pretrain", "small", [override])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("config", "needs_tokenizer"),
    [
        ("{model_type: vit, image_size: 32, patch_size: 8}", False),
        ("{model_type: vilt, image_size: 32, patch_size: 8}", True),
        ("{model_type: bert, hidden_size: 32}", True),
    ],
)
def test_of_encoders_from_a_config_only_those_of_images_need_no_tokenizer(
    tmp_path: Path, config: str, needs_tokenizer: bool
) -> None:
    overrides = (f"model.encoders.other.config={config}", "train.stepz=1")
    keys = {problem.key for problem in problems_of("extends: small\n", tmp_path, *overrides)}
    assert keys == {"train.stepz", *(["model.encoders.other.tokenizer"] if needs_tokenizer else [])}
