"""Sample continuations of held-out text, for the eye."""

from __future__ import annotations

import contextlib

import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Causal, Docked, Session, TextProcessor

PROMPT_WORDS = (24, 12, 6, 3)
"""How much of a text is given: the first that the encoder and the decoder can read."""
NEW_TOKENS = 32


def preview_continuations(assembly: Assembly, prompts: list[str | Session]) -> list[tuple[str, str]]:
    """Continue the beginning of each text, docked if the model has a text encoder; and each session.

    Changes nothing of the model: evaluation mode while it works, no gradients, no random numbers.

    Returns:
        Pairs of what was given and what the model says.
    """
    model = assembly.model
    encoder_names = [name for name, processor in assembly.processors.items() if isinstance(processor, TextProcessor)]
    training = model.training
    model.eval()
    language_model = LanguageModel(model, assembly.decoder_tokenizer, assembly.processors)
    continuations = []
    try:
        for prompt in prompts:
            if isinstance(prompt, Session):
                with torch.no_grad(), contextlib.suppress(MetalmError):
                    continuations.append(
                        (_session_text(prompt), language_model.generate([prompt], max_new_tokens=NEW_TOKENS)[0])
                    )
                continue
            for num_words in PROMPT_WORDS:
                beginning = " ".join(prompt.split()[:num_words])
                span = Docked(encoder_names[0], beginning) if encoder_names else Causal(beginning)
                # A sample that cannot be read is no reason to stop a run.
                with torch.no_grad(), contextlib.suppress(MetalmError):
                    continuations.append(
                        (beginning, language_model.generate([Session([span])], max_new_tokens=NEW_TOKENS)[0])
                    )
                    break
    finally:
        model.train(training)
    return continuations


def _session_text(session: Session) -> str:
    """The texts of a session, its name in front."""
    texts = [span.content for span in session if isinstance(span.content, str)]
    return f"{session.name}: {' '.join(texts)} "
