"""One frozen decoder with the encoders of two tasks, combined by ``metalm export --combine``.

    METALM_DATA=DIR python benchmarks/many_encoders.py --runs runs/sst2 runs/mnli

*answers*: greedy answers to sessions of both tasks in mixed batches, beside the same sessions one at a time, and beside
those of the two runs, each with its own encoder. They must be equal.

*logits*: those of a session in a mixed batch, beside those in a batch of the same shape of which every row is this
session: equal bit for bit, unless something of another session reaches it. A batch of another shape is another
computation, which differs by rounding: the largest difference is given. Contents are encoded alone for this.

*size*: what a task adds in fp32, beside MiniLM with a linear head, and low-rank adapters of the decoder.

*time*: sessions of both tasks in one batch, beside a batch for each task, in turn.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

import metalm_cli as metalm
from common import alternate, arguments, ratio, report
from metalm_cli.config.schema.model import Lora
from metalm_cli.evaluation.opened_evaluation import EvaluationCallbacks, OpenedEvaluation, open_evaluation
from metalm_cli.evaluation.prompts import EncodedPrompt, build_prompts
from metalm_cli.evaluation.request import EvaluationRequest
from metalm_cli.inference import LanguageModel
from metalm_cli.models.lora.inject import add_adapters
from metalm_cli.provenance.model_history import read_history
from metalm_cli.sessions import TokenisedSession
from metalm_cli.training.export import export_combined


def main() -> None:
    options = arguments(
        __doc__ or "",
        runs={"nargs": 2, "metavar": "RUN", "required": True, "help": "runs of one task each"},
        examples={"type": int, "default": 32, "help": "examples of each task"},
        batch={"type": int, "default": 8, "help": "sessions of a mixed batch"},
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    examples = 2 * options.batch if options.quick else options.examples
    with tempfile.TemporaryDirectory() as folder:
        combined = Path(folder) / "combined"
        names, _ = export_combined(options.runs, combined, offline=True)
        model, opened = metalm.load(combined, offline=True), open_tasks(combined, names, examples)
        size = sum(file.stat().st_size for file in combined.rglob("*.safetensors"))
    figures: dict[str, Any] = {"encoders": ", ".join(names), "examples of each task": examples}
    prompts = {name: prompts_of(model, opened, name) for name in names}
    mixed = [prompt for pair in zip(*prompts.values(), strict=True) for prompt in pair]
    figures |= answers(model, mixed, options.batch, dict(zip(names, options.runs, strict=True)), opened)
    figures |= logits(model, [prompt.session for prompt in mixed[: options.batch]])
    figures |= times(model, list(prompts.values()), options.batch // 2, repeats=3 if options.quick else 9)
    classes = {name: len(each[0].reference.options) for name, each in prompts.items()}
    figures |= {"combined model on disk, MB": size / 1e6, **sizes(model, classes)}
    report("one decoder, many encoders", figures, options)


def open_tasks(folder: Path, tasks: Sequence[str], examples: int) -> OpenedEvaluation:
    """Open the tasks as ``metalm evaluate`` does, with the prompts of the training."""
    request = EvaluationRequest(tasks=tuple(tasks), limit=examples)
    history = read_history(folder, str(folder))
    return open_evaluation(request, request.select(offline=True), history, EvaluationCallbacks(), offline=True)


def prompts_of(model: LanguageModel, opened: OpenedEvaluation, name: str) -> Sequence[EncodedPrompt]:
    """Return the tokenised prompts of a task for a model."""
    (task,) = [each for each in opened.tasks if each.card.name == name]
    return build_prompts(model, task, task.templates[0], 0, opened.settings).prompts


def continue_batch(model: LanguageModel, prompts: Sequence[EncodedPrompt]) -> list[str]:
    """Greedy answers to the prompts of a batch."""
    limit = max(prompt.max_new_tokens for prompt in prompts)
    ids = model.new_tokens([prompt.session for prompt in prompts], limit, model.default_options())
    return [model.decode(row) for row in ids.tolist()]


def answers(
    model: LanguageModel, mixed: Sequence[EncodedPrompt], batch: int, runs: Mapping[str, str], opened: OpenedEvaluation
) -> dict[str, Any]:
    """Compare answers of mixed batches with those one at a time, and with those of the runs."""
    batches = [mixed[start : start + batch] for start in range(0, len(mixed), batch)]
    together = [text for members in batches for text in continue_batch(model, members)]
    alone = [text for prompt in mixed for text in continue_batch(model, [prompt])]
    own: list[list[str]] = []
    for name, run in runs.items():
        own_model = metalm.load(run, offline=True)
        own.append(
            [text for prompt in prompts_of(own_model, opened, name) for text in continue_batch(own_model, [prompt])]
        )
    of_runs = [text for pair in zip(*own, strict=True) for text in pair]
    correct = [text.strip() in prompt.reference.answers for text, prompt in zip(together, mixed, strict=True)]
    return {
        "answers equal, mixed batches and one at a time": f"{equal(together, alone)} of {len(mixed)}",
        "answers equal, one at a time and the runs themselves": f"{equal(alone, of_runs)} of {len(mixed)}",
        "correct answers of the first task (%)": 100 * statistics.fmean(correct[::2]),
        "correct answers of the second task (%)": 100 * statistics.fmean(correct[1::2]),
    }


def equal(first: Sequence[str], second: Sequence[str]) -> int:
    return sum(a == b for a, b in zip(first, second, strict=True))


@torch.no_grad()
def logits(model: LanguageModel, sessions: Sequence[TokenisedSession]) -> dict[str, Any]:
    """Compare the logits of a mixed batch with those of batches of the same shape, and of one session."""
    vectors = [embedded(model, [session])[0] for session in sessions]
    width = max(map(len, vectors))
    mixed = decode(model, vectors, width)
    same, differences = 0, []
    for index, own in enumerate(vectors):
        copies = decode(model, [own] * len(vectors), width)
        same += torch.equal(mixed[index, : len(own)], copies[index, : len(own)])
        alone = decode(model, [own], len(own))
        differences.append(float((mixed[index, : len(own)] - alone[0]).abs().max()))
    docks_equal = 0
    together = embedded(model, sessions)
    for start in (0, 1):  # sessions of the tasks alternate
        docks_equal += sum(map(torch.equal, embedded(model, sessions[start::2]), together[start::2]))
    return {
        "logits bit-identical, mixed batch and own copies": f"{same} of {len(sessions)}",
        "largest difference of logits, mixed batch and batch of 1": f"{max(differences):.1e}",
        "docks bit-identical, mixed batch and the task's batch": f"{docks_equal} of {len(sessions)}",
    }


def embedded(model: LanguageModel, sessions: Sequence[TokenisedSession]) -> list[Tensor]:
    """Input vectors of each session, its docks encoded with those of the others: ``[n, d]``."""
    batch = model.collate(sessions)
    embeds = model.model.embed(batch.decoder.input_ids, batch.docks)
    return [row[: len(session)] for row, session in zip(embeds, sessions, strict=True)]


def decode(model: LanguageModel, vectors: Sequence[Tensor], width: int) -> Tensor:
    """Logits of the decoder, padded on the right: ``[b, width, v]``."""
    padded = torch.stack([nn.functional.pad(each, (0, 0, 0, width - len(each))) for each in vectors])
    lengths = torch.tensor([len(each) for each in vectors])
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    return model.model.decoder(inputs_embeds=padded, attention_mask=mask).logits


def times(model: LanguageModel, tasks: Sequence[Sequence[EncodedPrompt]], count: int, repeats: int) -> dict[str, float]:
    """Time one batch of both tasks beside a batch for each."""
    parts = [task[:count] for task in tasks]
    both = [prompt for part in parts for prompt in part]
    seconds = alternate(
        {
            "one batch": lambda: continue_batch(model, both),
            "two batches": lambda: [continue_batch(model, part) for part in parts],
        },
        repeats,
        warmup=1,
    )
    median, low, high = ratio(seconds, "one batch", "two batches")
    return {
        "ms a session, one mixed batch": statistics.median(seconds["one batch"]) / len(both) * 1e3,
        "ms a session, a batch for each task": statistics.median(seconds["two batches"]) / len(both) * 1e3,
        "mixed against separate (x, median)": median,
        "mixed against separate (x, quarter)": low,
        "mixed against separate (x, three quarters)": high,
    }


def megabytes(*modules: nn.Module) -> float:
    return sum(each.numel() * each.element_size() for module in modules for each in module.parameters()) / 1e6


def sizes(model: LanguageModel, classes: Mapping[str, int]) -> dict[str, float]:
    """Megabytes that a task adds; adapters are added to the decoder of the model, which is of no further use."""
    metalm_model = model.model
    figures = {"decoder, MB": megabytes(metalm_model.decoder)}
    for name, count in classes.items():
        encoder, connector = metalm_model.encoders[name], metalm_model.connectors[name]
        figures[f"task {name}: encoder and connector, MB"] = megabytes(encoder, connector)
        figures[f"task {name}: connector alone, MB"] = megabytes(connector)
        head = nn.Linear(encoder.config.hidden_size, count)
        figures[f"task {name}: the encoder with a head of {count} classes, MB"] = megabytes(encoder, head)
    before = megabytes(metalm_model.decoder)
    lora = Lora(parts=["decoder"])
    add_adapters(metalm_model, {"decoder": metalm_model.decoder}, {"decoder": "all"}, lora, None, 0)
    figures[f"adapters of the decoder, rank {lora.rank}, MB"] = megabytes(metalm_model.decoder) - before
    return figures


if __name__ == "__main__":
    main()
