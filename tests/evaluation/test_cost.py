"""Cost of an example: FLOPs as torch counts them, and what a result file records."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from metalm_cli.evaluation.answers.answer_cache import AnswerCache
from metalm_cli.evaluation.evaluator import Evaluator
from metalm_cli.evaluation.metrics.cost import CostMeter, session_flops
from metalm_cli.evaluation.results.result_writer import template_record
from metalm_cli.sessions import Causal, Docked, Session, TokenisedSession
from model_families import batch_of
from tiny_language_models import tiny_language_model

TEXT = "The girl had nine red balls and a dog, and the dog had the ball."


@pytest.mark.parametrize(
    "connector", [None, {"kind": "stack", "factor": 4}, {"kind": "queries", "length": 3, "layers": 2}]
)
def test_flops_are_those_that_torch_counts(connector) -> None:
    language_model = tiny_language_model("gpt2", "text", connector=connector)
    model = language_model.model.eval()
    session = language_model.tokenise(Session([Docked("text", TEXT), Causal("\nIs it odd? yes", trained=True)]))
    last = np.zeros(len(session), dtype=bool)
    last[-1] = True  # the head runs once
    session = TokenisedSession(session.ids, last, session.docks, session.name)
    for part in (model.decoder, model.encoders["text"]):
        part.set_attn_implementation("eager")
    model.requires_grad_(False)  # the counter's hooks fail on trained weights without a gradient
    model.losses(batch_of([[session]]))  # the first pass also measures the decoder
    with FlopCounterMode(display=False) as counter:
        model.losses(batch_of([[session]]))
    config = model.decoder.config
    masked = 2.0 * len(session) ** 2 * config.hidden_size * config.num_hidden_layers  # torch counts the masked half
    flops = session_flops(model, session)
    assert flops == pytest.approx(counter.get_total_flops() - masked, rel=0.02)
    assert flops > 2.0 * model.decoder.get_output_embeddings().weight.numel()


def test_results_record_the_cost_of_answers_that_the_model_gave(task_folder) -> None:
    language_model = tiny_language_model("gpt2", "text", connector={"kind": "stack", "factor": 4})
    task_folder.card("odd")
    tasks, _, settings = task_folder.open("odd", protocol="instruct", template="odd")
    answers = task_folder.folder / "answers.sqlite"
    costs = []
    for _ in range(2):
        (result,) = Evaluator(language_model, settings, AnswerCache(answers, "model")).evaluate(tasks)
        costs.append(template_record(result.template_results[0], "accuracy").cost)
    cost, cached = costs
    assert cached is None
    assert cost is not None
    assert cost.examples == 12
    assert cost.milliseconds > 0
    assert cost.encoder_positions > 4 * (cost.positions - 1)
    assert cost.flops is not None
    assert cost.memory is None or cost.memory >= 0


def test_an_encoder_decoder_has_no_flops() -> None:
    assert session_flops(object(), TokenisedSession(np.zeros(3, dtype=np.int64), np.zeros(3, dtype=bool))) is None


def test_cached_answers_have_no_cost() -> None:
    language_model = tiny_language_model("gpt2", "text")
    with CostMeter(language_model) as meter:
        session = language_model.tokenise(Session([Docked("text", TEXT)]))
    assert meter.cost([session], answered=0) is None
    cost = meter.cost([session], answered=1)
    assert cost is not None
    assert cost.positions == len(session)
