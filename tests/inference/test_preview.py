"""Sample continuations of held-out texts, which change nothing of a model in training."""

from __future__ import annotations

import pytest
import torch

from metalm_cli.inference.preview import NEW_TOKENS, preview_continuations
from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Causal, Docked, Session
from tiny_language_models import interface_of, talker

TEXT = " ".join(f"The dog {word}" for word in ("barked", "ran", "slept", "had", "said", "hid") * 4)
WORDS = TEXT.split()


def assembly_of(language_model) -> Assembly:
    return Assembly(language_model.model, language_model.decoder_tokenizer, language_model.processors)


@pytest.mark.parametrize("encoders", [(), ("text",), ("text", "vision")])
def test_the_beginning_of_each_text_is_continued(encoders) -> None:
    language_model = talker("gpt2", *encoders)
    found = preview_continuations(assembly_of(language_model), [TEXT, "The girl"])
    given = [" ".join(WORDS[:24]), "The girl"]
    assert [one for one, _ in found] == given
    sessions = [Session([Docked("text", text) if encoders else Causal(text)]) for text in given]
    assert [said for _, said in found] == language_model.generate(sessions, max_new_tokens=NEW_TOKENS)
    assert found[0][1] != found[1][1]


def test_a_text_that_the_model_cannot_read_is_shortened_or_left_out() -> None:
    # 24 such words are more than the encoder's 60 tokens, and more than 40 positions.
    long = " ".join(["extraordinarily"] * 30)
    found = preview_continuations(assembly_of(talker("gpt2", "text")), [long, "\u200b \u200b", "", "The girl"])
    assert [len(given.split()) for given, _ in found] == [6, 2]
    found = preview_continuations(assembly_of(talker("gpt2", n_positions=40)), [long, TEXT])
    assert len(found) == 2
    assert all(len(given.split()) < 24 for given, _ in found)


def test_a_model_with_an_image_encoder_alone_reads_texts_causally() -> None:
    language_model = talker("gpt2", "vision")
    assert preview_continuations(assembly_of(language_model), ["The girl"]) == [
        ("The girl", language_model.generate([Session([Causal("The girl")])], max_new_tokens=NEW_TOKENS)[0])
    ]


@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_a_model_as_it_was(training) -> None:
    language_model = interface_of("gpt2", "text", resid_pdrop=0.5)
    model = language_model.model.train(training)
    modes = [module.training for module in model.modules()]
    assert any(modes) is training
    grads = [one.requires_grad for one in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    one = preview_continuations(assembly_of(language_model), [TEXT])
    assert one == preview_continuations(assembly_of(language_model), [TEXT])
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [one.requires_grad for one in model.parameters()] == grads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())


def test_a_failure_leaves_the_model_in_training(monkeypatch) -> None:
    language_model = interface_of("gpt2", resid_pdrop=0.5)
    model = language_model.model.train()

    def fails(*_args, **_kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(model, "generate", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        preview_continuations(assembly_of(language_model), [TEXT])
    assert model.training
