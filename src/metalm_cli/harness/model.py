"""lm_eval model ``metalm``: requests become questions of the option scorer. This module needs lm_eval."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from metalm_cli import __version__
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.harness.arguments import (
    choose_device,
    load_language_model,
    parse_batch_size,
    parse_dtype,
    reject_unknown,
)
from metalm_cli.harness.contexts_and_continuations import ContinuationTokenizer, group_by_context, tokens_to_session
from metalm_cli.inference import LanguageModel
from metalm_cli.inference.batch_generation import generate_all
from metalm_cli.inference.scoring.option_scorer import OptionScores
from metalm_cli.inference.scoring.question_rows import OptionQuestion
from metalm_cli.inference.scoring.scorers import scorer_of
from metalm_cli.models.weights_hash import weights_sha256
from metalm_cli.sessions import Docked, Session, TokenisedSession

logger = logging.getLogger(__name__)

DEFAULT_MAX_NEW_TOKENS = 256
"""Maximum number of new tokens of tasks that set none; lm_eval's default."""


class HarnessModel(TemplateLM):
    """Model for lm_eval: ``--model metalm --model_args pretrained=RUN[,dtype=…][,dock=text]``.

    Args:
        pretrained: A run folder, a model or adapter folder, or a hub id; or a loaded model, whose dtype and device do
            not change.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: Device; the CPU if there is no GPU.
        batch_size: Sequences in a batch of generation, or ``auto``. Batches of options are limited by memory instead.
        max_batch_size: Upper bound of ``batch_size``.
        max_length: Maximum number of tokens that the model reads; by default from its configuration.
        dock: Name of the encoder that reads the contexts; by default the decoder reads them.
        add_bos_token: Whether texts begin with the start token; by default as configured in the tokenizer.
        prefix_token_id: Token before texts without context; by default the start token, or else the end token.
        base: Base model of an adapter.
        trust_remote_code: Run Python code from the model's repository.

    Raises:
        MetalmError: An argument is unknown or invalid, or the model cannot be loaded.
    """

    def __init__(
        self,
        pretrained: str | LanguageModel = "",
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        dock: str | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        base: str | None = None,
        trust_remote_code: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        reject_unknown(unknown, [name for name in inspect.signature(HarnessModel).parameters if name != "unknown"])
        if isinstance(pretrained, str):
            language_model = (
                load_language_model(pretrained, base, trust_remote_code)
                .to(parse_dtype(dtype))
                .to(choose_device(device))
            )
        else:
            language_model = pretrained
        if dock is not None and language_model.processors and dock not in language_model.processors:
            raise MetalmError(
                f"dock={dock}: the model has no encoder of this name",
                why=f"its encoders: {', '.join(language_model.processors)}",
                remedy="name one of these encoders",
            )
        self.language_model, self.dock = language_model, dock
        self.continuation_tokenizer = ContinuationTokenizer(
            language_model, add_start=add_bos_token, prefix_token_id=prefix_token_id, max_length=max_length
        )
        self.scorer = scorer_of(language_model)
        self.tokenizer = language_model.tokenizer
        self._device = language_model.device
        self._source = pretrained if isinstance(pretrained, str) else ""
        self._generation_batch_size = parse_batch_size(batch_size, max_batch_size)

    # -- properties that lm_eval reads --------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.language_model.decoder_tokenizer.document_end_id

    @property
    def prefix_token_id(self) -> int:
        return self.continuation_tokenizer.prefix_token_id

    @property
    def max_length(self) -> int:
        return self.continuation_tokenizer.max_length

    @property
    def max_gen_toks(self) -> int:
        return DEFAULT_MAX_NEW_TOKENS

    @property
    def tokenizer_name(self) -> str:
        return (self._source or self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the token ids of a text."""
        return self.continuation_tokenizer.encode([string], add_special_tokens)[string]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation with the tokenizer's chat template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def get_model_info(self) -> dict[str, Any]:
        """Return the description of the model for lm_eval's result file."""
        model = self.language_model.model
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "model_dtype": str(next(model.parameters()).dtype),
            "metalm_version": __version__,
            "dock": self.dock,
            "weights_sha256": weights_sha256(model),
        }

    # -- log-likelihoods ----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation after its context, in nats, and whether it is the greedy one.

        Args:
            requests: lm_eval's instances; their ``args`` are a context and a continuation.
            disable_tqdm: Show no progress bar.
        """
        arguments = [request.args for request in requests]
        if self.dock is None:
            pairs = self.continuation_tokenizer.encode_pairs(arguments)
            _warn_of_truncation([pair.tokens_cut for pair in pairs], self.max_length)
            questions, request_indices = group_by_context(pairs)
        else:
            questions, request_indices = self._docked_questions(arguments)
        return self._score_questions(questions, request_indices, arguments, disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Score requests of token ids: strings (or None), context and continuation of each."""
        pairs = [self.continuation_tokenizer.build_pair(context, continuation) for _, context, continuation in requests]
        _warn_of_truncation([pair.tokens_cut for pair in pairs], self.max_length)
        return self._score_questions(*group_by_context(pairs), [request[0] for request in requests], disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text, which the decoder reads in disjoint windows."""
        texts = [request.args[0] for request in requests]
        windows = [list(self.continuation_tokenizer.rolling_windows(text)) for text in texts]
        pairs = [pair for text_windows in windows for pair in text_windows]
        scores = iter(self._score_questions(*group_by_context(pairs), [None] * len(pairs), disable_tqdm))
        totals = [sum(next(scores)[0] for _ in text_windows) for text_windows in windows]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _score_questions(
        self,
        questions: Sequence[OptionQuestion],
        request_indices: Sequence[Sequence[int]],
        arguments: Sequence[Any],
        disable_tqdm: bool,
    ) -> list[tuple[float, bool]]:
        """Return the scores of each request; finished ones are written to lm_eval's cache at once.

        Args:
            questions: The questions.
            request_indices: Index of the request of each option, for each question.
            arguments: Arguments of each request, or None for requests that are not cached.
            disable_tqdm: Show no progress bar.
        """
        results: list[tuple[float, bool]] = [(0.0, True)] * len(arguments)
        with tqdm(total=len(arguments), desc="Scoring", disable=disable_tqdm) as progress:

            def record_scores(question_numbers: list[int], scores: list[OptionScores]) -> None:
                for question_number, score in zip(question_numbers, scores, strict=True):
                    for index, value, greedy in zip(
                        request_indices[question_number], score.log_likelihood, score.greedy, strict=True
                    ):
                        results[index] = (float(value), bool(greedy))
                        if arguments[index] is not None:
                            self.cache_hook.add_partial("loglikelihood", arguments[index], results[index])
                    progress.update(len(request_indices[question_number]))

            self.scorer.score(questions, record_scores)
        return results

    def _docked_questions(self, arguments: Sequence[tuple[str, str]]) -> tuple[list[OptionQuestion], list[list[int]]]:
        """Return questions with docked contexts, and for each question the request indices of its options."""
        decoder_tokenizer = self.language_model.decoder_tokenizer
        groups: dict[str, list[int]] = {}
        for index, (context, _) in enumerate(arguments):
            groups.setdefault(context.rstrip(), []).append(index)
        questions = []
        for context, request_indices in groups.items():
            prefix = self._context_to_session(context, f"request {request_indices[0]}")
            texts = [arguments[index][1].lstrip() for index in request_indices]
            if context:
                ids = [
                    decoder_tokenizer.encode_target(decoder_tokenizer.rules.target_delimiter + text) for text in texts
                ]
            else:
                ids = [decoder_tokenizer.encode_start(text) for text in texts]
            for index, option in zip(request_indices, ids, strict=True):
                self.continuation_tokenizer.build_pair((), option, arguments[index][1])
            questions.append(OptionQuestion(prefix, tuple(np.array(option, dtype=np.int64) for option in ids)))
        return questions, list(groups.values())

    def _context_to_session(self, context: str, name: str) -> TokenisedSession:
        """Return the session of a docked context; of an empty context, only the start token.

        Raises:
            MetalmError: The context is longer than the encoder reads.
        """
        if not context:
            return tokens_to_session(self.language_model.decoder_tokenizer.empty_context(), name)
        assert self.dock is not None
        try:
            return self.language_model.tokenise(Session([Docked(self.dock, context)], name))
        except MetalmError as error:
            remedy = "use fewer demonstrations (--num_fewshot), or leave out dock= so that the decoder reads contexts"
            raise MetalmError(error.what, where=error.where, why=error.why, remedy=remedy) from error

    # -- generation ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to a stop string.

        Args:
            requests: lm_eval's instances; their ``args`` are a context and options (``until``, ``max_gen_toks``, …).
            disable_tqdm: Show no progress bar.
        """
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
        texts_by_request = [""] * len(requests)
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm) as progress:
            for request_indices in groups.values():
                options = normalize_gen_kwargs(requests[request_indices[0]].args[1], DEFAULT_MAX_NEW_TOKENS)
                texts = self._generate(
                    [requests[index].args[0] for index in request_indices], dict(options), progress.update
                )
                for index, text in zip(request_indices, texts, strict=True):
                    texts_by_request[index] = text
                    self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return texts_by_request

    def _generate(
        self, contexts: Sequence[str], options: dict[str, Any], on_progress: Callable[[int], Any]
    ) -> list[str]:
        """Continue contexts with the same generation options."""
        stops = [stop for stop in options.pop("until", ()) if stop]
        max_new_tokens = options.pop("max_gen_toks")
        if options.pop("max_length", None) is not None:
            logger.warning("max_length is ignored; tasks set max_gen_toks")
        if not options.get("do_sample"):
            options = {key: value for key, value in options.items() if key not in ("temperature", "top_p", "top_k")}
        sessions = self._context_sessions(contexts, max_new_tokens)
        delimiter = self.language_model.decoder_tokenizer.rules.target_delimiter
        prefix = "" if self.dock is None else delimiter
        reported = 0

        def report_progress(done: int) -> None:
            nonlocal reported
            on_progress(done - reported)
            reported = done

        texts = generate_all(
            self.language_model,
            sessions,
            [max_new_tokens] * len(sessions),
            batch_size=self._generation_batch_size,
            on_progress=report_progress,
            stop=stops,
            delimiters=[prefix] * len(sessions),
            **options,
        )
        return [text.removeprefix(prefix) for text in texts]

    def _context_sessions(self, contexts: Sequence[str], max_new_tokens: int) -> list[TokenisedSession]:
        """Return the contexts as sessions that leave room for the new tokens.

        Raises:
            MetalmError: The model has no position left for a context.
        """
        reads_pairs = self.language_model.decoder_tokenizer.reads_pairs
        max_context = self.max_length - (0 if reads_pairs else max_new_tokens)
        if max_context < 1:
            raise MetalmError(
                f"a task needs {max_new_tokens} new tokens, the model has {self.max_length} positions",
                remedy="--gen_kwargs max_gen_toks=N with a smaller number, or use a model with more positions",
                exit_code=Exit.FAILED,
            )
        if self.dock is not None:
            return [self._context_to_session(context, f"request {index}") for index, context in enumerate(contexts)]
        encoded = self.continuation_tokenizer.encode(contexts, special=False if reads_pairs else None)
        empty = [] if reads_pairs else [self.prefix_token_id]
        ids = [encoded[context] or empty for context in contexts]
        _warn_of_truncation([max(0, len(context_ids) - max_context) for context_ids in ids], max_context)
        return [
            tokens_to_session(context_ids[-max_context:], f"request {index}") for index, context_ids in enumerate(ids)
        ]


def _warn_of_truncation(cuts: Sequence[int], max_length: int) -> None:
    """Log a warning with the number of contexts that are too long."""
    truncated = [tokens_cut for tokens_cut in cuts if tokens_cut]
    if truncated:
        logger.warning(
            "%d of %d contexts are longer than the model reads (%d tokens): up to %d tokens of their beginning are cut",
            len(truncated),
            len(cuts),
            max_length,
            max(truncated),
        )
