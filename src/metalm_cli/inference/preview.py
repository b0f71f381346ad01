"""Sample continuations of held-out text, for the eye."""

from __future__ import annotations

import contextlib

import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Causal, Docked, Session, TextProcessor

GIVEN_WORDS = (24, 12, 6, 3)
"""How much of a text is given: the first that the encoder and the decoder can read."""
NEW_TOKENS = 32


def preview_continuations(assembly: Assembly, shown: list[str | Session]) -> list[tuple[str, str]]:
    """Continue the beginning of each text, docked if the model has a text encoder; and each session.

    Changes nothing of the model: evaluation mode while it works, no gradients, no random numbers.

    Returns:
        Pairs of what was given and what the model says.
    """
    model = assembly.model
    names = [name for name, one in assembly.processors.items() if isinstance(one, TextProcessor)]
    training = model.training
    model.eval()
    language_model = LanguageModel(model, assembly.decoder_tokenizer, assembly.processors)
    found = []
    try:
        for text in shown:
            if isinstance(text, Session):
                with torch.no_grad(), contextlib.suppress(MetalmError):
                    found.append((_said(text), language_model.generate([text], max_new_tokens=NEW_TOKENS)[0]))
                continue
            for words in GIVEN_WORDS:
                given = " ".join(text.split()[:words])
                span = Docked(names[0], given) if names else Causal(given)
                # A sample that cannot be read is no reason to stop a run.
                with torch.no_grad(), contextlib.suppress(MetalmError):
                    found.append((given, language_model.generate([Session([span])], max_new_tokens=NEW_TOKENS)[0]))
                    break
    finally:
        model.train(training)
    return found


def _said(session: Session) -> str:
    """The texts of a session, its name in front."""
    texts = [span.content for span in session if isinstance(span.content, str)]
    return f"{session.name}: {' '.join(texts)} "
