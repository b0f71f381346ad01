"""Previews of continuations, which do not change a model in training."""

from __future__ import annotations

import pytest
import torch

from metalm_cli.inference.preview import NEW_TOKENS, preview_continuations
from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Causal, Docked, Session
from tiny_language_models import endless_language_model, tiny_language_model

TEXT = " ".join(f"The dog {word}" for word in ("barked", "ran", "slept", "had", "said", "hid") * 4)
WORDS = TEXT.split()


def assembly_of(language_model) -> Assembly:
    return Assembly(language_model.model, language_model.decoder_tokenizer, language_model.processors)


@pytest.mark.parametrize("encoders", [(), ("text",), ("text", "vision")])
def test_the_beginning_of_each_text_is_continued(encoders) -> None:
    language_model = endless_language_model("gpt2", *encoders)
    continuations = preview_continuations(assembly_of(language_model), [TEXT, "The girl"])
    beginnings = [" ".join(WORDS[:24]), "The girl"]
    assert [beginning for beginning, _ in continuations] == beginnings
    sessions = [Session([Docked("text", text) if encoders else Causal(text)]) for text in beginnings]
    assert [continuation for _, continuation in continuations] == language_model.generate(
        sessions, max_new_tokens=NEW_TOKENS
    )
    assert continuations[0][1] != continuations[1][1]


def test_a_text_that_the_model_cannot_read_is_shortened_or_left_out() -> None:
    # 24 of these words exceed the encoder's 60 tokens, and 40 positions.
    long = " ".join(["extraordinarily"] * 30)
    language_model = endless_language_model("gpt2", "text")
    continuations = preview_continuations(assembly_of(language_model), [long, "\u200b \u200b", "", "The girl"])
    encode = language_model.processors["text"].tokenizer  # its training decides how many pieces a word has
    fitting = next(count for count in (24, 12, 6, 3) if len(encode(" ".join(long.split()[:count])).input_ids) <= 60)
    assert fitting < 24
    assert [len(beginning.split()) for beginning, _ in continuations] == [fitting, 2]
    continuations = preview_continuations(assembly_of(endless_language_model("gpt2", n_positions=40)), [long, TEXT])
    assert len(continuations) == 2
    assert all(len(beginning.split()) < 24 for beginning, _ in continuations)


def test_a_model_with_an_image_encoder_alone_reads_texts_causally() -> None:
    language_model = endless_language_model("gpt2", "vision")
    assert preview_continuations(assembly_of(language_model), ["The girl"]) == [
        ("The girl", language_model.generate([Session([Causal("The girl")])], max_new_tokens=NEW_TOKENS)[0])
    ]


@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_a_model_as_it_was(training) -> None:
    language_model = tiny_language_model("gpt2", "text", resid_pdrop=0.5)
    model = language_model.model.train(training)
    modes = [module.training for module in model.modules()]
    assert any(modes) is training
    grads = [parameter.requires_grad for parameter in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    continuations = preview_continuations(assembly_of(language_model), [TEXT])
    assert continuations == preview_continuations(assembly_of(language_model), [TEXT])
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failure_leaves_the_model_in_training(monkeypatch) -> None:
    language_model = tiny_language_model("gpt2", resid_pdrop=0.5)
    model = language_model.model.train()

    def fails(*_args, **_kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(model, "generate", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        preview_continuations(assembly_of(language_model), [TEXT])
    assert model.training
