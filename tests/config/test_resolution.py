"""Recipe resolution: extends, overrides, dropped values, provenance, and the round trip through YAML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.config import ResolvedRecipe, resolve, split_arguments
from metalm_cli.config.yaml_nodes import MAX_INTEGER
from metalm_cli.errors import MetalmError

MINIMAL = """\
model:
  decoder: {checkpoint: gpt2}
  encoders:
    text: {checkpoint: bert, revision: abc}
data:
  sources:
    - {name: a, path: a.jsonl}
    - {name: b, hub: x/y, revision: "1", weight: 2}
objective: {name: semi_causal, span_fraction: 0.5}
train: {steps: 1000}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(MINIMAL)
    return "mine.yaml"


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def dropped(resolved: ResolvedRecipe) -> list[str]:
    return [entry.key for entry in resolved.dropped]


def test_values_have_a_provenance(recipe: str) -> None:
    resolved = resolve("pretrain", recipe, ["train.seed=3"])
    assert str(resolved.provenance["train.seed"]) == "command line"
    assert resolved.provenance["train.seed"].kind == "command line"
    assert str(resolved.provenance["train.steps"]) == "mine.yaml:10"
    assert str(resolved.provenance["data.sources.1.weight"]) == "mine.yaml:8"
    assert str(resolved.provenance["train.gradient_clip"]) == "default"
    assert (resolved.name, resolved.recipe.train.steps, resolved.recipe.train.seed) == ("mine", 1000, 3)


def test_keys_with_dots_inside_keep_their_place(recipe: str) -> None:
    resolved = resolve("pretrain", recipe, ["data.sources.0.exclude={meta.set: [x]}"])
    assert str(resolved.provenance["data.sources.0.exclude.meta.set"]) == "command line"


def test_every_leaf_has_a_provenance(recipe: str) -> None:
    resolved = resolve("pretrain", recipe)
    assert {key for _, key in resolved.lines() if key} == set(resolved.provenance)


def test_extends_merges_mappings_and_replaces_lists(recipe: str) -> None:
    write("sub/next.yaml", "extends: ../mine.yaml\ndata: {sources: [{name: c, path: c}]}\ntrain: {seed: 5}\n")
    write("sub/last.yaml", "extends: next.yaml\ndescription: last\ntrain: {steps: 7, warmup_steps: 0}\n")
    resolved = resolve("pretrain", "sub/last.yaml")
    assert [source.name for source in resolved.recipe.data.sources] == ["c"]
    assert (resolved.recipe.train.steps, resolved.recipe.train.seed) == (7, 5)
    assert resolved.recipe.objective.span_fraction == 0.5  # type: ignore[union-attr]
    assert str(resolved.provenance["train.seed"]) == "sub/next.yaml:3"
    assert str(resolved.provenance["objective.span_fraction"]) == "mine.yaml:9"


def test_a_description_is_not_inherited(recipe: str) -> None:
    write("a.yaml", "extends: mine.yaml\ndescription: of a\n")
    write("b.yaml", "extends: a.yaml\n")
    assert resolve("pretrain", "a.yaml").recipe.description == "of a"
    assert resolve("pretrain", "b.yaml").recipe.description == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: b.yaml\n", "cycle"),
        ("extends: ./nowhere.yaml\n", "not found"),
        ("extends: smal\n", "did you mean small"),
        ("extends: [small]\n", "expected the name or path"),
    ],
)
def test_bad_extends(recipe: str, text: str, message: str) -> None:
    write("b.yaml", "extends: a.yaml\n")
    with pytest.raises(MetalmError, match=message) as caught:
        resolve("pretrain", write("a.yaml", text))
    assert re.fullmatch(r"[ab]\.yaml:1", caught.value.where)


def test_too_long_a_chain_is_an_error(recipe: str) -> None:
    for number in range(20):
        write(f"r{number}.yaml", f"extends: r{number + 1}.yaml\n")
    with pytest.raises(MetalmError, match="longer than 16"):
        resolve("pretrain", "r0.yaml")


def test_overrides_address_list_items(recipe: str) -> None:
    resolved = resolve("pretrain", recipe, ["data.sources.1.weight=0.5", "objective.span_length=[2, 9]"])
    assert [source.weight for source in resolved.recipe.data.sources] == [None, 0.5]
    assert resolved.recipe.data.sources[1].hub == "x/y"
    assert resolved.recipe.objective.span_length == [2, 9]  # type: ignore[union-attr]


@pytest.mark.parametrize("index", ["2", "x", "²"])
def test_a_list_item_that_is_not_there(recipe: str, index: str) -> None:
    with pytest.raises(MetalmError, match=f"has no item {index}") as caught:
        resolve("pretrain", recipe, [f"data.sources.{index}.path=x"])
    assert "list of 2" in caught.value.why


def test_a_pattern_is_text_though_yaml_would_read_an_alias(recipe: str) -> None:
    assert resolve("pretrain", recipe, ["data.sources.0.path=*.jsonl"]).recipe.data.sources[0].path == "*.jsonl"


def test_one_of_a_group_drops_the_others_and_what_belongs_to_them(recipe: str) -> None:
    resolved = resolve("pretrain", recipe, ["data.sources.1.path=b.jsonl"])
    assert dropped(resolved) == ["data.sources.1.hub", "data.sources.1.revision"]
    source = resolved.recipe.data.sources[1]
    assert (source.hub, source.revision, source.path, source.weight) == (None, None, "b.jsonl", 2)
    assert str(resolved.dropped[0]) == (
        "data.sources.1.hub (mine.yaml:8) dropped: data.sources.1.path is set (command line)"
    )


def test_another_checkpoint_drops_the_revision_of_the_first(recipe: str) -> None:
    assert dropped(resolve("pretrain", recipe, ["model.encoders.text.checkpoint=roberta"])) == [
        "model.encoders.text.revision"
    ]
    assert dropped(resolve("pretrain", recipe, ["model.encoders.text.checkpoint=bert"])) == []


def test_a_checkpoint_drops_config_and_trained_tokenizer(recipe: str) -> None:
    resolved = resolve("pretrain", "small", ["model.decoder.checkpoint=gpt2"])
    assert dropped(resolved) == ["model.decoder.config", "model.decoder.tokenizer"]


def test_model_flag_drops_the_parts(recipe: str) -> None:
    resolved = resolve("pretrain", "small", [], {"model.checkpoint": "runs/x"})
    assert resolved.recipe.model.checkpoint == "runs/x"
    assert resolved.recipe.model.decoder is None
    assert dropped(resolved) == ["model.decoder", "model.encoders", "model.connector"]
    assert str(resolved.provenance["model.checkpoint"]) == "command line"
    assert resolve("pretrain", "small", [], {"model.checkpoint": None}).dropped == ()


def test_parts_drop_a_checkpoint(recipe: str) -> None:
    write("on.yaml", "extends: mine.yaml\nmodel: {checkpoint: runs/x}\n")
    resolved = resolve("pretrain", "on.yaml", ["model.decoder.checkpoint=gpt2", "model.encoders.text.checkpoint=b"])
    assert dropped(resolved) == ["model.decoder", "model.encoders", "model.checkpoint"]
    assert resolved.recipe.model.decoder.checkpoint == "gpt2"  # type: ignore[union-attr]


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_rates_of_parts_go_with_a_checkpoint_in_any_order_of_layers(command: str, tmp_path: Path) -> None:
    rates = {
        "decoder": {"trains": "last_1", "learning_rate": 1e-3},
        "encoders": {"text": {"learning_rate": 1e-4, "connector": {"learning_rate": 2e-4}}},
        "connector": {"learning_rate": 3e-4},
    }
    base = {"command": command, "extends": {"pretrain": "base", "finetune": "world"}[command]}
    if command == "pretrain":
        base |= {"data": {"sources": [{"name": "w", "world": {}}]}, "objective": {"name": "semi_causal"}}
        base |= {"train": {"steps": 200}}
    for name, model in (("rates", rates), ("checkpoint", {"checkpoint": "runs/x"})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**base, "model": model}))
    as_flag = resolve(command, str(tmp_path / "rates.yaml"), [], {"model.checkpoint": "runs/x"})
    overrides = [
        "model.decoder={trains: last_1, learning_rate: 1e-3}",
        "model.encoders.text.learning_rate=1e-4",
        "model.encoders.text.connector.learning_rate=2e-4",
        "model.connector.learning_rate=3e-4",
    ]
    as_overrides = resolve(command, str(tmp_path / "checkpoint.yaml"), overrides)
    for resolved in (as_flag, as_overrides):
        model = resolved.recipe.model
        assert resolved.dropped == ()
        assert model.checkpoint == "runs/x"
        assert (model.decoder.trains, model.decoder.learning_rate) == ("last_1", 1e-3)
        assert (model.encoders["text"].trains, model.encoders["text"].learning_rate) == (None, 1e-4)
        assert model.encoders["text"].connector.learning_rate == 2e-4
        assert model.connector.learning_rate == 3e-4
        path = tmp_path / "recorded.yaml"
        path.write_text(resolved.to_yaml())
        assert resolve(command, str(path)).recipe.model == model, "a recorded recipe resolves to itself"


def test_in_one_layer_exclusive_keys_are_an_error(recipe: str) -> None:
    for overrides in (
        ["data.sources.0.hub=a/b", "data.sources.0.world={documents: 3}"],
        ["model.checkpoint=x", "model.decoder.checkpoint=y"],
        ["train.steps=3", "train.epochs=1"],
    ):
        with pytest.raises(MetalmError, match="got"):
            resolve("pretrain", recipe, overrides)


def test_another_objective_drops_the_settings_of_the_first(recipe: str) -> None:
    resolved = resolve("pretrain", recipe, ["objective.prefix_length=[4, 8]", "objective.name=prefix"])
    assert dropped(resolved) == ["objective.span_fraction"]
    assert resolved.recipe.objective.model_dump() == {"name": "prefix", "prefix_length": [4, 8]}
    assert resolve("pretrain", recipe, ["objective.name=semi_causal"]).dropped == ()


def test_null_removes_a_mapping(recipe: str) -> None:
    resolved = resolve("pretrain", recipe, ["model.encoders=null", "objective.name=causal"])
    assert resolved.recipe.model.encoders == {}
    assert "model.encoders" in dropped(resolved)
    resolved = resolve("pretrain", recipe, ["model.encoders.more.checkpoint=b", "model.encoders.text=null"])
    assert list(resolved.recipe.model.encoders) == ["more"]


@pytest.mark.parametrize("name", ["small", "pile", "paper/language-1.3b", "encoder-rtd", "small-gpt-same-total"])
def test_the_resolved_yaml_resolves_to_itself(name: str, tmp_path: Path) -> None:
    first = resolve("pretrain", name, ["train.learning_rate=1e-4"])
    path = tmp_path / "recipe.yaml"
    path.write_text(first.to_yaml())
    second = resolve("pretrain", str(path))
    assert second.recipe.model_dump(exclude={"extends"}) == first.recipe.model_dump(exclude={"extends"})
    assert second.to_yaml() == first.to_yaml()
    assert second.dropped == ()
    assert "extends" not in first.to_yaml()
    assert all(entry.kind == "recipe" for entry in second.provenance.values())


@settings(deadline=None, max_examples=60)
@given(
    text=st.text(min_size=1, max_size=20),
    rate=st.floats(min_value=1e-9, max_value=10),
    exclude=st.dictionaries(
        st.text(min_size=1, max_size=6).filter(lambda key: key != "<<"),
        st.lists(st.text(max_size=6) | st.integers(-MAX_INTEGER, MAX_INTEGER), max_size=3),
        max_size=3,
    ),
)
def test_any_value_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, text: str, rate: float, exclude: dict[str, list[object]]
) -> None:
    flags = {"data.sources.0.text": text, "train.learning_rate": rate, "data.sources.0.exclude": exclude}
    first = resolve("pretrain", "small", [], flags)
    assert first.recipe.data.sources[0].text == text
    assert first.recipe.data.sources[0].exclude == exclude
    path = tmp_path_factory.mktemp("r") / "recipe.yaml"
    path.write_text(first.to_yaml(), encoding="utf-8")
    assert resolve("pretrain", str(path)).recipe.model_dump() == first.recipe.model_dump(exclude={"extends"}) | {
        "extends": None
    }


def test_names_and_paths(recipe: str) -> None:
    assert resolve("pretrain").name == "small"
    assert resolve("pretrain", "./mine.yaml").name == "mine"
    assert resolve("pretrain", str(Path("mine.yaml").resolve())).name == "mine"
    for bad, message in (
        ("mine", "did you mean ./mine.yaml"),
        ("smal", "did you mean small"),
        ("gpt-same-total", "did you mean paper/gpt-same-total"),
        ("paper/../small", "no shipped recipe"),
        ("nothing.yaml", "not found"),
        ("./", "is a folder"),
    ):
        with pytest.raises(MetalmError) as caught:
            resolve("pretrain", bad)
        assert re.search(message, str(caught.value)), bad


@pytest.mark.parametrize(
    ("raw", "where", "message"),
    [
        (b"", "bad.yaml:1", "got nothing"),
        (b"- 1\n", "bad.yaml:1", "got a list"),
        (b"a: 1\nb: \xff\n", "bad.yaml:2", "UTF-8"),
        (b"a: 1\na: 2\n", "bad.yaml:2", "duplicate"),
    ],
)
def test_files_that_are_not_recipes(recipe: str, raw: bytes, where: str, message: str) -> None:
    Path("bad.yaml").write_bytes(raw)
    with pytest.raises(MetalmError, match=message) as caught:
        resolve("pretrain", "bad.yaml")
    assert caught.value.where == where


def test_arguments_are_split() -> None:
    assert split_arguments(["a.b=1", "small", "c=x=y"]) == ("small", ["a.b=1", "c=x=y"])
    assert split_arguments(["./my=odd.yaml"]) == ("./my=odd.yaml", [])
    assert split_arguments([]) == (None, [])
    with pytest.raises(MetalmError, match="small and pile"):
        split_arguments(["small", "pile"])


@pytest.mark.parametrize("override", ["a..b=1", "extends=small", "command=pretrain", "train.steps=[1", "1a=2"])
def test_bad_overrides(recipe: str, override: str) -> None:
    with pytest.raises(MetalmError) as caught:
        resolve("pretrain", recipe, [override])
    assert caught.value.where == "command line"
