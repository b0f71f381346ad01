"""Sample continuations of held-out text, for the eye."""

from __future__ import annotations

import torch

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.interface import Interface
from metalm_cli.models.assemble import Assembly
from metalm_cli.sessions import Causal, Docked, Session, TextProcessor

GIVEN_WORDS = 24
NEW_TOKENS = 32


def continuations(assembly: Assembly, texts: list[str]) -> list[tuple[str, str]]:
    """Continue the beginning of each text, docked if the model has a text encoder.

    Changes nothing of the model: evaluation mode while it works, no gradients, no random numbers.

    Returns:
        Pairs of what was given and what the model says.
    """
    model = assembly.model
    names = [name for name, one in assembly.processors.items() if isinstance(one, TextProcessor)]
    training = model.training
    model.eval()
    interface = Interface(model, assembly.decoder_tokenizer, assembly.processors)
    found = []
    try:
        for text in texts:
            given = " ".join(text.split()[:GIVEN_WORDS])
            span = Docked(names[0], given) if names else Causal(given)
            with torch.no_grad():
                found.append((given, interface.generate([Session([span])], max_new_tokens=NEW_TOKENS)[0]))
    except MetalmError:
        pass  # a sample that cannot be docked is no reason to stop a run
    finally:
        model.train(training)
    return found
