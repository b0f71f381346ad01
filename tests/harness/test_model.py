"""Model for lm_eval: docks, generation, windows and arguments; needs lm_eval, but no data."""

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
from tiny_language_models import DOCK_TEXT, Reference, endless_language_model, tiny_language_model

pytest.importorskip("lm_eval", reason="lm_eval is not installed: python -m pip install -e '.[harness]'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from metalm_cli.harness.model import HarnessModel

CONTEXTS = ("The girl had a red ball", "She said:\n\n", "", "A fox can hide well in the forest ", "Once upon a time")
RESTS = (" and a dog", " it barked twice, and the girl laughed", " yes", "The dog")


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(kind, {}, request_arguments, index) for index, request_arguments in enumerate(arguments)]


def save(language_model: Any, folder: Path) -> str:
    save_model(folder, language_model.model, language_model.decoder_tokenizer, language_model.processors)
    return str(folder)


def hf_backend(language_model: Any, folder: Path, **options: Any) -> Any:
    return HFLM(save(language_model, folder), device="cpu", dtype="float32", softmax_dtype="float64", **options)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gemma2"])
@pytest.mark.parametrize("length", [None, 24])
def test_log_likelihoods_are_those_of_the_hf_backend(family: str, length: int | None, tmp_path: Path) -> None:
    language_model = tiny_language_model(family)
    requests = instances("loglikelihood", *((context * 4, rest) for context in CONTEXTS for rest in RESTS))
    theirs = hf_backend(language_model, tmp_path, batch_size=3, max_length=length).loglikelihood(
        requests, disable_tqdm=True
    )
    model = HarnessModel(str(tmp_path), device="cpu", max_length=length)
    ours = model.loglikelihood(requests, disable_tqdm=True)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert len({round(value, 3) for value, _ in ours}) > len(RESTS)


@pytest.mark.parametrize("length", [None, 16])
def test_windows_are_those_of_the_hf_backend(length: int | None, tmp_path: Path) -> None:
    language_model = tiny_language_model("llama")
    requests = instances("loglikelihood_rolling", (DOCK_TEXT,), ("A dog.",), (DOCK_TEXT * 2,))
    theirs = hf_backend(language_model, tmp_path, batch_size=2, max_length=length).loglikelihood_rolling(requests, True)
    ours = HarnessModel(str(tmp_path), device="cpu", max_length=length).loglikelihood_rolling(requests, True)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert HarnessModel(tiny_language_model("gpt2")).loglikelihood_rolling(
        instances("loglikelihood_rolling", ("",)), True
    ) == [0]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("length", [None, 16])
def test_generation_is_that_of_the_hf_backend(family: str, length: int | None, tmp_path: Path) -> None:
    language_model = tiny_language_model(family, tie_word_embeddings=False)
    free = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    (generated,) = HarnessModel(language_model).generate_until(instances("generate_until", (CONTEXTS[0], free)), True)
    stop = generated[len(generated) // 2 :][:3]
    assert len(stop) == 3
    options = [free, {"until": [stop], "max_gen_toks": 12}, {"until": [], "max_new_tokens": 5, "temperature": 0.0}]
    requests = instances(
        "generate_until",
        *((text, generation_options) for generation_options in options for text in CONTEXTS if text.strip()),
    )
    theirs = hf_backend(language_model, tmp_path, batch_size=2, max_length=length).generate_until(requests, True)
    model = HarnessModel(str(tmp_path), device="cpu", batch_size=3, max_length=length)
    assert model.generate_until(requests, True) == theirs
    assert stop in generated
    assert stop not in model.generate_until(requests, True)[len(CONTEXTS) - 1]


def test_stop_strings_end_generation_early(monkeypatch: pytest.MonkeyPatch) -> None:
    language_model = endless_language_model("gpt2")
    (generated,) = HarnessModel(language_model).generate_until(
        instances("generate_until", ("She", {"max_gen_toks": 40})), True
    )
    stop = generated[4:6]
    steps = []
    forward = language_model.model.decoder.forward
    monkeypatch.setattr(language_model.model.decoder, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    model = HarnessModel(language_model)
    options = {"until": [stop], "max_gen_toks": 40}
    assert model.generate_until(instances("generate_until", ("She", options)), True) == [generated.split(stop)[0]]
    assert len(steps) < 40


def test_long_contexts_are_cut_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = HarnessModel(tiny_language_model("gpt2"), max_length=20)
    with caplog.at_level(logging.WARNING):
        model.loglikelihood(instances("loglikelihood", (DOCK_TEXT, " yes"), ("A", " yes")), True)
    assert "1 of 2 contexts are longer than the model reads (20 tokens)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model.generate_until(instances("generate_until", (DOCK_TEXT, {"max_gen_toks": 5})), True)
    assert "1 of 1 contexts" in caplog.text
    with pytest.raises(MetalmError, match="30 new tokens"):
        model.generate_until(instances("generate_until", (DOCK_TEXT, {"max_gen_toks": 30})), True)


# -- docks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_docked_contexts_are_read_by_the_encoder(family: str) -> None:
    language_model = tiny_language_model(family, "text")
    reference = Reference(language_model)
    model = HarnessModel(language_model, dock="text")
    requests = [(context, rest) for context in (DOCK_TEXT, "It rained. ") for rest in RESTS]
    expected = [
        reference.score([Docked("text", context), Causal(" " + rest.strip(), trained=True)])
        for context, rest in requests
    ]
    scores = model.loglikelihood(instances("loglikelihood", *requests), True)
    assert [value for value, _ in scores] == pytest.approx(expected, abs=1e-4)
    assert model.scorer.docks.encoded == 2
    plain = HarnessModel(language_model).loglikelihood(instances("loglikelihood", *requests), True)
    assert abs(plain[0][0] - scores[0][0]) > 1e-3


def test_the_delimiter_of_the_model_comes_before_continuations() -> None:
    language_model = tiny_language_model("gpt2", "text", rules={"target_delimiter": " Answer: "})
    (result,) = HarnessModel(language_model, dock="text").loglikelihood(
        instances("loglikelihood", (DOCK_TEXT, " yes")), True
    )
    expected = language_model.log_likelihood(
        [Session([Docked("text", DOCK_TEXT), Causal(" Answer: yes", trained=True)])]
    )
    assert result[0] == pytest.approx(float(expected[0]), abs=1e-4)


def test_requests_without_context_are_not_docked() -> None:
    language_model = tiny_language_model("gpt2", "text")
    (result,) = HarnessModel(language_model, dock="text").loglikelihood(
        instances("loglikelihood", ("", "The dog")), True
    )
    assert result[0] == pytest.approx(
        float(language_model.log_likelihood([Session([Causal("The dog", trained=True)])])[0])
    )


def test_a_twin_without_encoders_reads_the_same_sessions() -> None:
    language_model = tiny_language_model("llama")
    (result,) = HarnessModel(language_model, dock="text").loglikelihood(
        instances("loglikelihood", (DOCK_TEXT, " yes")), True
    )
    expected = Reference(language_model).score([Causal(DOCK_TEXT), Causal(" yes", trained=True)])
    assert result[0] == pytest.approx(expected, abs=1e-4)


def test_docked_contexts_are_continued_without_the_delimiter() -> None:
    requests = instances("generate_until", (DOCK_TEXT, {"max_gen_toks": 9, "until": []}))
    generated = endless_language_model("gpt2", "text").generate(
        [Session([Docked("text", DOCK_TEXT)])], max_new_tokens=9
    )[0]
    assert HarnessModel(endless_language_model("gpt2", "text"), dock="text").generate_until(requests, True) == [
        generated.removeprefix(" ")
    ]
    delimited_model = endless_language_model("gpt2", "text", rules={"target_delimiter": generated[:2]})
    assert HarnessModel(delimited_model, dock="text").generate_until(requests, True) == [generated[2:]]


def test_a_context_longer_than_its_encoder_is_an_error() -> None:
    with pytest.raises(MetalmError) as caught:
        HarnessModel(tiny_language_model("gpt2", "text"), dock="text").loglikelihood(
            instances("loglikelihood", (DOCK_TEXT * 9, " yes")), True
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
def test_invalid_arguments_are_errors(arguments: dict[str, Any], says: str, tmp_path: Path) -> None:
    if "dtype" in arguments or "batch_size" in arguments or "dock" in arguments:
        arguments["pretrained"] = save(tiny_language_model("gpt2", "text"), tmp_path)
    with pytest.raises(MetalmError, match=says):
        HarnessModel(**arguments)


def test_the_dtype_of_the_weights_is_as_requested(tmp_path: Path) -> None:
    model = HarnessModel(
        save(tiny_language_model("gpt2", "text"), tmp_path), dtype="bfloat16", device="cuda:0", dock="text"
    )
    assert model.get_model_info()["model_dtype"] == "torch.bfloat16"
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    (result,) = model.loglikelihood(instances("loglikelihood", (DOCK_TEXT, " yes")), True)
    assert result[0] < 0


def test_results_are_written_to_the_cache_of_lm_eval_at_once(tmp_path: Path) -> None:
    from lm_eval.api.model import CachingLM

    model = HarnessModel(tiny_language_model("gpt2"))
    model.scorer = Scorer(model.language_model, budget=1)  # one question in each forward pass
    cached: Any = CachingLM(model, str(tmp_path / "cache.db"))
    requests = instances("loglikelihood", *((context, " yes") for context in CONTEXTS))
    forward, passes = model.scorer.forward, []

    def stopped(*arguments: Any) -> Any:
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return forward(*arguments)

    model.scorer.forward = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cached.loglikelihood(requests)
    assert len(cached.dbdict) == 2
    results = cached.loglikelihood(requests)
    assert len(passes) == 1 + len(requests)
    expected = HarnessModel(tiny_language_model("gpt2")).loglikelihood(requests)
    assert [value for value, _ in results] == pytest.approx([value for value, _ in expected], abs=1e-4)
