"""Answers as tokens: options that have the same tokens, and answers that the tokenizer of a model cannot spell.

A tokenizer may drop characters that it lacks, lower the case of letters, or change spaces. The decoded tokens of an
answer then differ from the answer. A generated answer that equals the decoded tokens of a reference answer counts as
this reference answer. Options of the same tokens cannot be distinguished: none of them counts as right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from metalm_cli.inference.text_streaming import strip_delimiter
from metalm_cli.sessions import DecoderTokenizer
from metalm_cli.tasks import Example


@dataclass
class AnswerTokens:
    """Tokens of answers after the target delimiter, and the texts that these tokens are decoded to.

    Args:
        tokenizer: Tokenizer of the decoder.
    """

    tokenizer: DecoderTokenizer
    _generated_texts: dict[str, str] = field(default_factory=dict, repr=False)

    def ids(self, answer: str) -> tuple[int, ...]:
        """Return the token ids of an answer as the continuation of a prompt, without an end token."""
        return tuple(self.tokenizer.encode_target(self.tokenizer.rules.target_delimiter + answer))

    def generated_text(self, answer: str) -> str:
        """Return the answer that a model gives by generating the tokens of an answer."""
        if answer not in self._generated_texts:
            text = self.tokenizer.decode(list(self.ids(answer)))
            self._generated_texts[answer] = strip_delimiter(text, self.tokenizer.rules.target_delimiter)
        return self._generated_texts[answer]

    def resolve(self, generated: str, reference: Example) -> str:
        """Return the option, or the reference answer, that a generated answer equals after decoding.

        Args:
            generated: The generated answer.
            reference: The example with answers and options as the template renders them.

        Returns:
            The generated answer itself if it equals none. If it equals several options, a wrong one.
        """
        if not generated:
            return generated
        candidates = reference.options or reference.answers
        matches = [text for text in candidates if generated in (text, self.generated_text(text))]
        if not matches:
            return generated
        return wrong_if_tied(matches, reference) if reference.options else matches[0]


def wrong_if_tied(options: Sequence[str], reference: Example) -> str:
    """Return one of several options of the same tokens: a wrong one, if there is one."""
    return next((option for option in options if option not in reference.answers), options[0])


def ranking_notes(
    references: Sequence[Example], option_ids: Sequence[Sequence[Sequence[int]]], *, with_end_token: bool
) -> list[str]:
    """Describe the options whose ranking is not defined.

    Args:
        references: The examples.
        option_ids: Token ids of the options of each example.
        with_end_token: Whether these end with the end token. Else an option never ranks above another one with which
            its tokens begin.
    """
    ids_by_option = [
        dict(zip(reference.options, map(tuple, ids), strict=True))
        for reference, ids in zip(references, option_ids, strict=True)
    ]
    notes = _same_tokens_notes(same_tokens(references, lambda index, option: ids_by_option[index][option]), references)
    if with_end_token:
        return notes
    pairs = [_beginning_pair(ids) for ids in ids_by_option]
    affected = [pair for pair in pairs if pair is not None]
    if affected:
        longer_is_right = sum(
            any(_begins(other, ids[reference.answers[0]]) for other in ids.values())
            for reference, ids in zip(references, ids_by_option, strict=True)
            if reference.answers[0] in ids
        )
        notes.append(
            f"{len(affected)} of {len(references)} examples have options that begin with the tokens of another option, "
            f"such as {affected[0][1]!r:.60} with those of {affected[0][0]!r:.60}; without the end token they cannot "
            f"rank above it, and in {longer_is_right} examples such an option is the right one"
        )
    return notes


def generation_notes(references: Sequence[Example], tokens: AnswerTokens) -> list[str]:
    """Describe the options that generated answers cannot distinguish, and the right answers that cannot be generated.

    Args:
        references: The examples.
        tokens: Tokens of answers.
    """
    notes = _same_tokens_notes(same_tokens(references, lambda _, option: tokens.generated_text(option)), references)
    right_answers = [reference.answers[0] for reference in references]
    changed = [answer for answer in right_answers if tokens.generated_text(answer) != answer]
    if changed:
        empty = sum(not tokens.generated_text(answer) for answer in changed)
        notes.append(
            f"{len(changed)} of {len(references)} right answers cannot be spelled by the model's tokenizer, such as "
            f"{changed[0]!r:.60}, which becomes {tokens.generated_text(changed[0])!r:.60}; the text that they become "
            "counts as right" + (f", except for {empty} that become empty" if empty else "")
        )
    return notes


def option_notes(predictions: Sequence[str], references: Sequence[Example], *, can_rank: bool) -> list[str]:
    """Count the generated answers that are among the options of their example; no note if all are.

    Args:
        predictions: The generated answers.
        references: The examples.
        can_rank: Whether another protocol would rank the options.
    """
    with_options = [pair for pair in zip(predictions, references, strict=True) if pair[1].options]
    among = sum(prediction in reference.options for prediction, reference in with_options)
    if among == len(with_options):
        return []
    remedy = "; --protocol in_context ranks them" if can_rank else ""
    return [f"{among} of {len(with_options)} answers are among the options{remedy}"]


def same_tokens(references: Sequence[Example], tokens_of: Callable[[int, str], Any]) -> list[tuple[str, str]]:
    """Return two different options of the same tokens of each example that has such options.

    Args:
        references: The examples.
        tokens_of: Returns the tokens of an option, given the index of its example.
    """
    affected = []
    for index, reference in enumerate(references):
        first_options: dict[Any, str] = {}
        pairs = [(first_options.setdefault(tokens_of(index, option), option), option) for option in reference.options]
        pair = next((pair for pair in pairs if pair[0] != pair[1]), None)
        if pair is not None:
            affected.append(pair)
    return affected


def _same_tokens_notes(affected: Sequence[tuple[str, str]], references: Sequence[Example]) -> list[str]:
    if not affected:
        return []
    first, second = affected[0]
    return [
        f"{len(affected)} of {len(references)} examples have options that are the same tokens, such as {first!r:.60} "
        f"and {second!r:.60}; the model cannot distinguish such options, and none of them counts as right"
    ]


def _beginning_pair(ids_by_option: dict[str, tuple[int, ...]]) -> tuple[str, str] | None:
    """Return an option whose tokens begin those of another option, and that other option; None if there is none."""
    return next(
        (
            (shorter, longer)
            for shorter, shorter_ids in ids_by_option.items()
            for longer, longer_ids in ids_by_option.items()
            if _begins(shorter_ids, longer_ids)
        ),
        None,
    )


def _begins(shorter: tuple[int, ...], longer: tuple[int, ...]) -> bool:
    return len(shorter) < len(longer) and longer[: len(shorter)] == shorter
