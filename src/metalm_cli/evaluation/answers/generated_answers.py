"""Generated answers to prompts, read from the cache of answers or generated and saved in chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from metalm_cli.evaluation.answers.answer_cache import AnswerCache, AnswerKey
from metalm_cli.evaluation.prompts import EncodedPrompt
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.batch_generation import generate_all, sample_all
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.question_rows import session_digest

BATCHES_PER_SAVE = 8
"""Number of generation batches after which the answers are saved."""


def generate_answers(
    language_model: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    names: Sequence[str],
    method: str,
    options: Mapping[str, Any],
    settings: EvaluationSettings,
    cache: AnswerCache,
    on_progress: Callable[[str], None],
) -> list[tuple[str | list[str], bool]]:
    """Generate a text, or several samples, for each prompt; in chunks, each of which is saved at once.

    Args:
        language_model: The model.
        prompts: Prompts of the examples.
        names: Name of each prompt in the cache.
        method: Decoding settings, as part of the keys of the cache.
        options: Decoding options.
        settings: Settings of the evaluation: batch size, number of samples, temperature and seed.
        cache: Answers of earlier evaluations.
        on_progress: Called with a progress message.

    Returns:
        The text or the samples of each prompt, and whether one of these met the limit of tokens.
    """
    sessions = [prompt.session for prompt in prompts]
    keys = [
        AnswerKey(name, session_digest(session), f"{method} {prompt.max_new_tokens}")
        for name, session, prompt in zip(names, sessions, prompts, strict=True)
    ]
    generations: list[Any] = [cache.get(key) for key in keys]
    missing = sorted(
        (index for index, generation in enumerate(generations) if generation is None),
        key=lambda index: -len(sessions[index]),
    )
    done = len(prompts) - len(missing)
    chunk_size = BATCHES_PER_SAVE * settings.batch_size
    for chunk_start in range(0, len(missing), chunk_size):
        chunk = missing[chunk_start : chunk_start + chunk_size]
        cut: set[int] = set()
        chunk_sessions, limits = (
            [sessions[index] for index in chunk],
            [prompts[index].max_new_tokens for index in chunk],
        )
        decoding: dict[str, Any] = {"batch_size": settings.batch_size, "on_cut": cut.add, **options}
        answers: Sequence[Any]
        if settings.samples > 1:
            rows = [prompts[index].example.row for index in chunk]
            sampling: dict[str, Any] = {"temperature": settings.temperature, "seed": settings.seed, "keys": rows}
            answers = sample_all(language_model, chunk_sessions, limits, settings.samples, **sampling, **decoding)
        else:
            progress = partial(_report_answers, on_progress, done, len(prompts))
            answers = generate_all(language_model, chunk_sessions, limits, on_progress=progress, **decoding)
        for number, (index, answer) in enumerate(zip(chunk, answers, strict=True)):
            generations[index] = [answer, number in cut]
        cache.put((keys[index], generations[index]) for index in chunk)
        done += len(chunk)
        on_progress(f"{done} of {len(prompts)} answers")
    return [(answer, is_cut) for answer, is_cut in generations]


def _report_answers(on_progress: Callable[[str], None], done: int, total: int, newly_done: int) -> None:
    on_progress(f"{done + newly_done} of {total} answers")
