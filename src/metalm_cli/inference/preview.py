"""Continuations of validation texts, printed during training for inspection."""

from __future__ import annotations

import contextlib

import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference.evaluation_mode import evaluation_mode
from metalm_cli.inference.loading import language_model_of
from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Causal, Docked, Session, TextProcessor

PROMPT_WORDS = (24, 12, 6, 3)
"""Words of a text that form its prompt: the first of these numbers that encoder and decoder can read."""
NEW_TOKENS = 32


def preview_continuations(assembly: Assembly, prompts: list[str | Session]) -> list[tuple[str, str]]:
    """Continue the beginning of each text, docked if the model has a text encoder, and each whole session.

    The model stays unchanged: it is in evaluation mode meanwhile, without gradients and random numbers.

    Returns:
        Pairs of prompt and continuation.
    """
    model = assembly.model
    encoder_names = [name for name, processor in assembly.processors.items() if isinstance(processor, TextProcessor)]
    language_model = language_model_of(model, assembly.decoder_tokenizer, assembly.processors)
    continuations = []
    with evaluation_mode(model):
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
                # A prompt that cannot be read must not stop the run.
                with torch.no_grad(), contextlib.suppress(MetalmError):
                    continuations.append(
                        (beginning, language_model.generate([Session([span])], max_new_tokens=NEW_TOKENS)[0])
                    )
                    break
    return continuations


def _session_text(session: Session) -> str:
    """Return the name and the texts of a session."""
    texts = [span.content for span in session if isinstance(span.content, str)]
    return f"{session.name}: {' '.join(texts)} "
