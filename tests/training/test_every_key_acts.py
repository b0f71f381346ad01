"""Every key of a recipe acts: two values give different models, optimisers, rows, plans or records, or are refused.

The keys come from the schema, so that a new key fails here until it has two values or a reason.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_runs as micro
from metalm_cli.common.signals import StopSignals
from metalm_cli.config import resolve, schema_types
from metalm_cli.config.schema.recipes import RECIPES
from metalm_cli.errors import MetalmError
from task_fixtures import write_task
from tiny_seq2seq import save_seq2seq

REASONS = {
    "command": "selects the schema",
    "extends": "is replaced by the layers that it names: tests/config/test_resolution.py",
    "description": "is printed by metalm recipe list: tests/cli/test_recipe.py",
    "data.sources.0.hub": "reads the hub: tests/common/test_datasets.py",
    "data.sources.0.config": "reads the hub: tests/common/test_datasets.py",
    "data.sources.0.split": "reads the hub: tests/common/test_datasets.py",
    "model.decoder.revision": "reads the hub: tests/common/test_models.py",
    "data.validation.sources.0.streaming": "does not change which documents are the first of a source",
    "model.encoders.text.adapter": "has one value of metalm for each encoder: tests/test_plugins_page.py",
    "model.encoders.text.image_size": "needs an encoder of images: tests/models/test_image_encoders.py",
    "train.optimizer": "has a single value",
    "train.compile": "does not change results",
    "train.cache_encoders": "changes results by rounding: tests/training/test_cached_encoders.py",
    "train.encoder_cache_gb": "does not change results: tests/training/test_cached_encoders.py",
    "data.workers": "does not change rows: tests/data/test_loader.py",
    "data.broken_images": "acts on images: tests/training/test_image_tasks.py",
    "data.answer_sampling": "acts on examples with several answers: tests/data/test_task_corpus.py",
    "data.truncate": "acts on long fields: tests/data/test_truncation.py",
    "data.long_field_tokens": "acts on long fields: tests/data/test_truncation.py",
    "dangerous.trust_remote_code": "needs a checkpoint with code",
    **{
        f"stages.0.{key}": "sets keys of a stage: tests/training/test_stages.py"
        for key in ("name", "command", "model", "data", "objective", "train")
    },
}
"""Keys without two values, and why. Keys of encoders, validation sources and revisions follow from these."""
SAME_REASON = {
    "model.seq2seq.revision": "model.decoder.revision",
    "model.encoders.text.revision": "model.decoder.revision",
    "data.sources.0.revision": "data.sources.0.hub",
}

POLICY = {"trains": ("null", "last_1"), "learning_rate": ("null", "2e-3")}
CONNECTOR = {
    "kind": ("linear", "mlp"),
    "layers": ("2", "3"),
    "factor": ("2", "3"),
    "length": ("2", "3"),
    "heads": ("2", "4"),
    "trains": ("null", "none"),
    "learning_rate": POLICY["learning_rate"],
}
CONNECTOR_KINDS = {
    "layers": ["kind=mlp"],
    "factor": ["kind=stack"],
    "length": ["kind=queries"],
    "heads": ["kind=queries", "length=2"],
}
"""Other keys that a key of a connector needs."""
NEW_TOKENIZER = {"tokenizer.new.vocab_size": ("400", "350"), "tokenizer.new.documents": ("100", "50")}
DECODER = {
    **POLICY,
    **NEW_TOKENIZER,
    "checkpoint": ("FOLDER/decoder-0", "FOLDER/decoder-1"),
    "config.n_layer": ("2", "1"),
    "dropout": ("0.0", "0.2"),
    "attention": ("auto", "eager"),
}
SEQ2SEQ = {
    **POLICY,
    **NEW_TOKENIZER,
    "checkpoint": ("FOLDER/seq2seq-0", "FOLDER/seq2seq-1"),
    "config.num_layers": ("2", "1"),
    "dropout": ("0.0", "0.2"),
    "attention": ("auto", "eager"),
}
SEQ2SEQ_MODEL = "{config: {model_type: t5, d_model: 32, d_kv: 8, d_ff: 48, num_layers: 2, num_heads: 4}, dropout: 0.0}"
ENCODER = {
    **POLICY,
    **NEW_TOKENIZER,
    "checkpoint": ("FOLDER/encoder-0", "FOLDER/encoder-1"),
    "config.num_hidden_layers": ("2", "1"),
    "dropout": ("0.0", "0.2"),
    "max_length": ("null", "32"),
    "keep_special": ("false", "true"),
    "layer": ("-1", "-2"),
    **{f"connector.{key}": values for key, values in CONNECTOR.items()},
}
MODEL = {
    "checkpoint": ("FOLDER/model", "FOLDER/model-1"),
    "trains.decoder": POLICY["trains"],
    "trains.encoders": POLICY["trains"],
    "trains.connectors": ("all", "none"),
    "trains.seq2seq": POLICY["trains"],
    **{f"learning_rates.{kind}": POLICY["learning_rate"] for kind in ("decoder", "encoders", "connectors", "seq2seq")},
    # Keys of dual encoders are refused here; tests/training/test_contrastive.py tries them where they act.
    "trains.logit_scale": ("all", "none"),
    "learning_rates.logit_scale": POLICY["learning_rate"][1:] * 2,
    "projection_dim": ("16", "32"),
    "encoders.text.pooling": ("mean", "class"),
    "special_tokens.start": ("auto", "never"),
    "special_tokens.document": ("eos", "e"),
    "special_tokens.paragraph": ("newline", "e"),
    "special_tokens.target_delimiter": ("' '", "': '"),
    **{f"decoder.{key}": values for key, values in DECODER.items()},
    **{f"encoders.text.{key}": values for key, values in ENCODER.items()},
    **{f"connector.{key}": values for key, values in CONNECTOR.items()},
    **{f"seq2seq.{key}": values for key, values in SEQ2SEQ.items()},
    "lora.parts": ("[decoder]", "[encoders]"),
    "lora.rank": ("2", "4"),
    "lora.alpha": ("8.0", "4.0"),
    "lora.dropout": ("0.0", "0.1"),
    "lora.learning_rate": POLICY["learning_rate"],
    "lora.targets": ("[all-linear]", "[dense, c_attn]"),
}
SOURCE = {
    "name": ("{name: a, world: {documents: 60}}", "{name: b, world: {documents: 60}}"),
    "path": ("{name: a, path: FOLDER/0.jsonl}", "{name: a, path: FOLDER/1.jsonl}"),
    "world.documents": ("{name: a, world: {documents: 60}}", "{name: a, world: {documents: 1}}"),
    "world.seed": ("{name: a, world: {documents: 60, seed: 0}}", "{name: a, world: {documents: 60, seed: 1}}"),
    "text": ("{name: a, path: FOLDER/0.jsonl, text: text}", "{name: a, path: FOLDER/0.jsonl, text: other}"),
    "exclude": ("{name: a, path: FOLDER/0.jsonl}", "{name: a, path: FOLDER/0.jsonl, exclude: {half: [0]}}"),
    "streaming": ("{name: a, path: FOLDER/0.jsonl}", "{name: a, path: FOLDER/0.jsonl, streaming: true}"),
    "weight": tuple(
        f"{{name: a, path: FOLDER/0.jsonl, weight: 1}}, {{name: b, path: FOLDER/1.jsonl, weight: {weight}}}"
        for weight in (1, 9)
    ),
}
SEMI_CAUSAL = "{name: semi_causal, span_length: [4, 8], span_fraction: 0.25}"
SPANS = {
    "name": (SEMI_CAUSAL, "{name: prefix, prefix_length: [4, 8]}"),
    "span_length": (SEMI_CAUSAL, SEMI_CAUSAL.replace("[4, 8]", "[6, 8]")),
    "span_fraction": (SEMI_CAUSAL, SEMI_CAUSAL.replace("0.25", "0.5")),
    "prefix_length": ("{name: prefix, prefix_length: [4, 8]}", "{name: prefix, prefix_length: [6, 9]}"),
}
PREFIX = "{name: prefix, prefix_length: [4, 8]}"
RECONSTRUCT = "{name: reconstruct, span_length: [4, 8], mark: ':'}"
MIXED = (
    "{name: mixed, continuation: CONTINUATION, reconstruction: {span_length: [4, 8], mark: ':'}, "
    "reconstruction_share: 0.5}"
)
ALIGNMENT = {
    "mark": (RECONSTRUCT, RECONSTRUCT.replace("':'", "'=='")),
    **{
        f"continuation.{name}": tuple(MIXED.replace("CONTINUATION", value) for value in values)
        for name, values in SPANS.items()
    },
    **{
        name: tuple(MIXED.replace("CONTINUATION", PREFIX).replace(value, changed) for changed in (value, other))
        for name, value, other in (
            ("reconstruction.span_length", "{span_length: [4, 8]", "{span_length: [6, 9]"),
            ("reconstruction.mark", "':'", "'=='"),
            ("reconstruction_share", "share: 0.5", "share: 0.1"),
        )
    },
}
MASKS = {
    "mask_rate": ("mlm", "0.15", "0.3"),
    "keep_rate": ("mlm", "0.1", "0.5"),
    "random_rate": ("mlm", "0.1", "0.5"),
    "generator_size": ("rtd", "0.5", "1.0"),
    "discriminator_weight": ("rtd", "50.0", "5.0"),
}
TEMPLATES = {
    "collection": ("FOLDER/words", "plain"),
    "template_sampling": ("first", "index"),
    "templates_per_task": ("null", "1"),
    "inverted": ("true", "false"),
    "show_options": ("true", "false"),
    "rationales": ("false", "true"),
    "input_route": ("template", "decoder"),
}
TASK_DATA = {
    "tasks": ("[FOLDER/parity.yaml]", "[FOLDER/long.yaml]"),
    "cards": ("[]", "[FOLDER/more]"),
    "all_cards": ("false", "true"),
    **{f"templates.{key}": values for key, values in TEMPLATES.items()},
    "demonstrations.shots": ("[0, 0]", "[1, 1]"),
    "demonstrations.demonstration_layout": ("docks", "joined"),
    "demonstrations.max_tokens": ("null", "20"),
    "mixture.strategy": ("proportional", "equal"),
    "mixture.cap_examples": ("30000", "5"),
    "mixture.max_rate": ("null", "5"),
    "mixture.temperature": ("1.0", "3.0"),
    "mixture.weights": ("{parity: 1, long: 1}", "{parity: 1, long: 5}"),
    "mixture.groups.0.tasks": ("[{tasks: [parity], weight: 1}]", "[{tasks: [long], weight: 1}]"),
    "mixture.groups.0.weight": tuple(
        f"[{{tasks: [parity], weight: 1}}, {{tasks: [long], weight: {weight}}}]" for weight in (1, 5)
    ),
    "mixture.groups.0.strategy": tuple(
        f"[{{tasks: [parity, long], weight: 1, strategy: {strategy}}}]" for strategy in ("proportional", "equal")
    ),
    "hold_out": ("[]", "[held]"),
    "decontaminate": ("drop", "report"),
    "on_missing_data": ("fail", "skip"),
    "sequence_length": ("128", "64"),
    "row_packing": ("auto", "pad"),
    "encoder_tokens": ("null", "16"),
    "long_inputs": ("truncate", "windows"),
    "match_input_lengths_of.0.tokenizer": tuple(
        f"[{{tokenizer: FOLDER/{folder}, length: 40}}]" for folder in ("encoder-0", "encoder-1")
    ),
    "match_input_lengths_of.0.length": tuple(
        f"[{{tokenizer: FOLDER/encoder-0, length: {length}}}]" for length in (40, 60)
    ),
    "validation.examples": ("2", "4"),
    "validation.tokens_per_task": ("20000", "60"),
    "validation.role": ("validation", "train"),
}
EVALUATE = {
    "suite": ("null", "no-such-suite"),
    "tasks": ("[FOLDER/parity.yaml]", "[FOLDER/long.yaml]"),
    "every": ("null", "1"),
    "limit": ("2", "3"),
    "best_by": ("null", "mean"),
    "shots": ("null", "[1]"),
    "protocol": ("null", "instruct"),
    "templates": ("FOLDER/words", "plain"),
    "template": ("null", "question-first"),
    "split": ("null", "train"),
}
TRAIN = {
    "steps": ("4", "3"),
    "epochs": ("1.0", "2.0"),
    "batch_size": ("4", "2"),
    "micro_batch_size": ("null", "2"),
    "learning_rate": ("3e-3", "2e-3"),
    "pretrained_learning_rate.decoder": ("1e-4", "2e-4"),
    "pretrained_learning_rate.encoders": ("1e-4", "2e-4"),
    "pretrained_learning_rate.seq2seq": ("1e-4", "2e-4"),
    "weight_decay": ("0.01", "0.1"),
    "betas": ("[0.9, 0.98]", "[0.9, 0.99]"),
    "epsilon": ("1e-8", "1e-4"),
    "gradient_clip": ("1.0", "1e-3"),
    "schedule": ("linear", "constant"),
    "warmup_steps": ("2", "0"),
    "precision": ("fp32", "bf16"),
    "checkpoint_activations": ("false", "true"),
    "seed": ("0", "1"),
    "max_time": ("null", "0.0001s"),
    "log_every": ("1", "2"),
    "validate_every": ("0", "1"),
    "dock_worth_sessions": ("200", "0"),
    "checkpoint_every": ("0", "1"),
    "keep_checkpoints": ("2", "1"),
    "sample_continuations": ("0", "1"),
    "trackers": ("[]", "[tensorboard]"),
    "loss_average": ("token", "example"),
    "patience": ("null", "1"),
    "final": ("last", "best"),
    "distill.weight": ("2.0", "1.0"),
    "distill.teacher": ("current", "base"),
    **{f"evaluate.{key}": values for key, values in EVALUATE.items()},
}
TOO_FAST = ["train.learning_rate=5.0", "train.pretrained_learning_rate={decoder: null, encoders: null}"]
GIVEN = {
    "train.epochs": ["train.steps=null", "train.warmup_steps=0"],
    "train.keep_checkpoints": ["train.checkpoint_every=1"],
    "train.sample_continuations": ["train.validate_every=2"],
    "train.pretrained_learning_rate.seq2seq": [
        "model.checkpoint=FOLDER/seq2seq-0",
        "objective={name: prefix, prefix_length: [4, 8]}",
    ],
    "train.patience": ["train.validate_every=1", *TOO_FAST, "train.steps=8"],
    "train.final": ["train.validate_every=1", *TOO_FAST],
    "data.templates.templates_per_task": ["data.templates.template_sampling=index"],
    "data.templates.inverted": ["data.templates.template_sampling=index"],
    "data.templates.rationales": ["data.tasks=[FOLDER/reasons.yaml]", "data.templates.collection=FOLDER/words"],
    "data.demonstrations.demonstration_layout": ["data.demonstrations.shots=[1, 1]", "data.tasks=[FOLDER/short.yaml]"],
    "data.demonstrations.max_tokens": ["data.demonstrations.shots=[2, 2]", "data.tasks=[FOLDER/short.yaml]"],
    "data.cards": ["data.tasks=[held]"],
    "data.all_cards": [
        "data.templates.collection=plain",
        "data.tasks=[sentiment]",
        "data.cards=[FOLDER/more]",
        "data.on_missing_data=skip",
    ],
    "data.on_missing_data": ["data.tasks=[FOLDER/parity.yaml, FOLDER/absent.yaml]"],
    "data.mixture.weights": ["data.mixture.strategy=explicit"],
    "data.hold_out": ["data.cards=[FOLDER/more]"],
    "data.decontaminate": ["data.cards=[FOLDER/more]", "data.hold_out=[held]"],
    "data.encoder_tokens": ["data.row_packing=pack"],
    "data.sources.0.text": ["data.validation.documents=0"],
}
"""Other keys that a key needs."""
RECIPE = {
    "pretrain": micro.RECIPE,
    "finetune": "command: finetune\n"
    + micro.MODEL.replace("n_positions: 64", "n_positions: 128").replace("embeddings: 64", "embeddings: 96")
    + """  trains: {decoder: all, encoders: all, connectors: all}
data:
  tasks: [FOLDER/parity.yaml, FOLDER/long.yaml]
  templates: {collection: FOLDER/words}
  sequence_length: 128
  validation: {examples: 2}
train: {steps: 4, batch_size: 4, learning_rate: 3e-3, warmup_steps: 2, precision: fp32, log_every: 1,
  validate_every: 0, checkpoint_every: 0, sample_continuations: 0}
""",
}
RECIPE["instruct"] = RECIPE["finetune"].replace("command: finetune", "command: instruct")
LOOP_KEYS = {
    *("train.gradient_clip", "train.precision", "train.seed", "train.max_time", "train.log_every"),
    *(
        "train.dock_worth_sessions",
        "train.validate_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.sample_continuations",
    ),
    *("train.distill.weight", "train.distill.teacher"),
    *("train.trackers", "train.loss_average", "train.patience", "train.final"),
    *(f"train.evaluate.{key}" for key in EVALUATE),
}
"""Keys that only the training loop reads: their effect is seen in a run of a few steps."""
SCENARIOS = {
    "pretrain parts": ("pretrain", [], ("model",)),
    "pretrain checkpoint": (
        "pretrain",
        ["model.checkpoint=FOLDER/model", "train.steps=4"],
        ("model", "data", "objective", "train"),
    ),
    "finetune parts": ("finetune", [], ("model",)),
    "finetune checkpoint": ("finetune", ["model.checkpoint=FOLDER/model"], ("model", "objective", "train")),
    "finetune adapters": ("finetune", ["model.checkpoint=FOLDER/model", "model.lora={rank: 2}"], ("model",)),
    "instruct checkpoint": ("instruct", ["model.checkpoint=FOLDER/model"], ("data",)),
    "instruct adapters": ("instruct", ["model.checkpoint=FOLDER/model", "model.lora={rank: 2}"], ("model",)),
}
"""Command, overrides and sections of the keys that are tried. ``data`` and ``train`` do not depend on the model."""


def keys_of(command: str) -> list[str]:
    """Keys of a command's recipe that hold values, with the names and objectives of these tests."""
    keys = [key for key, *_ in schema_types.walk_keys(RECIPES[command])]
    leaves = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    return [key.replace("NAME", "text") for key in leaves]


def reason_of(key: str) -> str | None:
    if key in REASONS:
        return REASONS[key]
    key = key.replace("data.validation.sources", "data.sources")
    return REASONS.get(SAME_REASON.get(key, key))


def values_of(key: str, command: str) -> tuple[list[str], list[str]]:
    """Overrides that set a key to two values."""
    section, _, name = key.partition(".")
    source = "data.validation.sources" if key.startswith("data.validation.sources.") else "data.sources"
    if section == "model":
        name = {"decoder.config": "decoder.config.n_layer"}.get(name, name)
        name = {"encoders.text.config": "encoders.text.config.num_hidden_layers"}.get(name, name)
        name = {"seq2seq.config": "seq2seq.config.num_layers"}.get(name, name)
        first, second = MODEL[name]
        key = f"model.{name}"
    elif key.startswith(f"{source}.0."):
        name = key.removeprefix(f"{source}.0.")
        first, second = (f"[{value}]" for value in SOURCE[name])
        key = source
    elif section == "objective" and command != "pretrain":
        first, second = "answers", "contrastive"
    elif key.startswith("data.validation.objective.") or (section == "objective" and name in SPANS):
        key, _, name = key.rpartition(".")
        first, second = SPANS[name]
    elif section == "objective" and name in ALIGNMENT:
        first, second = ALIGNMENT[name]
        key = "objective"
    elif section == "objective":
        objective, *values = MASKS[name]
        first, second = (f"{{name: {objective}, {name}: {value}}}" for value in values)
        key = "objective"
    elif section == "data" and command == "pretrain":
        first, second = PRETRAIN_DATA[name]
    else:
        first, second = {"data": TASK_DATA, "train": TRAIN}[section][name]
        key = key.partition(".0.")[0]
    return [f"{key}={first}"], [f"{key}={second}"]


PRETRAIN_DATA = {
    "validation.documents": ("2", "3"),
    "validation.hold_out_every": ("20", "2"),
    "sequence_length": ("64", "48"),
    "isolate_documents": ("true", "false"),
}


def given_overrides(key: str) -> list[str]:
    """Other keys that a key needs to have an effect."""
    needed = list(GIVEN.get(key, []))
    section, *names = key.split(".")
    if names[0] == "seq2seq":
        tokenizer = "model.seq2seq.tokenizer={new: {vocab_size: 400, documents: 100}}"
        needed += [f"model.seq2seq={SEQ2SEQ_MODEL}", tokenizer, "objective={name: prefix, prefix_length: [4, 8]}"]
    if names[-1:] == ["trains"]:
        kind = "connectors" if "connector" in names else names[0]
        needed.append(f"model.trains.{kind}=null")
    if names[-2:-1] == ["connector"] and names[-1] in CONNECTOR_KINDS:
        connector = key.rpartition(".")[0]
        needed += [f"{connector}.{override}" for override in CONNECTOR_KINDS[names[-1]]]
    if section == "objective" and names[0] in MASKS:
        needed += [*micro.ENCODER_ONLY, "model.checkpoint=null", "model.encoders.text=ENCODER"]
    if key.startswith("train.evaluate."):
        others = {"tasks": "[FOLDER/parity.yaml]", "templates": "FOLDER/words", "every": "2"}
        needed += [f"train.evaluate.{name}={value}" for name, value in others.items() if name != names[1]]
    return needed


# -- outcomes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, documents and tasks that the recipes name."""
    from metalm_cli.models.checkpoint_io import save_model
    from metalm_cli.training.first_rows import prepare

    folder = tmp_path_factory.mktemp("keys")
    for seed, name in enumerate(("model", "model-1")):
        recipe = micro.write_recipe(folder, RECIPE["pretrain"].replace("embeddings: 64", "embeddings: 96"))
        overrides = [f"train.seed={seed}", f"model.decoder.tokenizer.new.vocab_size={400 - 20 * seed}"]
        overrides += [f"model.encoders.text.tokenizer.new.vocab_size={400 - 40 * seed}"]
        overrides += ["model.decoder.config.n_positions=128"]
        _, assembly = prepare(resolve("pretrain", str(recipe), overrides).recipe, None, True)
        (folder / name).mkdir()
        save_model(folder / name, assembly.model, assembly.decoder_tokenizer, assembly.processors)
        assembly.model.decoder.save_pretrained(folder / f"decoder-{seed}")
        assembly.decoder_tokenizer.tokenizer.save_pretrained(folder / f"decoder-{seed}")
        assembly.model.encoders["text"].save_pretrained(folder / f"encoder-{seed}")
        assembly.processors["text"].tokenizer.save_pretrained(folder / f"encoder-{seed}")  # type: ignore[attr-defined]
        save_seq2seq("t5", folder / f"seq2seq-{seed}", seed=seed)
        rows = [{"text": f"A {seed} fox {n} hid. " * 9, "other": f"{n} rains", "half": n % 2} for n in range(60)]
        (folder / f"{seed}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_task(folder, "parity", 24, cluster="nli")
    write_task(folder, "long", 48, words=60)
    write_task(folder, "short", 24, words=-2)
    card = write_task(folder, "reasons", 16)
    card.write_text(card.read_text().replace("{label: label", "{rationale: question, label: label"))
    card = write_task(folder, "absent", 16)
    (folder / "absent.jsonl").unlink()
    write_task(folder / "more", "held", 16, cluster="sentiment", words=60, train=4)
    (folder / "more" / "words" / "held.yaml").rename(folder / "words" / "held.yaml")
    for command, text in RECIPE.items():
        micro.write_recipe(folder, text.replace("FOLDER", str(folder)), f"{command}.yaml")
    return folder


class Outcomes:
    """What a recipe makes, before training or after a few steps; equal for recipes whose keys have no effect."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.assemblies: dict[str, Any] = {}
        self.known: dict[tuple[Any, ...], str] = {}

    def __call__(self, command: str, overrides: list[str], key: str) -> str:
        """Describe the outcome; that of a refused recipe is the error."""
        section = "loop" if key in LOOP_KEYS else key.partition(".")[0]
        try:
            recipe = resolve(command, str(self.folder / f"{command}.yaml"), self._filled(overrides)).recipe
            name = (section, repr(recipe))
            if name not in self.known:
                self.known[name] = getattr(self, f"_{section}")(recipe)
            return self.known[name]
        except MetalmError as error:
            return f"refused: {error}"

    def _filled(self, overrides: list[str]) -> list[str]:
        encoder = f"{{checkpoint: {self.folder}/encoder-0}}"
        return [text.replace("FOLDER", str(self.folder)).replace("=ENCODER", f"={encoder}") for text in overrides]

    def _model(self, recipe: Any) -> str:
        from metalm_cli.miniworld import generate_document
        from metalm_cli.models.assembly import build_from_recipe
        from metalm_cli.training.optim import make_optimizer

        texts = [generate_document(0, number).text for number in range(100)]
        assembly = build_from_recipe(recipe, lambda count: iter(texts[:count]), offline=True)
        model = assembly.model
        optimizer = make_optimizer(assembly.parts(), assembly.policy, recipe.train)
        groups = [
            (group["name"], group["lr"], sum(map(torch.numel, group["params"]))) for group in optimizer.param_groups
        ]
        modules = [
            (name, getattr(module, "p", None), getattr(module, "scaling", None))
            for name, module in model.named_modules()
            if "dropout" in name.lower() or hasattr(module, "scaling")
        ]
        configs = [getattr(part, "config", None) for part in assembly.parts().values()]
        attention = [config._attn_implementation for config in configs if config is not None]
        tokenizers = [assembly.decoder_tokenizer.tokenizer, *(p.tokenizer for p in assembly.processors.values())]
        vocabularies = [sorted(tokenizer.get_vocab().items()) for tokenizer in tokenizers]
        docks = [(processor.max_length, processor.keep_special) for processor in assembly.processors.values()]
        weights = sum(float(parameter.double().abs().sum()) for parameter in model.parameters())
        rules = assembly.decoder_tokenizer.rules
        return repr((groups, modules, attention, vocabularies, docks, weights, rules, model.config.connectors))

    def _run(self, recipe: Any, out: Path | None = None) -> Any:
        """Make a run on a copy of the model, which is assembled once for each ``model`` section."""
        from metalm_cli.models.assembly import build_from_recipe
        from metalm_cli.training.finetuning import Finetuning
        from metalm_cli.training.planning.task_plan import sample_sessions
        from metalm_cli.training.pretraining import Pretraining
        from metalm_cli.training.run_options import RunCallbacks, RunOptions

        micro.reset_accelerator()
        self.previews: list[int] = []

        def preview(_: Any, texts: list[Any]) -> list[tuple[str, str]]:
            self.previews.append(len(texts))
            return []

        callbacks = RunCallbacks(lambda *_: None, preview, lambda _: None)
        kind = Pretraining if recipe.command == "pretrain" else Finetuning
        run = kind(recipe, "", RunOptions("keys", out, offline=True, data_root=self.folder), callbacks)
        name = repr((recipe.model, recipe.objective.name))
        if name not in self.assemblies:
            self.assemblies[name] = build_from_recipe(recipe, lambda _: iter(()), offline=True)
        run.__dict__["assembly"] = copy.deepcopy(self.assemblies[name])
        if isinstance(run, Finetuning):
            run.__dict__["sampled_sessions"] = sample_sessions(run.session_builder, 12)
        return run

    def _data(self, recipe: Any) -> str:
        from metalm_cli.data.sampling.loader import loader
        from metalm_cli.training.trainer import TrainerState

        run = self._run(recipe)
        run.prepare()
        rows = loader(run.make_dataset(SimpleNamespace(state=TrainerState())), 0)
        first_rows = [row for step in itertools.islice(rows, 4) for row in step.rows]
        terms = run.root(run.objective.collate(first_rows))
        losses = {name: (float(term.sum) > 0, term.coefficient) for name, term in terms.items()}
        described = [
            [
                (row.ids.tolist(), row.targets.tolist(), row.parents.tolist(), [d.key for _, d in row.docks])
                for row in rows
            ]
            for rows in (first_rows, run.validation_rows)
        ]
        packing = getattr(run, "packing", None)
        if packing is not None:  # as on a GPU, where rows have their full length
            on_a_gpu = replace(packing, shorten_rows=False, one_row=False)
            described.append([len(row) for row in on_a_gpu.rows(run.sampled_sessions)])
        return repr((run.plan, described, losses))

    _objective = _data

    def _train(self, recipe: Any) -> str:
        from metalm_cli.training.optim import make_optimizer, schedule

        run = self._run(recipe)
        run.prepare()
        optimizer = make_optimizer(run.assembly.parts(), run.assembly.policy, run.recipe.train)
        groups = [{**group, "params": len(group["params"])} for group in optimizer.param_groups]
        factors = [schedule(run.recipe.train, step, run.plan.steps) for step in range(run.plan.steps)]
        modules = [getattr(module, "gradient_checkpointing", None) for module in run.root.modules()]
        return repr((run.plan.batch_shape, groups, factors, modules))

    def _loop(self, recipe: Any) -> str:
        out = self.folder / f"run-{len(self.known)}"
        run = self._run(recipe, out)
        code = run.run(StopSignals())
        files = sorted(str(path.relative_to(out)) for path in out.glob("**/*"))
        weights = out / "model" / "model.safetensors"
        total = sum(float(value.double().sum()) for value in load_file(weights).values()) if weights.exists() else None
        opened = None if run.evaluated_tasks is None else run.evaluated_tasks.opened
        tasks = () if opened is None else [(task.source.role, task.templates, task.examples) for task in opened.tasks]
        settings = None if opened is None else opened.settings
        state = micro.checkpoint(out, max(record["step"] for record in micro.records(out)))["state"]
        return repr((code, micro.records(out, ""), files, self.previews, total, tasks, settings, state["best_step"]))


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcomes:
    return Outcomes(folder)


def tried_keys() -> Iterator[tuple[str, str]]:
    for scenario, (command, _, sections) in SCENARIOS.items():
        for key in keys_of(command):
            if key.partition(".")[0] in sections and reason_of(key) is None:
                yield scenario, key


def test_every_key_has_two_values_or_a_reason() -> None:
    tried = {(SCENARIOS[scenario][0], key) for scenario, key in tried_keys()}
    for command in RECIPES:
        same = "finetune" if command == "instruct" else command
        untried = [key for key in keys_of(command) if not {(command, key), (same, key), ("instruct", key)} & tried]
        assert [key for key in untried if reason_of(key) is None] == []
    assert keys_of("instruct") == keys_of("finetune")
    reasoned = {key for command in RECIPES for key in keys_of(command)}
    assert REASONS.keys() <= reasoned, "a reason for a key that does not exist"


@pytest.mark.parametrize(("scenario", "key"), list(tried_keys()), ids=lambda value: value.replace(" ", "-"))
def test_two_values_make_a_difference(scenario: str, key: str, outcome: Callable[..., str]) -> None:
    command, overrides, _ = SCENARIOS[scenario]
    values = values_of(key, command)
    needed = [text for text in given_overrides(key) if command == "pretrain" or not text.startswith("objective=")]
    first, second = (outcome(command, [*overrides, *needed, *value], key) for value in values)
    if first.startswith("refused") and second.startswith("refused"):
        assert ".".join(key.split(".")[:2]) in first, "the error names the key or its section"
    else:
        assert first != second, "the key has no effect"
