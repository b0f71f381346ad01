"""The model inside lm_eval: docks, generation, windows and arguments; needs lm_eval, no data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference.scoring.option_scorer import Scorer
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.sessions import Causal, Docked, Session
from tiny_language_models import DOCK, Reference, interface_of, talker

pytest.importorskip("lm_eval", reason="lm_eval is not installed: python -m pip install -e '.[harness]'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from metalm_cli.harness.model import HarnessModel

CONTEXTS = ("The girl had a red ball", "She said:\n\n", "", "A fox can hide well in the forest ", "Once upon a time")
RESTS = (" and a dog", " it barked twice, and the girl laughed", " yes", "The dog")


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(kind, {}, one, at) for at, one in enumerate(arguments)]


def saved(language_model: Any, folder: Path) -> str:
    save_model(folder, language_model.model, language_model.decoder_tokenizer, language_model.processors)
    return str(folder)


def peer(language_model: Any, folder: Path, **options: Any) -> Any:
    return HFLM(saved(language_model, folder), device="cpu", dtype="float32", softmax_dtype="float64", **options)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gemma2"])
@pytest.mark.parametrize("length", [None, 24])
def test_log_likelihoods_are_those_of_the_hf_backend(family: str, length: int | None, tmp_path: Path) -> None:
    language_model = interface_of(family)
    requests = asked("loglikelihood", *((context * 4, rest) for context in CONTEXTS for rest in RESTS))
    theirs = peer(language_model, tmp_path, batch_size=3, max_length=length).loglikelihood(requests, disable_tqdm=True)
    model = HarnessModel(str(tmp_path), device="cpu", max_length=length)
    ours = model.loglikelihood(requests, disable_tqdm=True)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert len({round(value, 3) for value, _ in ours}) > len(RESTS)


@pytest.mark.parametrize("length", [None, 16])
def test_windows_are_those_of_the_hf_backend(length: int | None, tmp_path: Path) -> None:
    language_model = interface_of("llama")
    requests = asked("loglikelihood_rolling", (DOCK,), ("A dog.",), (DOCK * 2,))
    theirs = peer(language_model, tmp_path, batch_size=2, max_length=length).loglikelihood_rolling(requests, True)
    ours = HarnessModel(str(tmp_path), device="cpu", max_length=length).loglikelihood_rolling(requests, True)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert HarnessModel(interface_of("gpt2")).loglikelihood_rolling(asked("loglikelihood_rolling", ("",)), True) == [0]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("length", [None, 16])
def test_generation_is_that_of_the_hf_backend(family: str, length: int | None, tmp_path: Path) -> None:
    language_model = interface_of(family, tie_word_embeddings=False)
    free = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    (said,) = HarnessModel(language_model).generate_until(asked("generate_until", (CONTEXTS[0], free)), True)
    stop = said[len(said) // 2 :][:3]
    assert len(stop) == 3
    options = [free, {"until": [stop], "max_gen_toks": 12}, {"until": [], "max_new_tokens": 5, "temperature": 0.0}]
    requests = asked("generate_until", *((text, one) for one in options for text in CONTEXTS if text.strip()))
    theirs = peer(language_model, tmp_path, batch_size=2, max_length=length).generate_until(requests, True)
    model = HarnessModel(str(tmp_path), device="cpu", batch_size=3, max_length=length)
    assert model.generate_until(requests, True) == theirs
    assert stop in said
    assert stop not in model.generate_until(requests, True)[len(CONTEXTS) - 1]


def test_stops_end_generation_as_soon_as_they_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    language_model = talker("gpt2")
    (said,) = HarnessModel(language_model).generate_until(asked("generate_until", ("She", {"max_gen_toks": 40})), True)
    stop = said[4:6]
    steps = []
    forward = language_model.model.decoder.forward
    monkeypatch.setattr(language_model.model.decoder, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    model = HarnessModel(language_model)
    options = {"until": [stop], "max_gen_toks": 40}
    assert model.generate_until(asked("generate_until", ("She", options)), True) == [said.split(stop)[0]]
    assert len(steps) < 40


def test_long_contexts_are_cut_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = HarnessModel(interface_of("gpt2"), max_length=20)
    with caplog.at_level(logging.WARNING):
        model.loglikelihood(asked("loglikelihood", (DOCK, " yes"), ("A", " yes")), True)
    assert "1 of 2 contexts are longer than the model reads (20 tokens)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model.generate_until(asked("generate_until", (DOCK, {"max_gen_toks": 5})), True)
    assert "1 of 1 contexts" in caplog.text
    with pytest.raises(MetalmError, match="30 new tokens"):
        model.generate_until(asked("generate_until", (DOCK, {"max_gen_toks": 30})), True)


# -- docks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_docked_contexts_are_read_by_the_encoder(family: str) -> None:
    language_model = interface_of(family, "text")
    reference = Reference(language_model)
    model = HarnessModel(language_model, dock="text")
    requests = [(context, rest) for context in (DOCK, "It rained. ") for rest in RESTS]
    wanted = [
        reference.score([Docked("text", context), Causal(" " + rest.strip(), trained=True)])
        for context, rest in requests
    ]
    found = model.loglikelihood(asked("loglikelihood", *requests), True)
    assert [value for value, _ in found] == pytest.approx(wanted, abs=1e-4)
    assert model.scorer.docks.encoded == 2
    plain = HarnessModel(language_model).loglikelihood(asked("loglikelihood", *requests), True)
    assert abs(plain[0][0] - found[0][0]) > 1e-3


def test_the_delimiter_of_the_model_stands_before_continuations() -> None:
    language_model = interface_of("gpt2", "text", rules={"target_delimiter": " Answer: "})
    (found,) = HarnessModel(language_model, dock="text").loglikelihood(asked("loglikelihood", (DOCK, " yes")), True)
    wanted = language_model.log_likelihood([Session([Docked("text", DOCK), Causal(" Answer: yes", trained=True)])])
    assert found[0] == pytest.approx(float(wanted[0]), abs=1e-4)


def test_what_has_no_context_is_not_docked() -> None:
    language_model = interface_of("gpt2", "text")
    (found,) = HarnessModel(language_model, dock="text").loglikelihood(asked("loglikelihood", ("", "The dog")), True)
    assert found[0] == pytest.approx(
        float(language_model.log_likelihood([Session([Causal("The dog", trained=True)])])[0])
    )


def test_a_twin_without_encoders_reads_the_same_sessions() -> None:
    language_model = interface_of("llama")
    (found,) = HarnessModel(language_model, dock="text").loglikelihood(asked("loglikelihood", (DOCK, " yes")), True)
    wanted = Reference(language_model).score([Causal(DOCK), Causal(" yes", trained=True)])
    assert found[0] == pytest.approx(wanted, abs=1e-4)


def test_docked_contexts_are_continued_without_the_delimiter() -> None:
    asks = asked("generate_until", (DOCK, {"max_gen_toks": 9, "until": []}))
    said = talker("gpt2", "text").generate([Session([Docked("text", DOCK)])], max_new_tokens=9)[0]
    assert HarnessModel(talker("gpt2", "text"), dock="text").generate_until(asks, True) == [said.removeprefix(" ")]
    answers = talker("gpt2", "text", rules={"target_delimiter": said[:2]})
    assert HarnessModel(answers, dock="text").generate_until(asks, True) == [said[2:]]


def test_a_context_longer_than_its_encoder_is_refused() -> None:
    with pytest.raises(MetalmError) as caught:
        HarnessModel(interface_of("gpt2", "text"), dock="text").loglikelihood(
            asked("loglikelihood", (DOCK * 9, " yes")), True
        )
    assert "--num_fewshot" in caught.value.remedy


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pretraned": "x"}, "did you mean pretrained"),
        ({}, "no model is named"),
        ({"dtype": "auto"}, "expected float32"),
        ({"batch_size": "many"}, "expected auto or a number"),
        ({"dock": "vision"}, "no encoder of this name"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], says: str, tmp_path: Path) -> None:
    if "dtype" in arguments or "batch_size" in arguments or "dock" in arguments:
        arguments["pretrained"] = saved(interface_of("gpt2", "text"), tmp_path)
    with pytest.raises(MetalmError, match=says):
        HarnessModel(**arguments)


def test_the_type_of_the_weights_is_as_asked(tmp_path: Path) -> None:
    model = HarnessModel(saved(interface_of("gpt2", "text"), tmp_path), dtype="bfloat16", device="cuda:0", dock="text")
    assert model.get_model_info()["model_dtype"] == "torch.bfloat16"
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    (found,) = model.loglikelihood(asked("loglikelihood", (DOCK, " yes")), True)
    assert found[0] < 0


def test_results_reach_the_cache_of_lm_eval_as_they_come(tmp_path: Path) -> None:
    from lm_eval.api.model import CachingLM

    model = HarnessModel(interface_of("gpt2"))
    model.scorer = Scorer(model.language_model, budget=1)  # a question a pass
    cached: Any = CachingLM(model, str(tmp_path / "cache.db"))
    requests = asked("loglikelihood", *((context, " yes") for context in CONTEXTS))
    forward, passes = model.scorer._forward, []

    def stopped(*arguments: Any) -> Any:
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return forward(*arguments)

    model.scorer._forward = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cached.loglikelihood(requests)
    assert len(cached.dbdict) == 2
    found = cached.loglikelihood(requests)
    assert len(passes) == 1 + len(requests)
    wanted = HarnessModel(interface_of("gpt2")).loglikelihood(requests)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
