"""The model ``metalm`` of lm_eval's registry: requests become questions of the scorer. Imported where lm_eval is."""

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
from metalm_cli.harness.arguments import device_of, dtype_of, load_language_model, reject_unknown, sequences_of
from metalm_cli.harness.contexts_and_continuations import ContinuationTokenizer, group_by_context, tokens_to_session
from metalm_cli.inference import LanguageModel
from metalm_cli.inference.batch_generation import generate_all
from metalm_cli.inference.scoring.option_scorer import OptionScores, Scorer
from metalm_cli.inference.scoring.question_rows import OptionQuestion
from metalm_cli.sessions import Docked, Session, TokenisedSession

logger = logging.getLogger(__name__)

GENERATED = 256
"""Most new tokens where a task does not say, as lm_eval has it."""


class HarnessModel(TemplateLM):
    """``--model metalm --model_args pretrained=RUN[,dtype=…][,dock=text]``.

    Args:
        pretrained: A run folder, a model or adapter folder, or a hub id; or a model that is loaded already, whose type
            and device stay as they are.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: Where; a GPU that is not there gives way to the CPU.
        batch_size: Sequences that are continued together, or ``auto``. Options are scored by memory, not by number.
        max_batch_size: Most of them.
        max_length: Most tokens that are read; default what the model's configuration says.
        dock: Name of the encoder that reads the contexts; default: the decoder reads them.
        add_bos_token: Whether texts begin with the start token; default as the tokenizer has it.
        prefix_token_id: Stands before texts without context; default the start token, or else the end token.
        base: Base of an adapter.
        trust_remote_code: Run Python code that the model brings along.

    Raises:
        MetalmError: An argument is unknown or wrong, or nothing is there that can be loaded.
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
                load_language_model(pretrained, base, trust_remote_code).to(dtype_of(dtype)).to(device_of(device))
            )
        else:
            language_model = pretrained
        if dock is not None and language_model.processors and dock not in language_model.processors:
            raise MetalmError(
                f"dock={dock}: the model has no encoder of this name",
                why=f"its encoders: {', '.join(language_model.processors)}",
                remedy="name one of them",
            )
        self.language_model, self.dock = language_model, dock
        self.reader = ContinuationTokenizer(
            language_model, add_start=add_bos_token, prefix_token_id=prefix_token_id, max_length=max_length
        )
        self.scorer = Scorer(language_model)
        self.tokenizer = language_model.tokenizer
        self._device = language_model.device
        self._name = pretrained if isinstance(pretrained, str) else ""
        self._sequences = sequences_of(batch_size, max_batch_size)

    # -- what lm_eval asks about a model ------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.language_model.decoder_tokenizer.document_id

    @property
    def prefix_token_id(self) -> int:
        return self.reader.prefix_token_id

    @property
    def max_length(self) -> int:
        return self.reader.max_length

    @property
    def max_gen_toks(self) -> int:
        return GENERATED

    @property
    def tokenizer_name(self) -> str:
        return (self._name or self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text."""
        return self.reader.encode([string], add_special_tokens)[string]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, by the tokenizer's own template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def get_model_info(self) -> dict[str, Any]:
        """What the result file says about the model."""
        model = self.language_model.model
        return {
            "model_num_parameters": sum(one.numel() for one in model.parameters()),
            "model_dtype": str(next(model.parameters()).dtype),
            "metalm_version": __version__,
            "dock": self.dock,
        }

    # -- log-likelihoods ----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, in nats, and whether it is the likeliest.

        Args:
            requests: lm_eval's instances; their ``args`` are a context and a continuation.
            disable_tqdm: Show no progress.
        """
        asked = [one.args for one in requests]
        if self.dock is None:
            pairs = self.reader.pairs(asked)
            _warn_of_cuts([pair.cut for pair in pairs], self.max_length)
            questions, places = group_by_context(pairs)
        else:
            questions, places = self._docked(asked)
        return self._scored(questions, places, asked, disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """The same for tokens: strings (or None), context and continuation of each."""
        pairs = [self.reader.pair(context, continuation) for _, context, continuation in requests]
        _warn_of_cuts([pair.cut for pair in pairs], self.max_length)
        return self._scored(*group_by_context(pairs), [one[0] for one in requests], disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each text, read by the decoder in disjoint windows."""
        texts = [one.args[0] for one in requests]
        windows = [list(self.reader.rolling_windows(text)) for text in texts]
        pairs = [pair for found in windows for pair in found]
        scores = iter(self._scored(*group_by_context(pairs), [None] * len(pairs), disable_tqdm))
        totals = [sum(next(scores)[0] for _ in found) for found in windows]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _scored(
        self,
        questions: Sequence[OptionQuestion],
        places: Sequence[Sequence[int]],
        asked: Sequence[Any],
        disable_tqdm: bool,
    ) -> list[tuple[float, bool]]:
        """Scores by request; those that are done go to lm_eval's cache at once.

        Args:
            questions: What is scored.
            places: The request of each option of each question.
            asked: Arguments of each request, or None for what is not kept.
            disable_tqdm: Show no progress.
        """
        found: list[tuple[float, bool]] = [(0.0, True)] * len(asked)
        with tqdm(total=len(asked), desc="Scoring", disable=disable_tqdm) as progress:

            def watch(numbers: list[int], scores: list[OptionScores]) -> None:
                for number, score in zip(numbers, scores, strict=True):
                    for at, value, greedy in zip(places[number], score.log_likelihood, score.greedy, strict=True):
                        found[at] = (float(value), bool(greedy))
                        if asked[at] is not None:
                            self.cache_hook.add_partial("loglikelihood", asked[at], found[at])
                    progress.update(len(places[number]))

            self.scorer.score(questions, watch)
        return found

    def _docked(self, asked: Sequence[tuple[str, str]]) -> tuple[list[OptionQuestion], list[list[int]]]:
        """Questions whose contexts are docked, and the request of each option."""
        own = self.language_model.decoder_tokenizer
        groups: dict[str, list[int]] = {}
        for at, (context, _) in enumerate(asked):
            groups.setdefault(context.rstrip(), []).append(at)
        questions = []
        for context, places in groups.items():
            prefix = self._read(context, f"request {places[0]}")
            texts = [asked[at][1].lstrip() for at in places]
            if context:
                ids = [own.continuation(own.rules.target_delimiter + text) for text in texts]
            else:
                ids = [own.first(text) for text in texts]
            for at, option in zip(places, ids, strict=True):
                self.reader.pair((), option, asked[at][1])
            questions.append(OptionQuestion(prefix, tuple(np.array(option, dtype=np.int64) for option in ids)))
        return questions, list(groups.values())

    def _read(self, context: str, name: str) -> TokenisedSession:
        """A context as the encoder's dock; the start token alone where it is empty.

        Raises:
            MetalmError: It is longer than the encoder reads.
        """
        if not context:
            return tokens_to_session((self.language_model.decoder_tokenizer.start_id,), name)
        assert self.dock is not None
        try:
            return self.language_model.tokenise(Session([Docked(self.dock, context)], name))
        except MetalmError as error:
            remedy = "give fewer demonstrations (--num_fewshot), or leave out dock= so that the decoder reads contexts"
            raise MetalmError(error.what, where=error.where, why=error.why, remedy=remedy) from error

    # -- generation ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to a stop string.

        Args:
            requests: lm_eval's instances; their ``args`` are a context and options (``until``, ``max_gen_toks``, …).
            disable_tqdm: Show no progress.
        """
        groups: dict[str, list[int]] = {}
        for at, one in enumerate(requests):
            groups.setdefault(repr(sorted(one.args[1].items())), []).append(at)
        found = [""] * len(requests)
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm) as progress:
            for places in groups.values():
                options = normalize_gen_kwargs(requests[places[0]].args[1], GENERATED)
                texts = self._continued([requests[at].args[0] for at in places], dict(options), progress.update)
                for at, text in zip(places, texts, strict=True):
                    found[at] = text
                    self.cache_hook.add_partial("generate_until", requests[at].args, text)
        return found

    def _continued(self, contexts: Sequence[str], options: dict[str, Any], done: Callable[[int], Any]) -> list[str]:
        """Continue contexts with the same options."""
        stops = [stop for stop in options.pop("until", ()) if stop]
        most = options.pop("max_gen_toks")
        if options.pop("max_length", None) is not None:
            logger.warning("max_length is not followed; a task says max_gen_toks")
        if not options.get("do_sample"):
            options = {key: value for key, value in options.items() if key not in ("temperature", "top_p", "top_k")}
        sessions = self._sessions(contexts, most)
        delimiter = self.language_model.decoder_tokenizer.rules.target_delimiter
        lead = "" if self.dock is None else delimiter
        counted = 0

        def watch(count: int) -> None:
            nonlocal counted
            done(count - counted)
            counted = count

        texts = generate_all(
            self.language_model,
            sessions,
            [most] * len(sessions),
            batch_size=self._sequences,
            watch=watch,
            stop=stops,
            leads=[lead] * len(sessions),
            **options,
        )
        return [text.removeprefix(lead) for text in texts]

    def _sessions(self, contexts: Sequence[str], most: int) -> list[TokenisedSession]:
        """Contexts as sessions that leave room for ``most`` tokens.

        Raises:
            MetalmError: There is none.
        """
        room = self.max_length - most
        if room < 1:
            raise MetalmError(
                f"a task asks for {most} new tokens, the model has {self.max_length} positions",
                remedy="--gen_kwargs max_gen_toks=N with a smaller number, or use a model with more positions",
                exit_code=Exit.FAILED,
            )
        if self.dock is not None:
            return [self._read(context, f"request {at}") for at, context in enumerate(contexts)]
        read = self.reader.encode(contexts)
        ids = [read[context] or [self.prefix_token_id] for context in contexts]
        _warn_of_cuts([max(0, len(one) - room) for one in ids], room)
        return [tokens_to_session(one[-room:], f"request {at}") for at, one in enumerate(ids)]


def _warn_of_cuts(cuts: Sequence[int], most: int) -> None:
    """Say how many contexts were too long."""
    cut = [one for one in cuts if one]
    if cut:
        logger.warning(
            "%d of %d contexts are longer than the model reads (%d tokens): up to %d tokens of their beginning are cut",
            len(cut),
            len(cuts),
            most,
            max(cut),
        )
