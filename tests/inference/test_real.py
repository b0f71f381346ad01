"""Real checkpoints: an image docked into a decoder of children's stories, trained, saved, and loaded elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import metalm_cli as metalm
from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.inference import LanguageModel
from metalm_cli.models.assembly import build_metalm
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.sessions import Causal, Docked, Session
from model_families import noise_image

FRESH = """
import json, sys
import torch
torch.set_num_threads(1)
import metalm_cli as metalm

folder, image = sys.argv[1:]
loaded = metalm.load(folder, offline=True)
question = [metalm.Docked("vision", image), metalm.Causal(" Once upon a time")]
answers = [" there was a little girl.", " there was a dog."]
scores = loaded.log_likelihood(
    metalm.Session([*question, metalm.Causal(answer, trained=True, end=True)]) for answer in answers
)
texts = loaded.generate([metalm.Session(question)], max_new_tokens=8)
conversation = loaded.start(metalm.Session(question[:1])).extend(question[1:])
print(json.dumps([scores.tolist(), texts, conversation.reply(8)]))
"""


def no_documents(_count: int) -> Iterator[str]:
    return iter(())


def test_an_image_session_forward_backward_generate_save_load(checkpoints, tmp_path) -> None:
    recipe = {
        "decoder": {"checkpoint": str(checkpoints("stories260k-llama"))},
        "encoders": {"vision": {"checkpoint": str(checkpoints("deit-tiny-patch16-224")), "trains": "last_1"}},
    }
    assembly = build_metalm(ModelConfig.model_validate(recipe), seed=0, sample=no_documents)
    language_model = LanguageModel(assembly.model, assembly.decoder_tokenizer, assembly.processors)
    image = tmp_path / "picture.png"
    noise_image(3).save(image)
    question = [Docked("vision", str(image)), Causal(" Once upon a time")]
    sessions = [
        Session([*question, Causal(answer, trained=True, end=True)])
        for answer in (" there was a little girl.", " there was a dog.")
    ]
    before = language_model.log_likelihood(sessions)

    assembly.model.train()
    total, losses = assembly.model.losses(
        language_model.collate([language_model.tokenise(session) for session in sessions])
    )
    total.backward()
    assert float(total.detach()) == pytest.approx(-float(before.sum()), rel=1e-4)
    assert len(losses) == sum(int(language_model.tokenise(session).trained.sum()) for session in sessions)
    trained_parts = {
        name.split(".")[0] for name, weight in assembly.model.named_parameters() if weight.grad is not None
    }
    assert trained_parts == {"decoder", "encoders", "connectors"}
    with torch.no_grad():
        for parameter in assembly.model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad / len(losses)
    assembly.model.eval()
    after = language_model.log_likelihood(sessions)
    assert after.sum() > before.sum()

    texts = language_model.generate([Session(question)], max_new_tokens=8)
    assert texts[0].strip()
    save_model(tmp_path / "model", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "model"), str(image)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores, continued, replied = json.loads(done.stdout)
    torch.testing.assert_close(torch.tensor(scores, dtype=torch.float64), after, atol=1e-4, rtol=1e-6)
    assert continued == texts
    assert replied == texts[0]


def test_a_decoder_of_stories_prefers_stories(checkpoints) -> None:
    language_model = metalm.load(checkpoints("stories260k-llama"), offline=True)
    begin = Causal("Once upon a time")
    likely, unlikely = language_model.log_likelihood(
        Session([begin, Causal(text, trained=True)])
        for text in (" there was a little girl", " little was there girl a")
    ).tolist()
    assert likely > unlikely + 10
    (continuation,) = language_model.generate([Session([begin])], max_new_tokens=12)
    assert "there was a" in continuation
    assert language_model.start(Session([begin])).reply(12) == continuation
