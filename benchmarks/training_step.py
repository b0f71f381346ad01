"""A training step of the program, compared with a bare PyTorch loop and with the obvious implementation.

*bare*: only the same modules, batch and dtype: embeddings with docked vectors inserted, the decoder with the same mask,
the head at trained positions, cross-entropy, clipping, fused AdamW.
*obvious*: one padded document window per row, full logits, masked cross-entropy.
All are measured in one run, step by step in turn.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn.functional import cross_entropy

from common import alternate, arguments, build, make_row_slots, optimiser_step, ratio, report, small_recipe
from metalm_cli.data.sampling.loader import StepRows
from metalm_cli.models.attention import decoder_mask
from metalm_cli.sessions import Batch, Row, build_row, collate
from metalm_cli.training.compute.fast_layers import use_fast_attention
from metalm_cli.training.planning.flops import batch_flops
from metalm_cli.training.step_metrics import StepMetrics
from metalm_cli.training.trainer import Trainer


def bare_loss(model: Any, batch: Batch) -> torch.Tensor:
    stream = batch.decoder
    embeds = model.decoder.get_input_embeddings()(stream.input_ids)
    flat = embeds.reshape(-1, embeds.shape[-1])
    for name, table in batch.docks.items():
        outputs = model.encoders[name](**table.inputs).last_hidden_state[table.rows, table.columns]
        flat = flat.index_copy(0, table.positions, model.connectors[name](outputs)[table.content_index].to(flat.dtype))
    mask = decoder_mask(stream, model.decoder.config, embeds.dtype)
    inputs = {} if mask is None else {"attention_mask": mask, "position_ids": stream.position_ids}
    hidden = model.decoder.base_model(
        inputs_embeds=flat.view_as(embeds), use_cache=False, **inputs
    ).last_hidden_state.flatten(0, 1)[stream.predict_at]
    logits = model.decoder.get_output_embeddings()(hidden)
    return cross_entropy(logits.float(), stream.targets)


def obvious_loss(model: Any, batch: Batch) -> torch.Tensor:
    stream = batch.decoder
    labels = torch.full_like(stream.input_ids, -100).flatten()
    labels[stream.predict_at] = stream.targets
    logits = model(input_ids=stream.input_ids, docks=batch.docks).logits
    return cross_entropy(logits.flatten(0, 1).float(), labels)


def bare_step(model: Any, optimizer: Any, batch: Batch, loss_of: Any, precision: str) -> None:
    with torch.autocast(batch.decoder.input_ids.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def one_window_per_row(rows: list[Row], objective: Any, recipe: Any, texts: list[str]) -> Batch:
    """Batch of the same text with one window per row."""
    sessions = objective.writer(recipe.data, 0).validation_windows(texts)
    built_rows = [build_row([session], counts=counts) for session, counts in sessions]
    return collate(built_rows, objective.assembly.processors, pad_id=objective.assembly.decoder_tokenizer.pad_id)


def main() -> None:
    options = arguments(__doc__ or "")
    figures: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)  # one process, both precisions
        recipe = small_recipe(train__precision=precision)
        corpus, assembly, objective = build(recipe)
        accelerator = Accelerator(
            mixed_precision={"bf16": "bf16", "fp32": "no"}[precision], cpu=not torch.cuda.is_available()
        )
        peers = {name: copy.deepcopy(assembly.model).to(accelerator.device).train() for name in ("bare", "obvious")}
        use_fast_attention(assembly, recipe, accelerator.device)  # of the program alone, as a run does
        trainer = Trainer(recipe.train, 1000, objective, objective.step_module(), accelerator)
        rows = [slot.next_row() for slot in make_row_slots(recipe, corpus, objective)]
        step_rows = StepRows(rows, {})
        (batch,) = trainer.micro_batches(step_rows)
        texts = [document.text for document in _documents(corpus, rows)]
        padded_batch = one_window_per_row(rows, objective, recipe, texts).to(accelerator.device)
        optimizers = {
            name: torch.optim.AdamW(peer.parameters(), 1e-4, betas=(0.9, 0.98), fused=True)
            for name, peer in peers.items()
        }
        meter = StepMetrics(trainer.collectives)
        bad = torch.zeros((), device=accelerator.device)

        def ours(trainer: Any = trainer, step_rows: Any = step_rows, meter: Any = meter, bad: Any = bad) -> None:
            optimiser_step(trainer, step_rows, meter, bad)

        def peer(
            name: str,
            batch: Batch,
            loss: Any,
            models: Any = peers,
            optimizers_by_name: Any = optimizers,
            precision_name: str = precision,
        ) -> Any:
            return lambda: bare_step(models[name], optimizers_by_name[name], batch, loss, precision_name)

        times = alternate(
            {
                "ours": ours,
                "bare": peer("bare", batch, bare_loss),
                "obvious": peer("obvious", padded_batch, obvious_loss),
            },
            repeats=5 if options.quick else 25,
        )
        speed, low, high = ratio(times, "ours", "bare")
        figures[f"{precision}: ours against bare (x, median)"] = speed
        figures[f"{precision}: ... middle half"] = f"{low:.3f}-{high:.3f}"
        tokens = batch.counts["source_tokens"]
        median = sorted(times["ours"])[len(times["ours"]) // 2]
        figures[f"{precision}: source tokens/s"] = tokens / median
        figures[f"{precision}: model GFLOP/s"] = batch_flops(assembly.model, batch) / median / 1e9
        obvious = sorted(times["obvious"])[len(times["obvious"]) // 2] / padded_batch.counts["source_tokens"]
        figures[f"{precision}: ours against obvious, per source token (x)"] = obvious / (median / tokens)
    report("training step", figures, options)


def _documents(corpus: Any, rows: list[Row]) -> list[Any]:
    reader = corpus.reader(lambda _: True)
    numbers = sorted({number for row in rows for number in row.numbers})
    return [reader.get(number) for number in numbers]


if __name__ == "__main__":
    main()
