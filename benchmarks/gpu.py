"""The paper's language model on a GPU: tokens per second, model-FLOP utilisation, peak memory.

The decoder has 1.3 billion parameters, the encoder 366 million, of which the last two layers train. Rows have 2,048
positions, with synthetic text and the paper's spans; bf16 autocast over fp32 master weights. Utilisation is model FLOPs
(counted as in `metalm_cli.training.planning.flops`: matrix products, causal attention by half, no recomputation) over
the rate of an 8,192-wide bf16 matrix product measured in the same run. `--tiny` checks the script on a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

import metalm_cli.models  # noqa: F401  (registers the paper's stacks)
from common import machine, optimiser_step
from metalm_cli.config.schema.objectives import SemiCausal
from metalm_cli.config.schema.training import TrainingConfig
from metalm_cli.data.sampling.loader import StepRows
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.metalm import MetaLM, MetaLMConfig
from metalm_cli.models.trainable import TrainPolicy, apply_policy
from metalm_cli.objectives.language import LanguageObjective
from metalm_cli.sessions import DecoderTokenizer, Row, TextProcessor, TokenRules
from metalm_cli.training.distributed.accelerator import compile_layers
from metalm_cli.training.planning.flops import batch_flops
from metalm_cli.training.step_metrics import StepMetrics
from metalm_cli.training.trainer import Trainer

PAPER = {
    "decoder": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32},
    "encoder": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vocabulary": 61_952,
    "length": 2048,
}
TINY = {
    "decoder": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "encoder": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    "vocabulary": 512,
    "length": 512,
}


def tokenizer_of(size: int) -> PreTrainedTokenizerFast:
    """Word-level tokenizer with the words w0, w1, ..."""
    words = {f"w{index}": index for index in range(size - 4)}
    special = {"<s>": size - 4, "</s>": size - 3, "<pad>": size - 2, "<unk>": size - 1}
    backend = Tokenizer(models.WordLevel({**words, **special}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", size - 4), ("</s>", size - 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def assembly_of(shape: dict[str, Any], attention: str, device: torch.device) -> Assembly:
    """Build the model with random weights; of the encoder, the last two layers train."""
    size = shape["vocabulary"]
    tokenizer = tokenizer_of(size)
    configs = {
        "decoder": AutoConfig.for_model("metalm-decoder", vocab_size=size, **shape["decoder"]),
        "encoder": AutoConfig.for_model("metalm-encoder", vocab_size=size, **shape["encoder"]),
    }
    with torch.device(device):
        decoder = AutoModelForCausalLM.from_config(configs["decoder"], attn_implementation=attention)
        encoder = AutoModel.from_config(configs["encoder"])
    rules = TokenRules()
    config = MetaLMConfig(
        decoder_config=configs["decoder"].to_dict(),
        encoder_configs={"text": configs["encoder"].to_dict()},
        connectors={"text": {"kind": "linear", "layers": 1}},
        docking={"text": {"kind": "text", "max_length": 512, "keep_special": False}},
        tokens=rules.to_dict(),
    )
    model = MetaLM(config, decoder, {"text": encoder}).to(device)
    policy = {"decoder": TrainPolicy(), "encoders.text": TrainPolicy("last_2"), "connectors.text": TrainPolicy()}
    assembly = Assembly(
        model, DecoderTokenizer(tokenizer, rules), {"text": TextProcessor("text", tokenizer, 512)}, policy
    )
    apply_policy(assembly.parts(), policy)
    return assembly


def rows_of(objective: LanguageObjective, data: Any, count: int, words: int) -> list[Row]:
    """Rows of random words, from documents of about 800 words."""
    from metalm_cli.data.sampling.row_slots import RowSlot

    class RandomDocuments:
        def get(self, number: int) -> Any:
            rng = np.random.default_rng(number)
            length = int(rng.integers(200, 1400))

            class Document:
                text = " ".join(f"w{word}" for word in rng.integers(0, words, length))

            return Document

    writer = objective.writer(data, 0)
    return [RowSlot(index, count, RandomDocuments(), writer).next_row() for index in range(count)]


def matrix_rate(device: torch.device, size: int) -> float:
    """FLOP/s of a bf16 matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    _sync(device)
    start = time.perf_counter()
    for _ in range(10):
        a @ b
    _sync(device)
    return 10 * 2 * size**3 / (time.perf_counter() - start)


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(shape: dict[str, Any], options: argparse.Namespace, **configuration: Any) -> dict[str, Any]:
    """Tokens per second and peak memory of one configuration."""
    from metalm_cli.config.schema.data import DataConfig

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision="bf16", cpu=not torch.cuda.is_available())
    device = accelerator.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    assembly = assembly_of(shape, configuration["attention"], device)
    if configuration["compile"]:
        compile_layers(assembly)
    if configuration["recompute"]:
        assembly.model.gradient_checkpointing_enable()
    source = {"name": "words", "world": {"documents": 1}}
    data = DataConfig(sources=[source], sequence_length=shape["length"], isolate_documents=configuration["isolate"])
    objective = LanguageObjective(SemiCausal(name="semi_causal"), assembly)
    train = TrainingConfig(steps=100, batch_size=options.rows, precision="bf16")
    trainer = Trainer(train, 100, objective, objective.step_module(), accelerator, shape["length"])
    rows = StepRows(rows_of(objective, data, options.rows, shape["vocabulary"] - 4), {})
    meter, bad = StepMetrics(trainer.collectives), torch.zeros((), device=device)
    flops = tokens = 0.0
    for repetition in range(options.steps + 3):
        if repetition == 3:
            _sync(device)
            start = time.perf_counter()
        batches, bad = optimiser_step(trainer, rows, meter, bad)
        if repetition >= 3:
            flops += sum(batch_flops(assembly.model, batch) for batch in batches)
            tokens += sum(batch.counts["source_tokens"] for batch in batches)
    _sync(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    return {"tokens/s": tokens / seconds, "model TFLOP/s": flops / seconds / 1e12, "peak GiB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a small model, to check the script")
    parser.add_argument("--quick", action="store_true", help="the same as --tiny")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tiny = options.tiny or options.quick
    if not tiny and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a GPU; --tiny checks the script on a CPU")
        return
    shape = TINY if tiny else PAPER
    if tiny:
        options.rows, options.steps = 2, 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matrix_rate(device, 512 if tiny else 8192)
    print(f"{machine()}\nbf16 matrix product: {peak / 1e12:.2f} TFLOP/s")
    kinds = ("sdpa",) if device.type == "cpu" else ("sdpa", "flex_attention")
    results = []
    for attention, compiled, isolate in itertools.product(kinds, (False, True), (False, True)):
        if device.type == "cpu" and compiled:
            continue
        configuration = {"attention": attention, "compile": compiled, "isolate": isolate, "recompute": False}
        try:
            figures = measure(shape, options, **configuration)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            figures = {"error": str(error).splitlines()[0][:120]}
        if "model TFLOP/s" in figures:
            figures["utilisation"] = figures["model TFLOP/s"] * 1e12 / peak
        results.append({**configuration, **figures})
        print(json.dumps(results[-1]))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "matrix": peak, "results": results}, indent=2))


if __name__ == "__main__":
    main()
