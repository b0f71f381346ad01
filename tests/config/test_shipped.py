"""Shipped recipes resolve in a checkout, and the twins have the sizes they state."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalm_cli.config import resolve
from metalm_cli.config.locate import find_recipe, shipped_names, shipped_root
from metalm_cli.config.resolution import base_recipe_problems

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_recipes_resolve_and_have_descriptions(name: str) -> None:
    resolved = resolve(None, name)
    assert resolved.recipe.description
    assert resolved.recipe_file.shipped
    assert resolved.recipe_file.path.read_text().startswith("#")


def test_the_promised_recipes_are_there() -> None:
    assert set(shipped_names()) >= {
        "pile",
        "align",
        "clip-small",
        "connector-only",
        "docked",
        "encoder-mlm",
        "encoder-rtd",
        "small",
        "small-gpt-same-decoder",
        "small-gpt-same-total",
        "paper/language-1.3b",
        "paper/gpt-same-decoder",
        "paper/gpt-same-total",
        "paper/vision-language",
        "multitask",
        "mnli",
        "single",
        "flan",
    }
    assert "base" not in shipped_names()
    assert base_recipe_problems(find_recipe("base")) == []


def test_a_base_recipe_may_lack_keys_but_not_have_wrong_values(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("command: finetune\ndata: {mixture: {strategy: explicit}}\ntrain: {seed: none}\n")
    assert [problem.key for problem in base_recipe_problems(find_recipe(str(base)))] == ["train.seed"]


def test_the_papers_settings() -> None:
    recipe = resolve("pretrain", "paper/language-1.3b").recipe
    decoder, encoder = recipe.model.decoder, recipe.model.encoders["text"]
    assert decoder is not None
    assert decoder.config is not None
    assert encoder.config is not None
    shape = ("num_hidden_layers", "hidden_size", "num_attention_heads")
    assert [decoder.config[key] for key in shape] == [24, 2048, 32]
    assert [encoder.config[key] for key in shape] == [24, 1024, 16]
    assert (decoder.dropout or decoder.config["dropout"], encoder.dropout, encoder.trains) == (0.0, 0.1, "last_2")
    assert (encoder.max_length, recipe.data.sequence_length, recipe.data.isolate_documents) == (512, 2048, False)
    assert recipe.objective.model_dump() == {"name": "semi_causal", "span_length": [64, 128], "span_fraction": 0.25}
    train = recipe.train
    assert (train.steps, train.batch_size, train.learning_rate) == (300_000, 1024, 6e-4)
    assert recipe.model.connector.kind == "linear"
    assert recipe.data.sources[0].exclude == {"meta.pile_set_name": ["Github", "ArXiv", "PubMed Central"]}


def test_the_papers_vision_language_settings() -> None:
    recipe = resolve("finetune", "paper/vision-language").recipe
    decoder, encoder = recipe.model.decoder, recipe.model.encoders["vision"]
    assert decoder is not None
    assert decoder.config is not None
    assert encoder.config is not None
    shape = ("num_hidden_layers", "hidden_size", "num_attention_heads", "dropout")
    assert [decoder.config[key] for key in shape] == [24, 1024, 16, 0.1]
    assert (encoder.config["num_hidden_layers"], encoder.config["image_size"], encoder.dropout) == (12, 224, 0.1)
    assert (recipe.model.connector.kind, recipe.model.connector.layers) == ("mlp", 3)
    train = recipe.train
    assert (train.steps, train.batch_size, train.learning_rate, train.warmup_steps) == (350_000, 256, 1e-4, 2500)
    assert (train.betas, train.weight_decay, train.schedule) == ([0.9, 0.98], 0.01, "linear")
    assert _decoder_parameters("paper/vision-language", 50_257, "finetune") / 1e6 == pytest.approx(353.8, abs=0.1)


@pytest.mark.parametrize(("name", "prefix"), [("small", "small-"), ("paper/language-1.3b", "paper/")])
def test_twins_differ_in_the_model_and_the_objective_alone(name: str, prefix: str) -> None:
    base = resolve("pretrain", name).recipe
    # A twin is validated on the positions that its MetaLM predicts.
    for twin in ("gpt-same-decoder", "gpt-same-total"):
        other = resolve("pretrain", prefix + twin).recipe
        compared = base.data.validation.model_copy(update={"objective": base.objective})
        data = base.data.model_copy(update={"validation": compared})
        assert (other.data, other.train, other.model.special_tokens) == (data, base.train, base.model.special_tokens)
        assert (other.objective.name, other.model.encoders) == ("causal", {})
    assert resolve("pretrain", f"{prefix}gpt-same-decoder").recipe.model.decoder == base.model.decoder


def test_outside_checkpoints_of_shipped_recipes_train_at_1e_4() -> None:
    """The rates of pile and of the demo are their own; of docked it is the default. Other recipes build their parts."""
    rates = {}
    for name in shipped_names():
        recipe = resolve(None, name).recipe
        model, train = recipe.model, recipe.train
        parts = {"decoder": model.decoder, "seq2seq": model.seq2seq}
        for kind, part in [*parts.items(), *(("encoders", encoder) for encoder in model.encoders.values())]:
            if part is not None and part.checkpoint is not None and part.trains != "none":
                default = getattr(train.pretrained_learning_rate, kind)
                rates[name, kind] = part.learning_rate or min(default, train.learning_rate)
    docked = {(name, kind): 1e-4 for name in ("docked", "pile") for kind in ("decoder", "encoders")}
    assert rates == {**docked, ("demo/lexical", "encoders"): 1e-4, ("clip-small", "encoders"): 1e-4}


def _decoder_parameters(name: str, vocabulary: int, command: str = "pretrain") -> int:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    import metalm_cli.models  # noqa: F401

    decoder = resolve(command, name).recipe.model.decoder
    assert decoder is not None
    assert decoder.config is not None
    values = {key: value for key, value in decoder.config.items() if key != "model_type"}
    config = AutoConfig.for_model(decoder.config["model_type"], vocab_size=vocabulary, **values)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())


def _total_parameters(name: str, vocabulary: int) -> int:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModel

    model = resolve("pretrain", name).recipe.model
    values = dict(model.encoders["text"].config or {})
    config = AutoConfig.for_model(values.pop("model_type"), vocab_size=vocabulary, **values)
    with torch.device("meta"):
        encoder = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    assert model.decoder is not None
    width = (model.decoder.config or {})["hidden_size"]
    return _decoder_parameters(name, vocabulary) + encoder + config.hidden_size * width + width


@pytest.mark.parametrize(
    ("name", "twin", "vocabulary", "total", "millions"),
    [
        ("small", "small-gpt-same-total", 2048, 1_594_112, 1.597),
        ("paper/language-1.3b", "paper/gpt-same-total", 61_952, 1_703_850_496, 1704.2),
    ],
)
def test_the_same_total_is_the_same(name: str, twin: str, vocabulary: int, total: int, millions: float) -> None:
    assert _total_parameters(name, vocabulary) == total
    twins = _decoder_parameters(twin, vocabulary)
    assert abs(twins / total - 1) < 0.01
    assert twins / 1e6 == pytest.approx(millions, abs=0.05 if millions > 10 else 0.0005)


def test_the_encoders_have_the_promised_size() -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModel

    recipe = resolve("pretrain", "encoder-rtd").recipe
    values = dict(recipe.model.encoders["text"].config or {})
    config = AutoConfig.for_model(values.pop("model_type"), vocab_size=8192, **values)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    assert 3e6 < count < 6e6
    assert recipe.data.sequence_length == 128


def test_small_runs_on_own_data_with_one_argument() -> None:
    source = resolve("pretrain", "small", ["data.sources.0.path=my.jsonl"]).recipe.data.sources[0]
    assert (source.path, source.world) == ("my.jsonl", None)


def test_a_checkout_reads_the_recipes_beside_the_sources() -> None:
    assert shipped_root("recipes") == REPOSITORY / "recipes"
