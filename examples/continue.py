"""Generate continuations of docked text with a finished run, and compare the log-likelihoods of two answers.

python examples/continue.py runs/demo/metalm
"""

from __future__ import annotations

import sys

import metalm_cli as metalm

BEGINNINGS = (
    "Larkfield was founded in 1769. About 2500 people live in Larkfield. Larkfield is known",
    "Lena Baker lives in Dunmore and works as a librarian. She wakes up at five every morning. Her favourite hobby",
    "Dear Bruno,\n\nHow are you? The weather is cold today.",
)
TEXT = "In Larkfield there lives a potter called John Taylor. He has black hair. John owns a brown kite.\n"
QUESTION = TEXT + "Question: What does John own?\nAnswer:"
ANSWERS = (" A brown kite.", " A green boat.")


def main(source: str) -> None:
    """Load the model in ``source``, and print its continuations and scores."""
    model = metalm.load(source)
    name = next(iter(model.processors), "text")  # in a model without encoders, the decoder reads docked text
    for beginning in BEGINNINGS:
        (continuation,) = model.generate([metalm.Session([metalm.Docked(name, beginning)])], max_new_tokens=30)
        print(f"docked     {' '.join(beginning.split())}\ncontinued  {' '.join(continuation.split())}\n")
    sessions = [
        metalm.Session([metalm.Docked(name, QUESTION), metalm.Causal(answer, trained=True)]) for answer in ANSWERS
    ]
    print(f"docked     {' '.join(QUESTION.split())}")
    for answer, score in zip(ANSWERS, model.log_likelihood(sessions).tolist(), strict=True):
        print(f"{score:9.2f} {answer}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/metalm")
